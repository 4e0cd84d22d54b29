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

from egressguard.mail.outcome import Outcome, Result
from egressguard.mailbox.delivery import MaildirDelivery
from egressguard.mailbox.lmtp_delivery import LmtpDelivery
from egressguard.mailbox.quota import Usage, Usages
from egressguard.smtp.client import SmtpClient
from egressguard.store.content import Content
from tests.mailbox.test_delivery import deposit
from tests.peers.test_lmtp import PROGRAM, ROOT, _version
from tests.relay.setting import policy_of

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
                return await LmtpDelivery(self.directory / "lmtp", client.send, "gw.example.org").store(POLICY, one)
            finally:
                await client.close()

        return asyncio.run(walk())

    def count(self, account: str, folder: str = "") -> int:
        return len(list((self.directory / "mail" / account / folder / "new").glob("*")))

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


@pytest.fixture(scope="module")
def dovecot() -> Iterator[Dovecot]:
    program = shutil.which("dovecot")
    if os.geteuid() != 0 or program is None or not PROGRAM.exists() or _version(program) != "2.3":
        pytest.skip("needs root, Dovecot 2.3 (apt install dovecot-imapd) and its lmtp (scripts/peers)")
    if not (SIEVE / "modules/lib90_sieve_plugin.so").exists():
        pytest.skip("needs Dovecot's Sieve: scripts/peers")
    directory = Path(tempfile.mkdtemp(prefix="eg-"))
    directory.chmod(0o755)
    (directory / "modules").mkdir()
    for path in (*MODULES.iterdir(), *(SIEVE / "modules").iterdir()):
        if not (directory / "modules" / path.name).exists():
            (directory / "modules" / path.name).symlink_to(path)
    (directory / "users").write_text("anna:{PLAIN}x::::::\nbert:{PLAIN}x::::::userdb_quota_rule=*:storage=700B\n")
    for name in ("mail", "mail/anna", "mail/bert", "sieve"):
        (directory / name).mkdir()
        shutil.chown(directory / name, "nobody", "nogroup")
    (directory / "sieve" / "anna.sieve").write_text(SCRIPT)
    (directory / "dovecot.conf").write_text(
        f"""
base_dir = {directory}/run
state_dir = {directory}/state
log_path = {directory}/log
protocols = lmtp
ssl = no
import_environment = PATH LD_LIBRARY_PATH={SIEVE}
default_internal_user = nobody
default_internal_group = nogroup
default_login_user = nobody
mail_location = maildir:{directory}/mail/%n
mail_plugin_dir = {directory}/modules
mail_plugins = quota
auth_username_format = %Ln
recipient_delimiter = +
passdb {{
  driver = passwd-file
  args = {directory}/users
}}
userdb {{
  driver = passwd-file
  args = {directory}/users
  override_fields = uid=nobody gid=nogroup home={directory}/mail/%n
}}
plugin {{
  quota = count:User quota
  quota_vsizes = yes
  sieve = file:{directory}/sieve/%u.sieve
}}
protocol lmtp {{
  mail_plugins = quota sieve
}}
service lmtp {{
  executable = {PROGRAM}
  unix_listener {directory}/lmtp {{
    mode = 0666
  }}
}}
"""
    )
    process = subprocess.Popen([program, "-F", "-c", str(directory / "dovecot.conf")])
    try:
        for _ in range(200):
            with socket.socket(socket.AF_UNIX) as client, pytest.MonkeyPatch.context():
                if client.connect_ex(str(directory / "lmtp")) == 0:
                    break
            assert process.poll() is None, (directory / "log").read_text()
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
    assert (dovecot.count("anna"), dovecot.count("anna", ".Lists")) == (1, 1), (dovecot.directory / "log").read_text()


def test_an_account_that_dovecot_does_not_know_is_our_own_trouble(dovecot: Dovecot) -> None:
    outcome = dovecot.store(account="carl")
    assert (outcome.result, outcome.status) == (Result.TRANSIENT, "4.3.5")


def test_a_server_that_is_away_is_transient(tmp_path: Path) -> None:
    outcome = Dovecot(tmp_path).store()
    assert outcome.result is Result.TRANSIENT


def test_we_and_dovecot_count_the_same(dovecot: Dovecot) -> None:
    """Whoever delivered: Dovecot over LMTP (LF on disk), or we (CRLF), also what has bare LFs."""
    delivery = MaildirDelivery(dovecot.directory / "mail")
    for number, content in enumerate((CONTENT % b"ours", b"bare\nLF\nand no end", b"\r\n" * 1000)):
        one = deposit(f"ours{number}", content=content, account="anna", folder="Lists" if number else "INBOX")
        asyncio.run(delivery.store(POLICY, one))
    subprocess.run(["chown", "-R", "nobody:nogroup", str(dovecot.directory / "mail")], check=True)
    dovecot.store(queue_id="q9", content=Content.of(CONTENT % b"theirs"))
    used = Usages(dovecot.directory / "mail").of(POLICY, "anna")
    assert used.messages >= 5
    assert dovecot.virtual_octets("anna") == used.octets
    assert dovecot.quota("anna") == Usage(-(-used.octets // 1024), used.messages)  # it tells kibibytes, rounded up


def test_a_full_account_of_dovecot_s_makes_its_message_wait(dovecot: Dovecot) -> None:
    outcomes = [dovecot.store(account="bert", queue_id=f"b{n}", content=b"x" * 200 + b"\r\n") for n in range(2)]
    assert outcomes[0].result is Result.DELIVERED
    assert (outcomes[1].result, outcomes[1].status) == (Result.TRANSIENT, "4.2.2")
