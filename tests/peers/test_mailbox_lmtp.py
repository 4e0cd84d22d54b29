"""Accounts whose mail Dovecot puts away: LMTP with Sieve, and one quota that both of us see."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from egressguard.access.dovecot import render_dovecot, render_quota_users
from egressguard.access.model import AccessModel, Ports
from egressguard.access.ports import choose_ports
from egressguard.mail.outcome import Outcome, Result
from egressguard.mailbox.delivery import MaildirDelivery
from egressguard.mailbox.lmtp_delivery import LmtpDelivery
from egressguard.mailbox.quota import Usage, Usages
from egressguard.policy.mailboxes import Quota
from egressguard.smtp.client import SmtpClient
from egressguard.store.content import Content
from tests.mailbox.test_delivery import deposit
from tests.peers.test_lmtp import PROGRAM, ROOT, _version
from tests.relay.setting import policy_of
from tests.smtp.fake_mx import make_certificate

pytestmark = pytest.mark.peers

SIEVE = ROOT / ".peers/sieve/usr/lib/dovecot"
MODULES = Path("/usr/lib/dovecot/modules")
SCRIPT = """\
require ["fileinto", "mailbox", "subaddress", "envelope"];
if envelope :detail "to" "lists" { fileinto :create "Lists"; }
elsif header :contains "Subject" "cheap" { discard; }
elsif header :contains "Subject" "broken" { redirect "nobody@far.example"; }
"""
POLICY = policy_of(mailboxes={"deliver": "lmtp"})
CONTENT = b"From: a@example.org\r\nSubject: %s\r\n\r\n.dot\r\nend\r\n"


@dataclass(frozen=True)
class Dovecot:
    directory: Path

    def store(self, subject: bytes = b"hello", **more: Any) -> Outcome:
        one = deposit(**{"content": CONTENT % subject} | more)

        async def walk() -> Outcome:
            client = SmtpClient()
            try:
                return await LmtpDelivery(self.directory / "base" / "lmtp", client.send, "gw.example.org").store(
                    POLICY, one
                )
            finally:
                await client.close()

        return asyncio.run(walk())

    def count(self, account: str, folder: str = "") -> int:
        return len(list((self.directory / "mailboxes" / account / folder / "new").glob("*")))

    def quota(self, account: str) -> Usage:
        """What Dovecot says."""
        rows = {row[1]: row[2] for row in self._told("quota", "get", "-u", account)}
        return Usage(int(rows["STORAGE"]), int(rows["MESSAGE"]))

    def virtual_octets(self, account: str) -> int:
        return sum(int(row[1]) for row in self._told("mailbox", "status", "-u", account, "vsize", "*"))

    def _told(self, *words: str) -> list[list[str]]:
        command = ["doveadm", "-c", str(self.directory / "dovecot.conf"), "-f", "tab", *words]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        return [line.split("\t") for line in said.splitlines()[1:]]


def model_at(directory: Path) -> AccessModel:
    """As the access role makes it of the rules."""
    return AccessModel(
        base_dir=directory / "base",
        state_dir=directory / "state",
        mailbox_root=directory / "mailboxes",
        views_root=directory / "views",
        accounts=directory / "passwd",
        certificate=directory / "certificate",
        private_key=directory / "private_key",
        user="nobody",
        group="nogroup",
        ports=choose_ports(Ports(imap=0), ("127.0.0.1",)),
        addresses=("127.0.0.1",),
        quota=Quota(octets=10**6),
        quotas=(("bert", Quota(octets=400)),),
        lmtp=True,
        sieve=True,
    )


@pytest.fixture(scope="module")
def dovecot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dovecot]:
    program = shutil.which("dovecot")
    if os.geteuid() != 0 or program is None or not PROGRAM.exists() or _version(program) != "2.3":
        pytest.skip("needs root, Dovecot 2.3 (apt install dovecot-imapd) and its lmtp (scripts/peers)")
    if not (SIEVE / "modules/lib90_sieve_plugin.so").exists():
        pytest.skip("needs Dovecot's Sieve: scripts/peers")
    folder = tmp_path_factory.mktemp("tls")
    make_certificate(folder, "127.0.0.1")
    directory = Path(tempfile.mkdtemp(prefix="eg-"))
    directory.chmod(0o755)
    (directory / "modules").mkdir()
    for path in (*MODULES.iterdir(), *(SIEVE / "modules").iterdir()):
        if not (directory / "modules" / path.name).exists():
            (directory / "modules" / path.name).symlink_to(path)
    for name in ("mailboxes", "mailboxes/anna", "mailboxes/bert", "state", "state/sieve", "base"):
        (directory / name).mkdir()
        shutil.chown(directory / name, "nobody", "nogroup")
    (directory / "passwd").write_text("anna:{PLAIN}x::::::\nbert:{PLAIN}x::::::\n")
    for name, file in (("certificate", "certificate.pem"), ("private_key", "key.pem")):
        shutil.copy(folder / file, directory / name)
    model = model_at(directory)
    (model.sieve_scripts / "anna.sieve").write_text(SCRIPT)
    model.quota_users.write_text(render_quota_users(model, (2, 3)))
    model.scram.touch()
    model.shut_out.touch()
    model.temporary_dir.mkdir()
    # What the packages would have put where Dovecot looks for it.
    here = f"mail_plugin_dir = {directory}/modules\nimport_environment = PATH LD_LIBRARY_PATH={SIEVE}\n"
    here += f"service lmtp {{\n  executable = {PROGRAM}\n}}\n"
    (directory / "dovecot.conf").write_text(render_dovecot(model, (2, 3)) + here)
    process = subprocess.Popen([program, "-F", "-c", str(directory / "dovecot.conf")])
    try:
        for _ in range(200):
            with socket.socket(socket.AF_UNIX) as client:
                if client.connect_ex(str(directory / "base" / "lmtp")) == 0:
                    break
            assert process.poll() is None, "it ended"
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.05)
        yield Dovecot(directory)
    finally:
        process.terminate()
        process.wait(20)
        shutil.rmtree(directory)


def test_a_sieve_script_sorts(dovecot: Dovecot) -> None:
    assert dovecot.store(queue_id="q1").result is Result.DELIVERED
    assert (dovecot.count("anna"), dovecot.count("anna", ".Lists")) == (1, 0)
    assert dovecot.store(queue_id="q2", detail="lists").result is Result.DELIVERED
    assert dovecot.store(b"cheap", queue_id="q3").result is Result.DELIVERED
    assert (dovecot.count("anna"), dovecot.count("anna", ".Lists")) == (1, 1)


def test_an_account_that_dovecot_does_not_know_is_our_own_trouble(dovecot: Dovecot) -> None:
    """It takes what the relay says for an account, but for characters that no account has."""
    outcome = dovecot.store(account="ca=rl")
    assert (outcome.result, outcome.status) == (Result.TRANSIENT, "4.3.5")


def test_a_server_that_is_away_is_transient(tmp_path: Path) -> None:
    outcome = Dovecot(tmp_path).store()
    assert outcome.result is Result.TRANSIENT


def test_we_and_dovecot_count_the_same(dovecot: Dovecot) -> None:
    """Whoever delivered: Dovecot over LMTP (LF on disk), or we (CRLF), also what has bare LFs."""
    delivery = MaildirDelivery(dovecot.directory / "mailboxes")
    for number, content in enumerate((CONTENT % b"ours", b"bare\nLF\nand no end", b"\r\n" * 1000)):
        one = deposit(f"ours{number}", content=content, account="anna", folder="Lists" if number else "INBOX")
        asyncio.run(delivery.store(POLICY, one))
    subprocess.run(["chown", "-R", "nobody:nogroup", str(dovecot.directory / "mailboxes")], check=True)
    dovecot.store(queue_id="q9", content=Content.of(CONTENT % b"theirs"))
    used = Usages(dovecot.directory / "mailboxes").of(POLICY, "anna")
    assert used.messages >= 5
    assert dovecot.virtual_octets("anna") == used.octets
    assert dovecot.quota("anna") == Usage(-(-used.octets // 1024), used.messages)  # it tells kibibytes, rounded up


def test_a_full_account_of_dovecot_s_makes_its_message_wait(dovecot: Dovecot) -> None:
    outcomes = [dovecot.store(account="bert", queue_id=f"b{n}", content=b"x" * 200 + b"\r\n") for n in range(2)]
    assert outcomes[0].result is Result.DELIVERED
    assert (outcomes[1].result, outcomes[1].status) == (Result.TRANSIENT, "4.2.2")
