"""One gateway for all clients: submission on 587's and 465's listeners, a mailbox, and a certificate they can check."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.app.test_gateway import Running, running_in
from tests.peers import reading
from tests.smtp.fake_mx import FakeMx

ROOT = Path(__file__).parent.parent.parent
HOST = "gw.test.example"
ACCOUNT, PASSWORD, WRONG = "anna", "correct-horse", "guessed"
SENDER, RECIPIENT = "anna@test.example", "bert@test.example"
FAR = "carl@far.example"  # at the host that stands for all others
SECONDS = 30
SITE = """
site:
  zones: {here: {networks: 127.0.0.0/8}}
  domains: [test.example]
  resolvers: "127.0.0.1:9"
  relay:
    hostname: gw.test.example
    listeners:
      lan: {kind: smtp, port: 0}
      submission: {kind: submission, port: 0}
      submissions: {kind: submissions, port: 0}
  metrics: {port: 0}
  smart_hosts: {far: {host: 127.0.0.1, port: FAR_PORT, tls: none}}
routes:
  - {name: far, match: {recipient_domain: far.example}, via: far}
mail:
  - {name: users, match: {authenticated: true}, action: accept}
  - {name: own, match: {client: here, recipient_domain: "@local"}, action: accept}
"""


@dataclass(frozen=True, slots=True)
class Gateway:
    """`ca` is the file that clients check its certificate with, `folder` a place for their own files."""

    running: Running
    ca: Path
    hosts: Path
    folder: Path
    far: FakeMx

    def port(self, listener: str) -> int:
        return self.running.port(listener)

    def run(
        self, peer: str | None, *words: str, given: bytes = b"", env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        """A client, for whom HOST is this machine: the name is in an /etc/hosts that it alone sees."""
        inside = ["sh", "-c", 'mount --bind "$0" /etc/hosts && exec "$@"', str(self.hosts), *words]
        apart = ["unshare", "--mount", "--propagation", "private"]
        outside = [str(ROOT / "scripts" / "peer"), peer] if peer else apart
        return subprocess.run(
            [*outside, *inside],
            input=given,
            capture_output=True,
            timeout=60,
            env={**os.environ, **(env or {})},
            check=False,
        )

    def arrived(self, marker: str) -> bytes:
        """The message with this marker in bert's mailbox, as soon as it is there."""
        deadline = time.monotonic() + SECONDS
        place = self.running.folder / "state" / "mailboxes" / "bert" / "new"
        while time.monotonic() < deadline:
            with contextlib.suppress(FileNotFoundError):
                for path in place.iterdir():
                    content = path.read_bytes()
                    if marker.encode() in content:
                        return content
            time.sleep(0.05)
        raise AssertionError(f"{marker} did not arrive; {self.running.words()[-2000:]}")

    def went_out(self, marker: str) -> tuple[str, list[str], bytes]:
        """MAIL, recipients and content of the message with this marker, as soon as the far host has it."""
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            for message in list(self.far.messages):
                if marker.encode() in message[2]:
                    return message
            time.sleep(0.02)
        raise AssertionError(f"{marker} did not go out; {self.running.words()[-2000:]}")

    def has(self, marker: str) -> bool:
        place = self.running.folder / "state" / "mailboxes" / "bert" / "new"
        return place.exists() and any(marker.encode() in path.read_bytes() for path in place.iterdir())


@contextlib.contextmanager
def standing(mx: FakeMx) -> Iterator[FakeMx]:
    """A host in a thread of its own."""
    loop, listening = asyncio.new_event_loop(), mx.listening()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(listening.__aenter__(), loop).result(SECONDS)
        yield mx
        asyncio.run_coroutine_threadsafe(listening.__aexit__(None, None, None), loop).result(SECONDS)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(SECONDS)
        loop.close()


@pytest.fixture(scope="package")
def gateway() -> Iterator[Gateway]:
    if os.geteuid() != 0:
        pytest.skip("needs root: clients run in mount namespaces")
    with tempfile.TemporaryDirectory(prefix="eg-peers-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        (folder / "gateway").mkdir()
        (folder / "clients").mkdir()
        folder.chmod(0o755)
        hosts = folder / "hosts"
        hosts.write_text(f"127.0.0.1 localhost {HOST}\n::1 localhost\n")
        with standing(FakeMx()) as far:
            yield from _gateway(folder, hosts, far)


def _gateway(folder: Path, hosts: Path, far: FakeMx) -> Iterator[Gateway]:
    for running in running_in(folder / "gateway", SITE.replace("FAR_PORT", str(far.port))):
        ca = folder / "ca.pem"
        shutil.copy(next((running.folder / "state" / "tls").glob("*cert*")), ca)
        made = Gateway(running, ca, hosts, folder / "clients", far)
        _account(running, ACCOUNT, PASSWORD)
        _account(running, "bert", "another-one")
        yield made


def _account(running: Running, name: str, password: str) -> None:
    secret = running.folder / f"{name}.secret"
    secret.write_text(password)
    command = [sys.executable, "-m", "egressguard", "user", "add", name, "--password-file", str(secret)]
    place = ["--rules", str(running.rules), "--state", str(running.folder / "state")]
    runtime = ["--runtime", str(running.runtime)]
    subprocess.run([*command, *place, *runtime], cwd=ROOT, check=True, capture_output=True)


@pytest.fixture(scope="package")
def readable() -> Iterator[reading.Gateway]:
    """Another one, whose mail is read."""
    with reading.reading_gateway() as made:
        yield made


def peer_of(program: str, folder: str) -> str | None:
    """Where the program is: in .peers/FOLDER, or on the machine itself (None). Skips when it is nowhere."""
    tree = ROOT / ".peers" / folder
    if (tree / ".unpacked").exists():
        return folder
    if shutil.which(program):
        return None
    pytest.skip(f"needs {program}: run scripts/peers")
