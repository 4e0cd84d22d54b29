"""Mailboxes of a gateway that runs: from RCPT to the folder, with aliases, rules, quotas; killed under load.

EGRESSGUARD_KILLS=200 for the long walk.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import smtplib
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest

from tests.app.test_gateway import ROOT, SECONDS, Running, running_in, until

SITE = """
site:
  zones: {lan: {networks: 127.0.0.0/8}}
  resolvers: "127.0.0.1:9"
  domains: [test.example]
  relay:
    hostname: gw.test.example
    listeners: {lan: {kind: smtp, port: 0}}
    retry: {first_seconds: 1}
  metrics: {port: 0}
  mailboxes:
    aliases: {info: [anna, bert], sales@test.example: anna+sales}
    catch_all: {test.example: bert}
    accounts: {full: {quota: {octets: 2000}}}
mail:
  - {name: own, match: {client: lan, recipient_domain: "@local"}, action: accept}
"""
RULES = """\
rules:
  - {name: sales, match: {detail: sales}, action: file, folder: Sales/2026}
  - {name: to-bert, match: {header: {Subject: "*for bert*"}}, action: forward, to: bert@test.example}
"""
KILLS = int(os.environ.get("EGRESSGUARD_KILLS", "1"))
CLIENTS = 4


class Desk:
    def __init__(self, gateway: Running) -> None:
        self.gateway = gateway
        self.mailboxes = gateway.folder / "state" / "mailboxes"

    def say(self, *words: str, given: str | None = None) -> str:
        command = self.gateway.command(*words)
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=ROOT, check=False, timeout=SECONDS, input=given
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def client(self) -> smtplib.SMTP:
        return smtplib.SMTP("127.0.0.1", self.gateway.port("lan"), "laptop.test.example", timeout=SECONDS)

    def send(self, *paths: str, content: bytes = b"Subject: x\r\n\r\nhello\r\n") -> str:
        """The queue id."""
        with self.client() as client:
            client.ehlo()
            assert client.mail("x@test.example", ["BODY=8BITMIME"])[0] == 250
            for path in paths:
                assert client.rcpt(path)[0] == 250, path
            code, said = client.data(content)
            assert code == 250, said
        return said.decode().rpartition(" ")[2]

    def refused(self, path: str, size: int = 0) -> str:
        with self.client() as client:
            client.ehlo()
            client.mail("x@test.example", [f"SIZE={size}"])
            code, said = client.rcpt(path)
            return f"{code} {said.decode()[:5]}"

    def messages(self, account: str, folder: str = "") -> list[Path]:
        found = (self.mailboxes / account / folder).glob("new/*")
        return sorted(found, key=lambda path: path.stat().st_mtime_ns)


@pytest.fixture(scope="module")
def desk() -> Iterator[Desk]:
    with tempfile.TemporaryDirectory(prefix="eg-mailboxes-", ignore_cleanup_errors=True) as name:
        for running in running_in(Path(name), SITE):
            made = Desk(running)
            for account in ("anna", "bert", "full"):
                made.say("user", "add", account, "--password-file", "-", given="secret\n")
            made.say("user", "rules", "set", "anna", "-", given=RULES)
            yield made


def test_addresses_find_their_folders(desk: Desk) -> None:
    desk.send("Anna+Sales@test.example")
    desk.send("sales@test.example")
    desk.send("nobody-at-all@test.example")
    until(lambda: len(desk.messages("anna", ".Sales.2026")) == 2)
    until(lambda: len(desk.messages("bert")) == 1)
    assert desk.messages("anna") == []


def test_an_alias_and_a_forward_can_be_followed(desk: Desk) -> None:
    before = len(desk.messages("anna")), len(desk.messages("bert"))
    queue_id = desk.send("info@test.example")
    until(lambda: (len(desk.messages("anna")), len(desk.messages("bert"))) == (before[0] + 1, before[1] + 1))
    until(lambda: desk.say("trace", queue_id).count("in the mailbox") == 2)
    assert "sent on as" in desk.say("trace", queue_id)
    forwarded = desk.send("anna@test.example", content=b"Subject: this is for Bert\r\n\r\nx\r\n")
    until(lambda: len(desk.messages("bert")) == before[1] + 2)
    text = desk.messages("bert")[-1].read_bytes()
    assert re.search(rb"Delivered-To: bert@.*Delivered-To: anna@", text, re.DOTALL)
    until(lambda: "to-bert" in desk.say("trace", forwarded))
    assert len(desk.messages("anna")) == before[0] + 1


def test_who_is_full_is_put_off_at_rcpt(desk: Desk) -> None:
    assert desk.refused("full@test.example", 3000) == "552 5.2.3"
    desk.send("full@test.example", content=b"Subject: x\r\n\r\n" + b"x" * 70 + b"\r\n" * 700)
    until(lambda: len(desk.messages("full")) == 1)
    until(lambda: desk.refused("full@test.example", 500) == "452 4.2.2")
    assert desk.refused("full@test.example", 10) == "250 2.1.5"
    page = urlopen(f"http://127.0.0.1:{desk.gateway.port('metrics')}/metrics", timeout=20).read().decode()
    assert re.search(r'egressguard_mailbox_over_quota_total\{.*stage="rcpt".*\} [1-9]', page)
    assert re.search(r'egressguard_mailbox_deliveries_total\{.*outcome="delivered",target="alias".*\} 1', page)


def awkward() -> list[bytes]:
    """300 contents that have broken mail programs, each with its number; nothing that SMTP refuses."""
    chance = random.Random(1)
    bodies = [
        b"",
        b"\r\n",
        b".\r\n",
        b"..\r\n.\r\n",
        b"From here\r\n>From there\r\n",
        b"8-bit \xff\xfe\x80 \xc3\xa9\r\n",
        b"x" * 990 + b"\r\n",
        b"\r\n" * 500,
        b"tab\t and form feed\x0c and escape\x1b[31m and DEL\x7f\r\n",
        b"Content-Length: 5\r\n\r\n" * 3,
    ]
    heads = [
        b"Subject: %d\r\n",
        b"Subject: %d\r\nContent-Length: 1\r\nStatus: RO\r\nX-UID: 7\r\n",
        b"subject:%d\r\n\tfolded\r\n",
    ]
    made = []
    for number in range(300):
        body = bodies[number % 10] + bytes(chance.choice(b"abc \xe4.>") for _ in range(number % 50)) + b"\r\n"
        made.append(heads[number % 3] % number + b"\r\n" + body)
    return made


def test_awkward_messages_lie_there_to_the_octet(desk: Desk) -> None:
    """Sent with and without a final line end: SMTP gives it one."""
    contents = awkward()
    with desk.client() as client:
        client.ehlo()
        for content in contents:
            client.mail("x@test.example", ["BODY=8BITMIME"])
            client.rcpt("bert+awkward@test.example")
            assert client.data(content[:-2] if content[-3:] != b"\n\r\n" else content)[0] == 250
    wanted = {int(re.search(rb"(?i)subject: ?(\d+)", content)[1]): content for content in contents}  # type: ignore[index]

    def found() -> dict[int, bytes]:
        texts = [path.read_bytes() for path in desk.messages("bert")]
        inner = [
            text[text.index(b"\r\n", text.index(b"\r\nReceived: ") + 2) :] for text in texts if b"+awkward" in text
        ]
        starts = [re.search(rb"(?im)^subject: ?(\d+)\r\n", text) for text in inner]
        return {int(start[1]): text[start.start() :] for start, text in zip(starts, inner, strict=True) if start}

    until(lambda: len(found()) == 300)
    assert found() == wanted
    assert len([path for path in desk.messages("bert") if b"+awkward" in path.read_bytes()]) == 300


@pytest.mark.parametrize("octet", [b"\0", b"\r", b"\n"])
def test_what_no_store_could_keep_is_refused(desk: Desk, octet: bytes) -> None:
    before = len(desk.messages("bert"))
    with desk.client() as client:
        client.ehlo()
        client.mail("x@test.example")
        client.rcpt("bert@test.example")
        client.putcmd("DATA")
        assert client.getreply()[0] == 354
        client.send(b"Subject: x\r\n\r\na" + octet + b"b\r\n.\r\n")
        assert 500 <= client.getreply()[0] < 600
    assert len(desk.messages("bert")) == before


class Load:
    """Clients that send until they are told to stop; what was answered 250 is remembered."""

    def __init__(self, desk: Desk) -> None:
        self.acknowledged: set[str] = set()
        self._desk = desk
        self._numbers = iter(range(10**9))
        self._lock = threading.Lock()
        self._ending = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(CLIENTS)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while not self._ending.is_set():
            with (
                contextlib.suppress(smtplib.SMTPException, OSError, ValueError, KeyError),
                self._desk.client() as client,
            ):
                client.ehlo()
                while not self._ending.is_set():
                    self._send(client)
            self._ending.wait(0.05)

    def _send(self, client: smtplib.SMTP) -> None:
        with self._lock:
            subject = f"load-{next(self._numbers)}"
        path = random.choice(["anna", "bert", "info", "anna+sales"])
        client.mail("x@test.example")
        client.rcpt(f"{path}@test.example")
        if client.data(f"Subject: {subject} {path}\r\n\r\n{'x' * 200}\r\n".encode())[0] == 250:
            self.acknowledged.add(f"{subject} {path}")


def test_killed_under_load_nothing_acknowledged_is_lost_or_doubled(desk: Desk) -> None:
    chance = random.Random(1)
    with Load(desk) as load:
        for _ in range(KILLS):
            enough = len(load.acknowledged) + chance.randrange(10, 60)
            until(lambda enough=enough: len(load.acknowledged) >= enough)  # type: ignore[misc]
            desk.gateway.again(signal.SIGKILL)
    assert len(load.acknowledged) >= 10 * KILLS

    def subjects(account: str) -> list[str]:
        paths = (desk.mailboxes / account).rglob("new/*")
        found = (re.search(rb"^Subject: (load-\S+ \S+)\r$", path.read_bytes(), re.M) for path in paths)
        return sorted(match[1].decode() for match in found if match)

    def wanted(account: str) -> set[str]:
        mine = {"anna": {"anna", "info", "anna+sales"}, "bert": {"bert", "info"}}[account]
        return {one for one in load.acknowledged if one.split()[1] in mine}

    for account in ("anna", "bert"):
        until(lambda account=account: wanted(account) <= set(subjects(account)))  # type: ignore[misc]
        assert len(set(subjects(account))) == len(subjects(account))
        leftover = [path for path in (desk.mailboxes / account).rglob("tmp/*") if path.is_file()]
        assert len(leftover) <= KILLS * CLIENTS * 10  # a crash leaves them, nobody reads them
