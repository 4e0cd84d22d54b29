"""Mailboxes in use by everybody at once: no UID changes, nothing is lost, nothing is there twice, octets stay.

100,000 operations and 200 kills: EGRESSGUARD_RACE=100000, EGRESSGUARD_KILLS=200 (`make system`).
"""

from __future__ import annotations

import asyncio
import contextlib
import grp
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from egressguard.mailbox.backup.backups import Backups
from egressguard.mailbox.backup.restore import restore_all
from egressguard.mailbox.delivery import MaildirDelivery
from egressguard.mailbox.deposit import Deposit
from egressguard.mailbox.takeover.uid_lists import base_of, parse_dovecot
from egressguard.mailbox.takeover.verify import as_shown
from egressguard.policy.model import Policy
from egressguard.quarantine.hold import Quarantine
from egressguard.quarantine.order import DELETE, EXPIRE, RELEASE, Order
from egressguard.quarantine.showing import Showing
from egressguard.quarantine.views import Views
from egressguard.relay.held import held_facts
from egressguard.store.content import Content
from egressguard.store.queue_id import random_queue_id
from egressguard.store.spool import SqliteSpool
from tests.access.race import CLASSES, CLIENTS, EXPIRED, FOLDERS, Client, World, append, content, everything, number_of
from tests.quarantine.test_quarantine import DECISION, REPORT

OPERATIONS = int(os.environ.get("EGRESSGUARD_RACE", "500"))
KILLS = int(os.environ.get("EGRESSGUARD_KILLS", "2"))
POLICY = Policy.model_validate({"site": {"zones": {}}})


def deposit(queue_id, octets):
    paths = ("x@example.net", "anna@example.org")
    return Deposit("anna", "INBOX", queue_id, *paths, Content.of(octets), is_again=True)


def delivery_to(house):
    return MaildirDelivery(house.directory / "mailboxes", grp.getgrnam(house.group).gr_gid)


def deliver(house, world):
    """Our delivery; twice, as after a crash, some that nobody removes: what is gone by then comes again, and may."""

    async def work():
        delivery, count = delivery_to(house), 0
        while True:
            number = world.next_number()
            queue_id = random_queue_id(time.time())
            for _ in range(2 if number % CLASSES > EXPIRED and count % 3 == 0 else 1):
                outcome = await delivery.store(POLICY, deposit(queue_id, content(number)))
                delivery._done.clear()  # as a new process
                assert outcome.result.name == "DELIVERED"
            world.added(number)
            count += 1
            if not world.goes_on("deliver"):
                return

    asyncio.run(work())


def expire(house, world):
    """Files of messages that only we remove, as a scanner or an expiry takes them out."""
    box = house.directory / "mailboxes/anna"
    while True:
        for path in [*box.glob("new/*"), *box.glob("cur/*")][:200]:
            with contextlib.suppress(FileNotFoundError):  # other flags meanwhile
                number = number_of(path.read_bytes())
                if number % CLASSES == EXPIRED:
                    path.unlink()
                    world.added(number, -1)
                    if not world.goes_on("expire"):
                        return
        if not world.goes_on("look for what to expire"):
            return
        time.sleep(0.05)  # nothing is waited for: less of a load


def scan(house, world):
    """`egressguard scan`, over and over."""
    memory = house.directory / "scan.sqlite"
    command = [sys.executable, "-m", "egressguard", "scan", "--all", "--json", "--jobs", "1", "--memory", str(memory)]
    while True:
        done = subprocess.run([*command, str(house.directory / "mailboxes")], capture_output=True, check=False)
        rows = [json.loads(line) for line in done.stdout.splitlines()]
        if done.returncode not in {0, 1} or not all(row["verdict"] in {"clean", "denied", "ambiguous"} for row in rows):
            odd = [row for row in rows if row["verdict"] not in {"clean", "denied", "ambiguous"}]
            if any("cannot be read" not in str(row["findings"]) for row in odd):
                world.fault(f"scan: {done.returncode} {odd[:3]} {done.stderr[-300:]!r}")
        if not world.goes_on("scan"):
            return


def back_up(house, world):
    """A backup, restored elsewhere: each message once, with its UID and octets, and all that nobody moves."""
    while True:
        with world.lock:
            must = {number for number, count in world.expected.items() if count and number % CLASSES > EXPIRED}
            placed = dict(world.placed)
        backups = Backups(house.directory / "backup", make=True)
        there = house.directory / "restored"
        try:
            taken = backups.take(house.directory, time.time(), 2, lambda _octets: None)
            restore_all(backups.objects, backups.entries(taken.name), there, lambda _octets: None, with_spool=False)
        finally:
            backups.close()
        if taken.problems:
            world.fault(f"backup: {taken.problems}")
        found = set()
        for folder in FOLDERS:
            box = there / "mailboxes/anna" / ("" if folder == "INBOX" else f".{folder}")
            listed = parse_dovecot((box / "dovecot-uidlist").read_bytes().split(b"\n")[:-1])
            for path in [*box.glob("new/*"), *box.glob("cur/*")]:
                octets = path.read_bytes()
                number = number_of(octets)
                found.add(number)
                if not as_shown(octets).endswith(as_shown(content(number))):
                    world.fault(f"backup: octets of {number}")
                given = listed.given.get(base_of(path.name))
                place = (folder, str(listed.uid_validity).encode(), given.uid) if given else None
                if placed.get(place, number) != number:
                    world.fault(f"backup: {place} is {number}, was {placed[place]}")
        if lost := must - found:
            world.fault(f"backup: {sorted(lost)[:5]} are missing")
        shutil.rmtree(there)
        if not world.goes_on("back up and restore"):
            return


def hold_and_release(house, world, held):
    """The quarantine: each message is released, deleted, expired, or stays. `held`: what is expected of each."""

    async def work():
        spool = SqliteSpool(house.directory / "spool")
        views = Views(house.directory / "quarantine/views")
        showing = Showing(views, lambda: POLICY, lambda _local: None, lambda: ["anna", "boss"])
        registry = CollectorRegistry()
        quarantine = Quarantine(house.directory / "quarantine", spool, lambda *_: None, registry, viewer=showing)
        try:
            while True:
                number = world.next_number()
                message_id = random_queue_id(time.time())
                await quarantine.hold(message_id, "Held", Content.of(content(number)), facts_of())
                verb = (None, RELEASE, DELETE, EXPIRE)[number % 4]
                held[message_id] = verb
                if verb is not None:
                    await quarantine.act(Order(verb, message_id, "race", ""))
                if not world.goes_on("hold"):
                    break
            released = {row["queue_id"] for row in await spool.rows(1_000_000)}
            assert released == {one for one, verb in held.items() if verb == RELEASE}
            there = {row["queue_id"] if "queue_id" in row else row["id"] for row in await quarantine.rows()}
            assert len(there) == min(sum(verb is None for verb in held.values()), 1000)
        finally:
            spool.close()

    asyncio.run(work())


def facts_of():
    import ipaddress

    from egressguard.mail.envelope import Envelope
    from egressguard.smtp.hooks import SessionFacts

    session = SessionFacts(ipaddress.IPv4Address("192.0.2.7"), 40000, "lan", "smtp")
    envelope = Envelope("a@x.example", ("anna@example.org",), smtputf8=False, body_8bit=True)
    return held_facts(session, envelope, DECISION, REPORT, 1000.0, {})


def run_all(world, *works):
    def guarded(work, *arguments):
        try:
            work(*arguments)
        except BaseException as wrong:
            world.fault(f"{work.__name__}: {wrong!r}")

    threads = [threading.Thread(target=guarded, args=work) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.fixture
def running(house, programs, start):
    house.add("anna")
    house.add("boss")
    running = start(programs).wait_running()
    client = running.imap("anna")
    for folder in FOLDERS[1:]:
        client.create(folder)
    client.logout()
    return running


def test_nobody_gets_in_anothers_way(house, running):
    world, held = World(OPERATIONS), {}
    clients = [Client(world, running.imap("anna"), own) for own in range(CLIENTS)]
    run_all(
        world,
        *((client.run,) for client in clients),
        (deliver, house, world),
        (expire, house, world),
        (scan, house, world),
        (back_up, house, world),
        (hold_and_release, house, world, held),
    )
    assert world.faults == []
    there = everything(running.imap("anna"), world)
    other = {number: (there[number], count) for number, count in (there | world.expected).items()}
    assert {n: counts for n, counts in other.items() if counts[0] != world.expected[n]} == {}
    assert world.faults == []
    print(dict(world.done), f"{len(world.placed)} UIDs seen, {sum(there.values())} messages in the end")


def test_a_scan_beside_mail_programs_moves_no_uid(house, running):
    world = World(10_000_000)
    delivery = delivery_to(house)
    for number in range(1, 61):
        asyncio.run(delivery.store(POLICY, deposit(random_queue_id(float(number)), content(number))))
        world.added(number)
    watcher = running.imap("anna")
    watcher.select("INBOX")
    before = everything(watcher, world)
    files = {path.name for path in (house.directory / "mailboxes/anna").glob("*/*") if path.parent.name == "cur"}
    stop = threading.Event()

    def flagging(client):
        client.select("INBOX")
        while not stop.is_set():
            client.uid("STORE", "1:20", "+FLAGS.SILENT", r"(\Seen)")
            client.uid("STORE", "1:20", "-FLAGS.SILENT", r"(\Seen)")

    threads = [threading.Thread(target=flagging, args=(running.imap("anna"),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        memory = house.directory / "scan.sqlite"
        command = [sys.executable, "-m", "egressguard", "scan", "--all", "--json", "--memory", str(memory)]
        done = subprocess.run([*command, str(house.directory / "mailboxes")], capture_output=True, check=False)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len({Path(row["path"]).name.partition(":")[0] for row in rows}) == 60
    assert everything(running.imap("anna"), world) == before == +world.expected
    after = {path.name for path in (house.directory / "mailboxes/anna").glob("*/*") if path.parent.name == "cur"}
    assert {name.partition(":")[0] for name in after} == {name.partition(":")[0] for name in files}
    assert world.faults == []


def _start_access(house):
    program = Path(__file__).with_name("run_access.py")
    arguments = [str(house.directory), house.user, house.group]
    child = subprocess.Popen([sys.executable, program, *arguments], stdout=subprocess.PIPE, text=True)
    return child, int(child.stdout.readline())


def _start_delivery(house, first):
    program = Path(__file__).with_name("run_delivery.py")
    command = [sys.executable, program, str(house.directory), house.group, str(first)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_killed_under_load_nothing_that_was_acknowledged_is_lost(house, certificate, programs):
    """Delivery, Dovecot and the access role are killed in turn; mail programs and delivery go on where they were."""
    house.add("anna")
    world, acknowledged = World(10_000_000), set()
    access, dovecot = _start_access(house)
    first = 1
    try:
        for round_ in range(KILLS):
            client = _imap(house)
            delivery = _start_delivery(house, first)
            victim = (delivery.pid, dovecot, access.pid)[round_ % 3]
            at = first + 3 + round_ % 7
            appended = 0
            for line in delivery.stdout:
                acknowledged.add(int(line))
                first = max(first, int(line) + 1)
                with contextlib.suppress(Exception):
                    number = 1_000_000 + first
                    if append(client, "INBOX", content(number)):
                        acknowledged.add(number)
                        appended += 1
                if int(line) >= at:
                    break
            os.kill(victim, signal.SIGKILL)
            delivery.kill()
            rest = delivery.communicate()[0].split()
            acknowledged |= {int(word) for word in rest if word.isdigit()}
            first = max([first, *(int(word) + 1 for word in rest if word.isdigit())]) + 1
            with contextlib.suppress(Exception):
                client.shutdown()
            if round_ % 3:
                access.kill()
                access.communicate()
                access, dovecot = _start_access(house)
            client = _imap(house)
            there = everything(client, world) if round_ % 5 == 4 or round_ == KILLS - 1 else None
            client.logout()
            if there is not None:
                assert {number for number in acknowledged if there[number] != 1} == set(), round_
                assert world.faults == []
    finally:
        access.kill()
        access.communicate()
    assert len(acknowledged) >= 3 * KILLS


def _imap(house):
    import imaplib
    import ssl

    context = ssl.create_default_context(cadata=house.certificate.decode())
    deadline = time.monotonic() + 30
    while True:
        port = int((house.directory / "port").read_text())
        try:
            client = imaplib.IMAP4_SSL("127.0.0.1", port, ssl_context=context, timeout=30)
            client.login("anna", "secret")
            for folder in FOLDERS[1:]:
                client.create(folder)
            return client
        except (OSError, imaplib.IMAP4.error):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
