"""Delivery into files of mail: whole or not at all, once, beside other programs."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import mailbox
import os
import random
import re
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from egressguard.mail.outcome import Result
from egressguard.mailbox import mbox_delivery
from egressguard.mailbox.mbox_delivery import MboxDelivery
from egressguard.store.content import Content
from egressguard.store.durable import Disk
from tests.mailbox.test_delivery import deliver, deposit, failing
from tests.relay.setting import policy_of

PEERS = Path(__file__).parents[2] / ".peers"
CONTENT = b"From: <x@example.net>\r\nSubject: hello\r\n\r\nFrom here\r\n8-bit \xff\r\n"
TEXT = (
    b"Return-Path: <x@example.net>\nDelivered-To: anna@example.org\n"
    b"From: <x@example.net>\nSubject: hello\n\n>From here\n8-bit \xff\n\n"
)


class Box:
    """/var/mail and a home directory of our own."""

    def __init__(self, root):
        self.root = root
        for name in ("mail", "home"):
            (root / name).mkdir()
        self.inbox = root / "mail" / "anna"
        mbox = {"inbox": f"{root}/mail/{{account}}", "folders": f"{root}/home/{{account}}"}
        self.policy = policy_of(mailboxes={"deliver": "mbox", "mbox": mbox})

    def store(self, *deposits, **more):
        facts = {"owner_of": lambda _name: os.geteuid(), "clock": lambda: 1_800_000_000.0, "chance": lambda: 0.0}
        delivery = MboxDelivery(self.root / "notes", **facts | more)
        wrapped = type("W", (), {"store": lambda _self, _policy, one: delivery.store(self.policy, one)})()
        return deliver(wrapped, *deposits)

    def messages(self, path=None):
        """As Python's own reader sees them."""
        return [message.as_bytes() for message in mailbox.mbox(path or self.inbox, create=False)]


@pytest.fixture
def box(tmp_path):
    return Box(tmp_path)


def letter(queue_id="q1", content=CONTENT, **more):
    return deposit(queue_id, content=content, **more)


def test_a_message_in_a_file(box):
    assert box.store(letter()).result is Result.DELIVERED
    assert box.inbox.read_bytes() == b"From x@example.net Fri Jan 15 08:00:00 2027\n" + TEXT
    assert stat.S_IMODE(box.inbox.stat().st_mode) == 0o660
    assert [p.name for p in box.inbox.parent.iterdir()] == ["anna"]


def test_messages_stand_one_behind_the_other(box):
    box.store(*(letter(f"q{n}") for n in range(5)))
    assert box.messages() == [TEXT[:-1]] * 5


@pytest.mark.parametrize("left", [b"From y\nA: b\n\nno end", b"From y\nA: b\n\nend\n", b"From y\nA: b\n\nend\n\n"])
def test_what_others_left_without_an_empty_line_is_no_part_of_it(box, left):
    box.inbox.write_bytes(left)
    box.store(letter())
    assert box.inbox.read_bytes().startswith(left)
    assert len(box.messages()) == 2


def test_folders_are_files_in_the_home_directory(box):
    assert box.store(letter(folder="Lists/Debian")).result is Result.DELIVERED
    assert box.messages(box.root / "home" / "anna" / "Lists" / "Debian") == [TEXT[:-1]]
    assert not box.inbox.exists()


def test_without_a_place_for_folders_all_goes_into_the_inbox(box):
    box.policy = policy_of(mailboxes={"mbox": {"inbox": f"{box.root}/mail/{{account}}"}})
    box.store(letter(folder="Lists"))
    assert len(box.messages()) == 1


@pytest.mark.parametrize("again", [False, True])
def test_twice_makes_one_when_it_may_have_been_delivered(box, again):
    box.store(letter())
    outcome = box.store(letter(again=again))
    assert outcome.result is Result.DELIVERED
    assert len(box.messages()) == (1 if again else 2)


def test_a_message_behind_which_others_wrote_is_found_again(box):
    box.store(letter())
    with box.inbox.open("ab") as file:
        file.write(b"From y Fri Jan 15 08:00:00 2027\nA: b\n\nbody\n\n")
    box.store(letter(again=True))
    assert len(box.messages()) == 2


def test_a_message_that_its_reader_removed_is_not_taken_for_another(box):
    box.store(letter())
    box.inbox.write_bytes(b"From y\nA: b\n\n" + b"x" * 1000 + b"\n\n")
    box.store(letter(again=True))
    assert len(box.messages()) == 2


STEPS = ["open", "write", "fsync", "close", "rename"]


@pytest.mark.parametrize("after", range(5))
@pytest.mark.parametrize("step", STEPS)
def test_a_failure_at_any_step_leaves_the_file_as_it_was(box, step, after):
    box.store(letter("q0"))
    before = box.inbox.read_bytes()
    outcome = box.store(letter(), disk=failing(step, errno.ENOSPC, after))
    if outcome.result is not Result.DELIVERED:
        assert outcome.status == "4.3.1"
        if step != "close":
            assert box.inbox.read_bytes() == before
    assert box.store(letter(again=True)).result is Result.DELIVERED
    assert box.messages() == [TEXT[:-1]] * 2
    assert [p.name for p in box.inbox.parent.iterdir()] == ["anna"]


def test_a_disk_that_fills_in_the_middle_is_cut_back(box):
    box.store(letter("q0"))
    before = box.inbox.read_bytes()
    real = os.write

    def write(fd, octets):
        """Takes ten octets, then no more; notes are written elsewhere."""
        if os.fstat(fd).st_size >= len(before) + 10:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(fd, bytes(octets)[:10]) if os.fstat(fd).st_size == len(before) else real(fd, octets)

    outcome = box.store(letter(), disk=type("Filling", (Disk,), {"write": staticmethod(write)}))
    assert (outcome.result, outcome.status) == (Result.TRANSIENT, "4.3.1")
    assert box.inbox.read_bytes() == before


@pytest.mark.parametrize("kept", [1, 20, 60, 100, 150, -1])
@pytest.mark.parametrize("next_id", ["q1", "q2"])
def test_half_a_message_of_a_crash_is_cut_off(box, kept, next_id):
    box.store(letter("q0"))
    size = box.inbox.stat().st_size
    box.store(letter("q1"))
    whole = box.inbox.read_bytes()
    os.truncate(box.inbox, (len(whole) if kept < 0 else size) + kept)

    box.store(letter(next_id, again=True))
    assert box.messages() == [TEXT[:-1]] * 2


def test_half_a_message_behind_which_somebody_wrote_is_left_alone(box):
    box.store(letter("q1", content=CONTENT + b"x" * 1000 + b"\r\n"))
    os.truncate(box.inbox, 100)
    with box.inbox.open("ab") as file:
        file.write(b"\n\nFrom y Fri Jan 15 08:00:00 2027\nA: b\n\nbody\n\n")
    box.store(letter("q1", again=True))
    assert [message[-5:] for message in box.messages()][1] == b"body\n"
    assert len(box.messages()) == 3


@pytest.mark.parametrize("note", [b"", b"rubbish", b"[]", b'{"queue_id": 1}', json.dumps({"a": 1}).encode()])
def test_a_note_that_makes_no_sense_says_nothing(box, note):
    box.store(letter())
    (file,) = (box.root / "notes").iterdir()
    file.write_bytes(note)
    box.store(letter(again=True))
    assert len(box.messages()) == 2


def test_links_and_others_files_are_refused(box):
    target = box.root / "target"
    target.write_bytes(b"precious")
    for make in (
        lambda: box.inbox.symlink_to(target),
        lambda: os.link(target, box.inbox),
        lambda: os.mkfifo(box.inbox),
    ):
        make()
        outcome = box.store(letter())
        assert outcome.result is Result.TRANSIENT
        assert target.read_bytes() == b"precious"
        box.inbox.unlink()
    box.inbox.symlink_to(box.root / "nowhere")
    assert box.store(letter()).result is Result.TRANSIENT
    assert not (box.root / "nowhere").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give files away")
def test_a_file_of_another_user_is_refused_and_a_new_one_is_its_user_s(box):
    box.inbox.touch()
    os.chown(box.inbox, 65533, -1)
    assert box.store(letter(), owner_of=lambda _: 65534).status == "4.3.0"
    box.inbox.unlink()
    box.store(letter(), owner_of=lambda _: 65534)
    assert box.inbox.stat().st_uid == 65534


@pytest.mark.parametrize("owner", [None, 65534])
def test_a_file_that_would_not_be_its_user_s_is_not_made(box, owner, monkeypatch):
    monkeypatch.setattr(mbox_delivery.os, "geteuid", lambda: 64999)
    outcome = box.store(letter(), owner_of=lambda _: owner)
    assert outcome.result is Result.TRANSIENT
    assert ("no user anna" if owner is None else "install -m 660 -o anna") in outcome.text
    assert not box.inbox.exists()


def test_who_holds_the_lock_too_long_makes_it_wait(box):
    Path(f"{box.inbox}.lock").write_text("1\n")
    outcome = box.store(letter())
    assert (outcome.result, outcome.status) == (Result.TRANSIENT, "4.2.0")
    assert box.inbox.read_bytes() == b""


WRITER = """
import mailbox, sys, time
box = mailbox.mbox(sys.argv[1])
for number in range(int(sys.argv[2])):
    while True:
        try:
            box.lock()
            break
        except mailbox.ExternalClashError:
            time.sleep(0.001)
    box.add(f"Subject: theirs {number}\\n\\nFrom theirs\\n")
    box.flush()
    box.unlock()
"""


def counted(box):
    subjects = re.findall(rb"(?m)^Subject: (\w+) ?", box.inbox.read_bytes())
    return subjects.count(b"theirs"), subjects.count(b"hello"), len(box.messages())


def test_beside_another_writer_nothing_is_lost(box):
    box.inbox.touch()
    with subprocess.Popen([sys.executable, "-c", WRITER, box.inbox, "30"]) as other:
        found = box.store(*(letter(f"q{n}") for n in range(30)), chance=random.random)
        assert other.wait(60) == 0
    assert {outcome.result for outcome in found} == {Result.DELIVERED}
    assert counted(box) == (30, 30, 60)


@pytest.mark.peers
def test_beside_procmail_nothing_is_lost(box):
    program = PEERS / "lockers/usr/bin/procmail"
    if not program.exists():
        pytest.skip("needs procmail: scripts/peers")
    box.inbox.touch()
    (box.root / "rc").write_text(f"LOCKSLEEP=1\nDEFAULT={box.inbox}\nLOCKEXT=.lock\nLOGFILE={box.root}/log\n")

    async def theirs(number):
        process = await asyncio.create_subprocess_exec(
            program, "-p", box.root / "rc", stdin=asyncio.subprocess.PIPE, cwd=box.root
        )
        await process.communicate(b"From y Fri Jan 15 08:00:00 2027\nSubject: theirs %d\n\nbody\n\n" % number)
        assert process.returncode == 0

    delivery = MboxDelivery(box.root / "notes", owner_of=lambda _: os.geteuid())

    async def both():
        ours = (delivery.store(box.policy, letter(f"q{n}")) for n in range(10))
        return (await asyncio.gather(*ours, *map(theirs, range(10))))[:10]

    assert {outcome.result for outcome in asyncio.run(both())} == {Result.DELIVERED}
    assert counted(box) == (10, 10, 20)


KILLS = int(os.environ.get("EGRESSGUARD_KILLS", "3"))
VICTIM = """
import asyncio, os, sys
from pathlib import Path
from egressguard.mailbox.mbox_delivery import MboxDelivery
from egressguard.store.content import Content
from tests.mailbox.test_delivery import deposit
from tests.relay.setting import policy_of
root, start = Path(sys.argv[1]), int(sys.argv[2])
mbox = {"inbox": f"{root}/mail/{{account}}"}
policy = policy_of(mailboxes={"mbox": mbox})
async def walk():
    delivery = MboxDelivery(root / "notes", owner_of=lambda _: os.geteuid())
    for number in range(start, start + 10**6):
        content = b"Subject: hello %d\\r\\n\\r\\n" % number + b"0123456789abcdef\\r\\n" * 5000
        one = deposit(f"q{number}", content=content, again=number == start)
        outcome = await delivery.store(policy, one)
        print(number, outcome.status, flush=True)
asyncio.run(walk())
"""


def test_killed_at_any_moment_it_leaves_whole_messages_each_once(box):
    """What was said to be delivered is there; what was under way is once, after the next attempt."""
    chance, number = random.Random(1), 0
    for _ in range(KILLS):
        Path(f"{box.inbox}.lock").unlink(missing_ok=True)  # a crash leaves it; five minutes are too long for a test
        command = [sys.executable, "-c", VICTIM, box.root, str(number)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as victim:
            assert victim.stdout is not None
            for _ in range(chance.randrange(1, 8)):
                line = victim.stdout.readline()
            os.kill(victim.pid, signal.SIGKILL)
            told = [line, *victim.stdout.readlines()]
        number = max([int(one.split()[0]) for one in told if one.endswith(b"2.0.0\n")], default=number - 1) + 1
    with contextlib.suppress(FileNotFoundError):
        Path(f"{box.inbox}.lock").unlink()
    box.store(letter(f"q{number}", content=b"Subject: hello %d\r\n\r\nend\r\n" % number, again=True))
    subjects = re.findall(rb"(?m)^Subject: hello (\d+)$", box.inbox.read_bytes())
    assert [int(one) for one in subjects] == list(range(number + 1))
    assert {len(message) for message in box.messages()[:-1]} <= set(range(85_000, 85_200))


def test_large_content_is_written_from_its_file(box, tmp_path):
    file = tmp_path / "content"
    file.write_bytes(b"Subject: x\r\n\r\n" + b"From 0123456789\r\n" * 100_000)
    box.store(letter(content=Content(file=file, file_octets=file.stat().st_size)))
    assert box.inbox.read_bytes().count(b"\n>From 0123456789") == 100_000
    assert len(box.messages()) == 1
