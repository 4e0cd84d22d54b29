"""The cases `deliver` and `deliver_store` of `benchmarks/mailboxes.py`: mail comes in by a socket and lies in Maildirs.

Contract
    Both sides get the same load from smtp-source(1): a connection for each of 20 accounts, 4 KB a message, one command
    at a time. Both are as durable as they are by default.
    A message that is refused, lost or doubled is a RuntimeError: nothing is counted that is not in its Maildir.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from abc import abstractmethod
from pathlib import Path

from benchmarks.relay_load import CLIENT, SENDER
from benchmarks.relay_sides import READY, daemon
from benchmarks.relay_world import LOOPBACK, Server, postfix_program
from egressguard.app.control import ask
from egressguard.app.places import Places
from egressguard.mailbox.accounts import Accounts
from tests.lab.internet import ROOT

DOMAIN = "box.example"
ACCOUNTS = tuple(f"user{number}" for number in range(20))
SIZE_OCTETS = 4096
LOAD_SECONDS = 300
SILENT_SECONDS = 30
POLL_SECONDS = 0.005
LMTP = ROOT / ".peers" / "lmtp"

_EACH = """
for account in $1; do smtp-source $2 -t "$account@$3" "$4" & waiting="$waiting $!"; done
for one in $waiting; do wait "$one" || exit 1; done
"""
_WITH_LMTP = 'mount -t overlay overlay -o "ro,lowerdir=$1/usr:/usr" /usr && shift && exec "$@"'
"""Debian's dovecot-lmtpd, where its package would have put it, and seen by this command alone."""


class MailServer(Server):
    """A server with the mailboxes of ACCOUNTS. `at` is where smtp-source finds it, `speech` what it speaks there."""

    at: str
    speech = ""

    @abstractmethod
    def stored(self) -> int:
        """How many messages lie in the accounts' Maildirs."""

    def rest(self) -> None:
        """Returns when nothing of what was taken is on its way any more."""


class Gateway(MailServer):
    """This project's daemon, all its roles: SMTP, spool, queue, and what `deliver` says."""

    def __init__(self, folder: Path, port: int, *, deliver: str) -> None:
        super().__init__(folder, port)
        self.at, self._deliver = f"{LOOPBACK}:{port}", deliver
        self.places = Places(folder / "rules", folder / "state", folder / "run")
        self.places.rules.mkdir()
        (self.places.rules / "site.yaml").write_text(json.dumps(_rules(port, deliver), indent=1))  # JSON is YAML

    def start(self) -> None:
        super().start()
        accounts = Accounts(self.places.accounts)
        for name in ACCOUNTS:
            accounts.add(name, "secret")

    def stored(self) -> int:
        return _files(self.places.mailboxes)

    def rest(self) -> None:
        deadline = time.monotonic() + SILENT_SECONDS
        while rows := ask(self.places.control("relay"), "queue.list", limit=1):
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.name}: stays in the queue: {rows}\n{self.words()}")
            time.sleep(POLL_SECONDS)

    def _command(self) -> list[str]:
        if self._deliver != "lmtp":
            return daemon(self.places)
        return ["unshare", "--mount", "sh", "-c", _WITH_LMTP, "sh", str(LMTP), *daemon(self.places)]

    def _is_ready(self) -> bool:
        return READY in self.log.read_bytes()


def _rules(port: int, deliver: str) -> dict[str, object]:
    return {
        "site": {
            "zones": {"lan": {"networks": "127.0.0.0/8"}},
            "domains": [DOMAIN],
            "relay": {
                "hostname": "gateway.bench.example",
                "listeners": {"lan": {"kind": "smtp", "port": port, "addresses": LOOPBACK}},
            },
            "metrics": {"port": 0},
            "access": {"imap_port": port + 1000},  # for nobody, but without it there is no Dovecot
            "mailboxes": {"deliver": deliver, "aliases": {"info": "user0"}, "quota": {"octets": 10**12}},
        },
        "mail": [{"name": "own", "match": {"client": "lan", "recipient_domain": "@local"}, "action": "accept"}],
    }


class Dovecot(MailServer):
    """Debian's Dovecot as it comes, with its LMTP alone, for one system user."""

    speech = "-L"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, 0)
        self.at = f"unix:{folder}/run/lmtp"

    def stored(self) -> int:
        return _files(self.folder / "mail")

    def _command(self) -> list[str]:
        user = "nobody"
        (self.folder / "mail").mkdir()
        shutil.chown(self.folder / "mail", user, "nogroup")
        config = self.folder / "dovecot.conf"
        config.write_text(
            f"base_dir = {self.folder}/run\nstate_dir = {self.folder}/state\nlog_path = {self.log}\nprotocols = lmtp\n"
            f"ssl = no\ndefault_internal_user = {user}\ndefault_internal_group = nogroup\ndefault_login_user = {user}\n"
            "mail_location = maildir:~\nlmtp_add_received_header = no\npassdb {\n  driver = static\n}\n"
            f"userdb {{\n  driver = static\n  args = uid={user} gid=nogroup home={self.folder}/mail/%n "
            "allow_all_users=yes\n}\nservice lmtp {\n  unix_listener lmtp {\n    mode = 0666\n  }\n}\n"
        )
        return [str(ROOT / "scripts" / "peer"), "lmtp", "dovecot", "-F", "-c", str(config)]

    def _is_ready(self) -> bool:
        return (self.folder / "run" / "lmtp").exists()


def _files(mailboxes: Path) -> int:
    return sum(len(list((mailboxes / name / "new").glob("*"))) for name in ACCOUNTS)


def deliveries(server: MailServer, count: int) -> float:
    """Deliveries a second: from the start of the load until the last of `count` messages is in its Maildir."""
    each = count // len(ACCOUNTS)
    wanted = server.stored() + each * len(ACCOUNTS)
    options = f"{server.speech} -d -s 1 -m {each} -l {SIZE_OCTETS} -f {SENDER} -M {CLIENT}"
    words = ["sh", "-c", _EACH, "sh", " ".join(ACCOUNTS), options, DOMAIN, server.at]
    started = time.monotonic()
    done = subprocess.run(postfix_program(*words), capture_output=True, text=True, timeout=LOAD_SECONDS, check=False)
    server.rest()
    took = time.monotonic() - started
    if done.returncode or done.stderr:
        raise RuntimeError(f"smtp-source to {server.name}: {done.stderr[-500:]}\n{server.words()}")
    if (there := server.stored()) != wanted:
        raise RuntimeError(f"{server.name}: {there} messages lie there instead of {wanted}:\n{server.words()}")
    return each * len(ACCOUNTS) / took
