"""One gateway whose mail is read: accounts, mail that came by SMTP, IMAP and POP3 of the machine's own Dovecot."""

from __future__ import annotations

import contextlib
import imaplib
import json
import os
import shutil
import smtplib
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest

from egressguard.access.programs import HOW_TO_GET_IT, find_programs
from egressguard.app.control import ask
from tests.app.test_gateway import Running, running_in
from tests.peers.dovecots import gateway_words, own_words
from tests.smtp.scram_client import ScramClient

T = TypeVar("T")
ROOT = Path(__file__).parent.parent.parent
HOST, PASSWORD, SECONDS = "gw.test.example", "correct-horse", 40
HOLDS = "suspect@far.example"
SORTED = "sorted"
"""The account whose mail goes by LMTP, where there is what that needs (scripts/peers)."""
SITE = """
site:
  zones: {here: {networks: 127.0.0.0/8}}
  domains: [test.example]
  resolvers: "127.0.0.1:9"
  relay:
    hostname: gw.test.example
    listeners: {lan: {kind: smtp, port: 0}, submissions: {kind: submissions, port: 0}}
  metrics: {port: 0}
  access:
    imap_port: 0
    imaps_port: 0
    pop3_port: 0
    pop3s_port: 0
    max_user_sessions: 50
    quarantine_admins: boss
    own_quarantine: {}
  mailboxes: {accounts: {sorted: {deliver: lmtp}}}
mail:
  - {name: suspect, match: {sender: suspect@far.example}, action: quarantine, folder: Held}
  - {name: users, match: {authenticated: true}, action: accept}
  - {name: own, match: {client: here, recipient_domain: "@local"}, action: accept}
"""


@dataclass
class Gateway:
    """`ca` is the file that clients check its certificate with, `folder` a place for their own files."""

    running: Running
    ca: Path
    hosts: Path
    folder: Path
    made: int = 0

    def port(self, service: str) -> int:
        return int(self.access()["ports"][service])

    def access(self) -> dict[str, Any]:
        return dict(ask(self.running.runtime / "access" / "control.sock", "status"))

    def context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.ca))
        context.check_hostname = False  # libraries ask for the name they dial, which is an address here
        return context

    def account(self) -> str:
        """A new one, with PASSWORD."""
        self.made += 1
        name = f"reader{self.made}"
        self.add(name)
        return name

    def add(self, name: str) -> None:
        secret = self.running.folder / "secret"
        secret.write_text(PASSWORD)
        self.running.told("user", "add", name, "--password-file", str(secret))
        # Once Dovecot has looked at its files, each within a second: passwords in one, what SCRAM needs in the other.
        until(lambda: self._lets_in(lambda one: one.login(name, PASSWORD)))
        until(lambda: self._lets_in(lambda one: by_scram(one, name)))

    def _lets_in(self, log_in: Callable[[imaplib.IMAP4_SSL], object]) -> bool:
        try:
            with imaplib.IMAP4_SSL("127.0.0.1", self.port("imaps"), ssl_context=self.context(), timeout=SECONDS) as one:
                log_in(one)
        except imaplib.IMAP4.error:
            return False
        return True

    def send(self, recipient: str, content: bytes, sender: str = "x@far.example") -> None:
        with smtplib.SMTP("127.0.0.1", self.running.port("lan"), timeout=SECONDS) as client:
            client.sendmail(sender, [f"{recipient}@test.example"], content, mail_options=["BODY=8BITMIME"])

    def told_with(self, given: str, *words: str) -> None:
        """A command that reads."""
        command = self.running.command(*words)
        done = subprocess.run(command, cwd=ROOT, input=given, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    def journal(self, kind: str, about: str) -> list[dict[str, Any]]:
        """The rows of a kind in which this stands."""
        rows = self.running.told("journal", "--kind", kind, "--json").splitlines()
        return [json.loads(row) for row in rows if about in row]

    def deliver(self, name: str, *contents: bytes) -> list[bytes]:
        """The octets that lie in the mailbox then, in the order in which they were sent."""
        place = self.running.folder / "state" / "mailboxes" / name / "new"
        for number, content in enumerate(contents, 1):
            self.send(name, content)
            until(lambda number=number: place.exists() and len(list(place.iterdir())) == number)  # type: ignore[misc]
        files = sorted(place.iterdir(), key=lambda path: path.stat().st_mtime_ns)
        return [path.read_bytes() for path in files]

    def run(
        self, peer: str | None, *words: str, given: bytes = b"", env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        """A client, for whom HOST is this machine: the name is in an /etc/hosts that it alone sees."""
        inside = ["sh", "-c", 'mount --bind "$0" /etc/hosts && exec "$@"', str(self.hosts), *words]
        apart = ["unshare", "--mount", "--propagation", "private"]
        outside = [str(ROOT / "scripts" / "peer"), peer] if peer else apart
        environment = {**os.environ, "HOME": str(self.folder), **(env or {})}
        return subprocess.run(
            [*outside, *inside], input=given, capture_output=True, timeout=60, env=environment, check=False
        )


def by_scram(client: imaplib.IMAP4_SSL, name: str) -> None:
    """Log in so where it is offered. Raises imaplib's error."""
    if "AUTH=SCRAM-SHA-256" in client.capabilities:
        client.authenticate("SCRAM-SHA-256", ScramClient(name, PASSWORD).answer)


def until(truth: Callable[[], T], seconds: float = SECONDS) -> T:
    deadline = time.monotonic() + seconds
    while not (answer := truth()):
        assert time.monotonic() < deadline, "did not come true in time"
        time.sleep(0.05)
    return answer


@contextlib.contextmanager
def reading_gateway(site: str = SITE, generation: str = "") -> Iterator[Gateway]:
    """`generation` of Dovecot: "" is the machine's own, with LMTP and Sieve if they are there."""
    if os.geteuid() != 0:
        pytest.skip("needs root: clients run in mount namespaces")
    if find_programs() is None:
        pytest.skip(f"needs Dovecot: {HOW_TO_GET_IT}")
    with tempfile.TemporaryDirectory(prefix="eg-read-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)
        for made in gateway_at(folder, site, gateway_words(generation, folder) if generation else own_words()):
            made.add("boss")
            yield made


def gateway_at(folder: Path, site: str, words: Sequence[str]) -> Iterator[Gateway]:
    """`words` start it (tests.peers.dovecots)."""
    (folder / "gateway").mkdir()
    (folder / "clients").mkdir()
    (folder / "hosts").write_text(f"127.0.0.1 localhost {HOST}\n::1 localhost\n")
    for running in running_in(folder / "gateway", site, words):
        ca = folder / "ca.pem"
        shutil.copy(next((running.folder / "state" / "tls").glob("*cert*")), ca)
        yield Gateway(running, ca, folder / "hosts", folder / "clients")


def node(gateway: Gateway, program: str) -> Any:
    """What a program for node says, as JSON."""
    done = gateway.run(None, "node", "-e", program, env={"NODE_EXTRA_CA_CERTS": str(gateway.ca)})
    assert done.returncode == 0, done.stderr.decode(errors="replace")[-2000:]
    return json.loads(done.stdout)


PYTHON = sys.executable
