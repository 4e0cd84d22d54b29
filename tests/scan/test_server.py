"""The scan role's workers: they answer, they are bounded, and one that dies takes one message with it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from egressguard.policy.facts import ScanReport
from egressguard.policy.site import Scan
from egressguard.policy.verdict import Verdict
from egressguard.scan.client import ScanClient
from egressguard.scan.server import ScanServer
from egressguard.store.content import Content
from tests.scan.samples import EICAR, mail_with

SETTINGS = Scan(denied_names=("*.exe",), timeout_seconds=2, workers=2)


@pytest.fixture
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="eg-scan-") as name:  # short: a socket's path has 108 octets
        yield Path(name) / "s"


@pytest.fixture
def server(place: Path) -> Iterator[ScanServer]:
    started = ScanServer(place, SETTINGS, registry=CollectorRegistry(), max_message_octets=1_000_000)
    started.start()
    try:
        yield started
    finally:
        started.stop()


def scan(place: Path, *contents: bytes) -> list[ScanReport]:
    async def run() -> list[ScanReport]:
        client = ScanClient(place, timeout_seconds=10, registry=CollectorRegistry())
        return await asyncio.gather(*(client.scan(Content.of(content)) for content in contents))

    return asyncio.run(run())


def test_messages_are_answered_side_by_side(server: ScanServer, place: Path) -> None:
    contents = [mail_with("a.txt", b"x"), mail_with("a.exe", b"x"), mail_with("e", EICAR)] * 10

    verdicts = [report.verdict for report in scan(place, *contents)]

    assert verdicts == [Verdict.CLEAN, Verdict.DENIED, Verdict.INFECTED] * 10


def test_a_worker_that_is_killed_is_replaced(server: ScanServer, place: Path) -> None:
    for worker in list(server._workers):
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGKILL)

    def answered() -> bool:
        return scan(place, mail_with("a.txt", b"x"))[0].verdict is Verdict.CLEAN

    deadline = time.monotonic() + 10
    while not answered():
        assert time.monotonic() < deadline


def test_a_client_that_says_nothing_does_not_hold_a_worker_for_ever(server: ScanServer, place: Path) -> None:
    silent = [socket.socket(socket.AF_UNIX) for _ in range(2)]
    for sock in silent:
        sock.connect(str(place))

    assert scan(place, mail_with("a.txt", b"x"))[0].verdict is Verdict.CLEAN
    for sock in silent:
        sock.close()


@pytest.mark.parametrize(
    "octets", [b"scan\n", b"rubbish", b"\xff" * 500, b'scan {"asks": [\n', b"scan " + b"{" * 40_000]
)
def test_rubbish_is_closed_and_the_next_message_is_answered(server: ScanServer, place: Path, octets: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(5)
        sock.connect(str(place))
        sock.sendall(octets)
        with contextlib.suppress(ConnectionError):  # closed politely or reset: both end it
            assert sock.recv(100) == b""

    assert scan(place, mail_with("a.txt", b"x"))[0].verdict is Verdict.CLEAN


def test_a_message_that_is_too_large_is_unknown(server: ScanServer, place: Path) -> None:
    assert scan(place, mail_with("a.txt", b"x" * 2_000_000))[0].verdict is None


def test_no_scanner_is_unknown_never_clean(place: Path) -> None:
    report = scan(place, mail_with("a.txt", b"x"))[0]

    assert (report.verdict, report.score, report.attachments) == (None, None, None)
    assert "did not answer" in report.findings[0]


def test_new_settings_are_taken(server: ScanServer, place: Path) -> None:
    server.reload(Scan(denied_names=("*.txt",)))

    assert scan(place, mail_with("a.txt", b"x"))[0].verdict is Verdict.DENIED


def test_as_many_workers_as_the_rules_say(server: ScanServer) -> None:
    server.reload(Scan(workers=3))

    assert len(server._workers) == 3
