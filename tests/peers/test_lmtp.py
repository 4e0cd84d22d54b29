"""Delivery by LMTP into a real Dovecot, by the relay's own attempt: over a Unix socket and over TCP."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from egressguard.mail.outcome import Outcome, Result
from egressguard.relay.attempt import Means, attempt, ways_of
from egressguard.store.content import Content
from tests.relay.setting import Table, claim_of, policy_of

pytestmark = pytest.mark.peers

ROOT = Path(__file__).parent.parent.parent
PROGRAM = ROOT / ".peers" / "lmtp" / "usr/lib/dovecot/lmtp"
ANNA, BOB, NOBODY = "anna@box.example", "bob@box.example", "nobody@box.example"
LETTER = b"From: a@example.org\r\nSubject: hello\r\n\r\n.dot\r\nend\r\n"


@dataclass(frozen=True)
class Dovecot:
    directory: Path
    port: int

    def mail_of(self, user: str) -> list[bytes]:
        return [path.read_bytes() for path in (self.directory / "mail" / user / "new").glob("*")]


def _version(program: str) -> str:
    """Of Dovecot and of its library: lmtp is of another package, and must be of the same make."""
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    return ".".join(said.split(".")[:2])


@pytest.fixture(scope="module")
def dovecot() -> Iterator[Dovecot]:
    program = shutil.which("dovecot")
    if os.geteuid() != 0 or program is None or not PROGRAM.exists() or _version(program) != "2.3":
        pytest.skip("needs root, Dovecot 2.3 (apt install dovecot-imapd) and its lmtp (scripts/peers)")
    directory = Path(tempfile.mkdtemp(prefix="eg-"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    directory.chmod(0o755)
    (directory / "users").write_text("anna:{PLAIN}x\nbob:{PLAIN}x\n")
    for name in ("mail", "mail/anna", "mail/bob"):
        (directory / name).mkdir()
        shutil.chown(directory / name, "nobody", "nogroup")
    (directory / "dovecot.conf").write_text(
        f"""
base_dir = {directory}/run
state_dir = {directory}/state
log_path = {directory}/log
protocols = lmtp
ssl = no
default_internal_user = nobody
default_internal_group = nogroup
default_login_user = nobody
mail_location = maildir:{directory}/mail/%n
auth_username_format = %Ln
passdb {{
  driver = passwd-file
  args = {directory}/users
}}
userdb {{
  driver = static
  args = uid=nobody gid=nogroup home={directory}/mail/%n
}}
service lmtp {{
  executable = {PROGRAM}
  unix_listener {directory}/lmtp {{
    mode = 0666
  }}
  inet_listener lmtp {{
    address = 127.0.0.1
    port = {port}
  }}
}}
"""
    )
    process = subprocess.Popen([program, "-F", "-c", str(directory / "dovecot.conf")])
    try:
        _wait_for(process, port, directory)
        yield Dovecot(directory, port)
    finally:
        process.terminate()
        process.wait(20)
        shutil.rmtree(directory)


def _wait_for(process: subprocess.Popen[bytes], port: int, directory: Path) -> None:
    for _ in range(200):
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
                assert re.match(rb"220 ", client.recv(200))
                return
        except ConnectionRefusedError:
            assert process.poll() is None, (directory / "log").read_text()
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.05)
    pytest.fail("Dovecot does not listen")


def delivered(hop: str, *paths: str) -> dict[str, Outcome]:
    policy = policy_of(routes=[{"name": "box", "via": hop}])
    claim = claim_of(*paths)
    (way,) = ways_of(policy, claim)
    means = Means(Table(), "gw.example.org", Path("/nonexistent"))
    return dict(asyncio.run(attempt(way, claim, Content.of(LETTER), policy, means)).outcomes)


@pytest.mark.parametrize("hop", ["lmtp:unix:{0.directory}/lmtp", "lmtp:[127.0.0.1]:{0.port}"])
def test_each_recipient_of_a_message_has_its_own_fate(dovecot: Dovecot, hop: str) -> None:
    before = len(dovecot.mail_of("anna"))
    (dovecot.directory / "mail" / "bob").chmod(0)
    shutil.chown(dovecot.directory / "mail" / "bob", "root", "root")
    outcomes = delivered(hop.format(dovecot), ANNA, NOBODY, BOB)
    assert [(outcomes[path].result) for path in (ANNA, NOBODY, BOB)] == [
        Result.DELIVERED,
        Result.PERMANENT,
        Result.TRANSIENT,
    ]
    assert outcomes[NOBODY].status == "5.1.1"
    (*_, mail) = found = dovecot.mail_of("anna")
    assert len(found) == before + 1
    assert mail.replace(b"\r\n", b"\n").endswith(LETTER.replace(b"\r\n", b"\n"))
