"""The cases `import*` of `benchmarks/mailboxes.py`: mailboxes are taken over, beside `doveadm backup` where it can.

Contract
    Both sides copy the same files into a mailbox that is empty, in turns; both are durable when they end.
    What we took over is compared with its source, message by message, by `--verify`: a difference is a RuntimeError.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

from egressguard.mailbox.accounts import Accounts
from tests.mailbox.takeover.large import make_maildir, make_mboxes

SOURCES = ("dovecot", "mbox", "courier", "qmail")
PROGRAM = (sys.executable, "-m", "egressguard", "mailbox", "import")
AS_NOBODY = ("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups")
"""doveadm does not work on mail as root."""

Case = dict[str, float | str | None]


class Import:
    """One source of `count` messages in `world`."""

    def __init__(self, world: Path, name: str, count: int) -> None:
        self._world, self._name, self._count = world, name, count
        self._source, self._inbox = world / name, world / f"{name}-inbox" / "box"

    def measure(self, case: str, rounds: int) -> Case:
        if self._name == "mbox":
            self._inbox.parent.mkdir()  # Dovecot locks it there
            make_mboxes(self._source, self._inbox, self._count)
        else:
            make_maildir(self._source, self._count, self._name)
        subprocess.run(["chown", "-R", "nobody:nogroup", *self._files()], check=True)
        try:
            ours, peer = self._seconds(rounds)
            self._verify()
        finally:
            subprocess.run(["rm", "-r", *self._files()], check=True)
        ratio = peer and peer / ours
        words = f"ours {ours:6.1f} s" + (f", doveadm {peer:6.1f} s: {ratio:.2f}x" if peer else "")
        print(f"{case:<14} {words}, {self._count / ours:.0f} messages/s", file=sys.stderr, flush=True)
        rounded = (peer and round(peer, 2), ratio and round(ratio, 3))
        return {"ours": round(ours, 2), "peer": rounded[0], "ratio": rounded[1], "unit": "s"}

    def _files(self) -> list[str]:
        return [str(self._source), *([str(self._inbox.parent)] if self._name == "mbox" else [])]

    def _seconds(self, rounds: int) -> tuple[float, float | None]:
        """(ours, peer)."""
        if self._name not in {"dovecot", "mbox"}:
            return statistics.median(self._ours() for _ in range(rounds)), None
        pairs = [(self._doveadm(), self._ours())[::-1] for _ in range(rounds)]
        return statistics.median(ours for ours, _ in pairs), statistics.median(peer for _, peer in pairs)

    def _ours(self) -> float:
        """Seconds, and the mailbox is there."""
        state = self._world / "state"
        shutil.rmtree(state, ignore_errors=True)
        (state / "accounts").mkdir(parents=True)
        Accounts(state / "accounts" / "passwd").add("anna", "secret")
        started = time.monotonic()
        subprocess.run(self._program(), check=True, stdout=subprocess.DEVNULL)
        return time.monotonic() - started

    def _verify(self) -> None:
        done = subprocess.run([*self._program(), "--verify"], check=False, capture_output=True, text=True)
        told = json.loads(done.stdout) if done.returncode == 0 else {}
        if told.get("differences") != 0:
            raise RuntimeError(f"what was taken over from {self._name} is not what was there: {told} {done.stderr}")

    def _program(self) -> list[str]:
        state = str(self._world / "state")
        inbox = ["--inbox", str(self._inbox)] if self._name == "mbox" else []
        return [*PROGRAM, "--state", state, str(self._source), *inbox, "--account", "anna", "--json"]

    def _doveadm(self) -> float:
        world, target = self._world, self._world / "theirs"
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        shutil.chown(target, "nobody", "nogroup")
        is_mbox = self._name == "mbox"
        location = f"mbox:{self._source}:INBOX={self._inbox}" if is_mbox else f"maildir:{self._source}"
        config = world / "doveadm.conf"
        config.write_text(
            f"base_dir = {world}/base\nstate_dir = {world}/base\nlog_path = /dev/stderr\nssl = no\n"
            f"mail_location = {location}\nfirst_valid_uid = 0\n"
            "default_internal_user = nobody\ndefault_login_user = nobody\nmail_fsync = never\n"
            "namespace inbox {\n  inbox = yes\n  separator = /\n}\n"
        )
        (world / "base").mkdir(exist_ok=True)
        environment = {"USER": "nobody", "HOME": str(target), "PATH": os.environ["PATH"]}
        command = [*AS_NOBODY, "doveadm", "-c", str(config), "backup", f"maildir:{target}/mail"]
        started = time.monotonic()
        subprocess.run(command, check=True, env=environment)
        os.sync()
        took = time.monotonic() - started
        if (copied := len(list(target.glob("mail/**/cur/*")))) != self._count:
            raise RuntimeError(f"doveadm copied {copied} messages of {self._count}")
        return took
