"""Storage that fails under the running relay: the client hears 451 or 452, never 250, never 5yz; nothing is lost.

strace(1) makes system calls of the real processes fail; a small tmpfs is really full. Afterwards the relay works again,
after a restart where it ended itself, and what was acknowledged before, meanwhile and after is delivered.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import shutil
import signal
import smtplib
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.system.relay_alone import DOMAINS, RelayAlone, strace
from tests.system.remembering_sink import SENDER, Pair, Sink, message_text

SMALL, FILE, DRAFT = 3_000, 200_000, 1_500_000


@dataclass(frozen=True)
class Fault:
    """`calls` of `process` fail with `error` ("wal": only on the write-ahead log); `ends`: the relay gives up then.

    `in_doubt`: the message may have become durable although nobody said so."""

    name: str
    process: str
    calls: str
    error: str
    size_octets: int
    reply: int
    ends: bool
    in_doubt: bool = False
    wal: bool = False


FAULTS = (
    Fault("sync the log", "relay", "fdatasync", "EIO", SMALL, 451, ends=True, in_doubt=True),
    Fault("write the log", "relay", "pwrite64", "EIO", SMALL, 451, ends=True, wal=True),
    Fault("no room for the log", "relay", "pwrite64", "ENOSPC", SMALL, 452, ends=False, wal=True),
    Fault("sync a file", "relay", "fsync", "EIO", FILE, 451, ends=True),
    Fault("sync a draft", "relay", "fsync", "EIO", DRAFT, 451, ends=True),
    Fault("name a draft", "relay", "rename,renameat,renameat2", "EIO", DRAFT, 451, ends=True),
    Fault("no room for a name", "relay", "rename,renameat,renameat2", "ENOSPC", DRAFT, 452, ends=False),
    Fault("open a draft", "smtpd", "openat", "EIO", DRAFT, 451, ends=False),
    Fault("no room for a draft", "smtpd", "openat", "ENOSPC", DRAFT, 452, ends=False),
)


class Sender:
    """Says each reply's code, and remembers what was acknowledged."""

    def __init__(self, relay: RelayAlone, sink: Sink) -> None:
        self.acknowledged: set[Pair] = set()
        self.refused: set[Pair] = set()
        self._relay = relay
        self._sink = sink
        self._numbers = itertools.count()

    def send(self, size_octets: int) -> int:
        number = next(self._numbers)
        sender, content = SENDER % number, message_text(number, size_octets)
        path = f"u{number}@{DOMAINS[number % len(DOMAINS)]}"
        self._sink.expect(sender, content)
        # No QUIT: a relay that ends after its answer may say 421 first.
        with contextlib.closing(smtplib.SMTP("127.0.0.1", self._relay.port, timeout=60)) as client:
            client.ehlo("client.example")
            for code, words in (client.mail(sender), client.rcpt(path)):
                if code != 250:
                    assert code in {451, 452}, words
                    self.refused.add((sender, path))
                    return code
            code, words = client.data(content)
        assert code in {250, 451, 452}, words
        (self.acknowledged if code == 250 else self.refused).add((sender, path))
        return code


Story = Callable[[RelayAlone, Sender], None]


def play(folder: Path, story: Story, spool: Path | None = None) -> tuple[Sink, Sender]:
    """The story, then the end: all that is left goes out, and nothing is left over."""

    async def whole() -> tuple[Sink, Sender]:
        sink = Sink()
        relay = RelayAlone(folder, await sink.start(), spool)
        sender = Sender(relay, sink)
        try:
            await asyncio.to_thread(relay.start)
            await asyncio.to_thread(story, relay, sender)
            await asyncio.to_thread(relay.drain)
            assert await asyncio.to_thread(relay.stop) == 0
        finally:
            relay.close()
        assert relay.queued() == set()
        assert relay.leftovers() == []
        await sink.stop()
        assert not sink.damaged
        assert sender.acknowledged <= sink.arrivals.keys()
        return sink, sender

    return asyncio.run(whole())


def broken(fault: Fault) -> Story:
    def story(relay: RelayAlone, sender: Sender) -> None:
        assert [sender.send(size) for size in (SMALL, FILE, DRAFT)] == [250, 250, 250]
        pid = relay.pid if fault.process == "relay" else relay.smtpd_pid
        words = ["-e", f"trace={fault.calls}", "-e", f"inject={fault.calls}:error={fault.error}"]
        words += ["-P", str(relay.places.spool / "spool.sqlite-wal")] if fault.wal else []
        try:
            tracer = strace(pid, *words)
        except PermissionError as wrong:
            pytest.skip(f"needs the right to trace: {wrong}")
        try:
            assert sender.send(fault.size_octets) == fault.reply
            if fault.ends:
                relay.until_gone()
            else:
                assert sender.send(fault.size_octets) == fault.reply
                assert not relay.has_ended
        finally:
            tracer.terminate()
            tracer.wait()
        if fault.ends:
            relay.start()
        assert [sender.send(size) for size in (SMALL, FILE, DRAFT)] == [250, 250, 250]

    return story


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_call_that_fails_is_try_again_later(fault: Fault, tmp_path: Path) -> None:
    if shutil.which("strace") is None:
        pytest.skip("needs the program strace: makes system calls fail")
    sink, sender = play(tmp_path, broken(fault))
    assert sender.refused
    if not fault.in_doubt:
        assert not sender.refused & sink.arrivals.keys(), "delivered, although the client heard that it was not taken"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Eight megabytes."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=8m", "egressguard-test", str(place)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"needs the right to mount: {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def fill(disk: Path, left_octets: int) -> Path:
    """The file that does it."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        while (free := shutil.disk_usage(disk).free) > left_octets:
            file.write(b"0" * min(free - left_octets, 65536))
    return ballast


@pytest.mark.parametrize(("size_octets", "left_octets"), [(SMALL, 0), (FILE, 0), (DRAFT, 0), (DRAFT, 1_300_000)])
def test_a_full_disk_is_452_until_there_is_room(
    size_octets: int, left_octets: int, small_disk: Path, tmp_path: Path
) -> None:
    """With 1.3 MB left, which is over the reserve, the disk is full in the middle of the message."""

    def story(relay: RelayAlone, sender: Sender) -> None:
        assert sender.send(size_octets) == 250
        relay.drain()
        ballast = fill(small_disk, left_octets)
        assert sender.send(size_octets) == 452
        ballast.unlink()
        assert sender.send(size_octets) == 250

    (small_disk / "spool").mkdir()
    sink, sender = play(tmp_path / "relay", story, spool=small_disk / "spool")
    assert not sender.refused & sink.arrivals.keys()


def test_a_relay_that_died_on_a_full_disk_starts_again(small_disk: Path, tmp_path: Path) -> None:
    """What fills it is a message that was arriving: its draft goes before anything needs room."""

    def story(relay: RelayAlone, sender: Sender) -> None:
        assert sender.send(SMALL) == 250
        with smtplib.SMTP("127.0.0.1", relay.port, timeout=60) as client:
            client.ehlo("client.example")
            for line in ("MAIL FROM:<x@load.example>", f"RCPT TO:<x@{DOMAINS[0]}>", "DATA"):
                client.docmd(line)
            assert client.sock is not None
            client.sock.sendall(b"x" * 70 + b"\r\n")
            deadline = time.monotonic() + 30
            while not any(path.stat().st_size for path in (small_disk / "spool" / "tmp").iterdir()):
                client.sock.sendall((b"x" * 70 + b"\r\n") * 2000)
                assert time.monotonic() < deadline
            os.kill(relay.smtpd_pid, signal.SIGSTOP)  # or it finds the disk full, and gives its draft up before it dies
            ballast = fill(small_disk, 0)
            relay.kill()
        relay.start()
        ballast.unlink()
        assert sender.send(SMALL) == 250

    (small_disk / "spool").mkdir()
    play(tmp_path / "relay", story, spool=small_disk / "spool")
