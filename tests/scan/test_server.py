"""The scan role's workers: they answer, they are bounded, and one that dies takes one message with it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from egressguard.policy.facts import ScanReport, Verdict
from egressguard.policy.site import Clamd, Scan
from egressguard.scan.clamd import ask_clamd
from egressguard.scan.client import ScanClient
from egressguard.scan.examine import ScannerDown
from egressguard.scan.server import ScanServer
from egressguard.store.content import Content
from tests.scan.samples import EICAR, mail_with

ROOT = Path(__file__).parent.parent.parent
SETTINGS = Scan(denied_names=("*.exe",), timeout_seconds=2)


@pytest.fixture
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="eg-scan-") as name:  # short: a socket's path has 108 octets
        yield Path(name) / "s"


@pytest.fixture
def server(place: Path) -> Iterator[ScanServer]:
    started = ScanServer(place, SETTINGS, workers=2, registry=CollectorRegistry(), max_message_octets=1_000_000)
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


@pytest.mark.parametrize("octets", [b"scan\n", b"rubbish", b"\xff" * 500])
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

    assert report.verdict is None
    assert "did not answer" in report.findings[0]


def test_new_settings_are_taken(server: ScanServer, place: Path) -> None:
    server.reload(Scan(denied_names=("*.txt",)))

    assert scan(place, mail_with("a.txt", b"x"))[0].verdict is Verdict.DENIED


@pytest.fixture(scope="module")
def clamd() -> Iterator[str]:
    """A private clamd with a one-line signature database, under an ordinary user, on a Unix socket."""
    if os.geteuid() != 0 or not (ROOT / ".peers" / "clamav" / "usr").exists():
        pytest.skip("needs root and clamd in .peers: run scripts/peers")
    with tempfile.TemporaryDirectory(prefix="eg-clamd-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "db").mkdir()
        (folder / "db" / "test.ndb").write_text("Egress.Test:0:*:" + b"a marker of ours alone".hex() + "\n")
        for path in (folder, folder / "db"):
            os.chown(path, 65534, 65534)
        sock = folder / "s"
        lines = [f"LocalSocket {sock}", f"DatabaseDirectory {folder}/db", "Foreground yes", "User nobody"]
        (folder / "conf").write_text("\n".join([*lines, f"TemporaryDirectory {folder}"]) + "\n")
        command = [str(ROOT / "scripts" / "peer"), "clamav", "clamd", "--config-file", str(folder / "conf")]
        log = (folder / "log").open("wb")
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + 60
            while not sock.exists():
                assert process.poll() is None and time.monotonic() < deadline, (folder / "log").read_text()
                time.sleep(0.05)
            yield f"unix:{sock}"
        finally:
            process.terminate()
            process.wait(20)


@pytest.mark.peers
def test_the_real_clamd_is_asked(clamd: str, place: Path) -> None:
    server = ScanServer(place, Scan(clamd=Clamd(address=clamd)), workers=1, registry=CollectorRegistry())
    server.start()
    try:
        bad, good = scan(place, mail_with("a.bin", b"xx a marker of ours alone xx"), mail_with("a.bin", b"nothing"))
    finally:
        server.stop()

    assert (bad.verdict, good.verdict) == (Verdict.INFECTED, Verdict.CLEAN)
    assert "Egress.Test" in bad.findings[0]


@pytest.mark.parametrize("answer", [b"", b"stream: Can't allocate memory ERROR\0", b"\xff\xfe", b"x" * 100_000])
def test_what_clamd_says_besides_ok_and_found_is_down(answer: bytes) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.settimeout(10)
        port = listener.getsockname()[1]

        def serve() -> None:
            client, _ = listener.accept()
            with client:
                while not client.recv(65536).endswith(b"\0\0\0\0"):
                    pass
                client.sendall(answer)

        async def both() -> None:
            asked = asyncio.to_thread(ask_clamd, b"content", Clamd(address=f"127.0.0.1:{port}", timeout_seconds=5))
            _, result = await asyncio.gather(asyncio.to_thread(serve), asked, return_exceptions=True)
            assert isinstance(result, ScannerDown)

        asyncio.run(both())


def test_no_clamd_is_down() -> None:
    with pytest.raises(ScannerDown):
        ask_clamd(b"x", Clamd(address="unix:/nowhere/at/all"))
