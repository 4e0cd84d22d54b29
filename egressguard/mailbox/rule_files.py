"""Accounts' own rules on disk: one file an account, read again when it changes.

Contract
    No file: no rules. A file with faults counts as none, and is logged once for each state of the file: mail then
    stays in the inbox, where its owner sees it. A file that cannot be read raises OSError.
    Written whole or not at all, and only what is well-formed.
"""

from __future__ import annotations

import logging
import os
import secrets
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

from egressguard.mailbox.account_name import is_account_name
from egressguard.policy.document import Fault
from egressguard.policy.mailbox_rules import MAX_OCTETS, MailboxRules, parse_mailbox_rules
from egressguard.store.durable import Disk, put, sync_directory

log = logging.getLogger(__name__)

KNOWN_FILES = 10_000
FILE_MODE = 0o640  # the administrator writes it, the relay's group reads it
SUFFIX = ".yaml"

_Stamp = tuple[int, int, int]


class RuleFiles:
    """Those in `directory`. `broken` hears of each faulty file that is met. All calls block."""

    def __init__(
        self, directory: Path, broken: Callable[[], object] = lambda: None, *, disk: type[Disk] = Disk
    ) -> None:
        self._directory = directory
        self._broken = broken
        self._disk = disk
        self._known: OrderedDict[str, tuple[_Stamp, MailboxRules | None]] = OrderedDict()

    def path(self, account: str) -> Path:
        if not is_account_name(account):
            raise ValueError(f"not an account name: {account[:80]!r}")
        return self._directory / f"{account}{SUFFIX}"

    def of(self, account: str) -> MailboxRules | None:
        """The account's rules, None: there are none to go by. Raises OSError."""
        path = self.path(account)
        stamp = _stamp_of(path)
        if stamp is None:
            return None
        known = self._known.get(account)
        if known is None or known[0] != stamp:
            known = (stamp, self._parsed(path))
            self._known[account] = known
            while len(self._known) > KNOWN_FILES:
                self._known.popitem(last=False)
        return known[1]

    def _parsed(self, path: Path) -> MailboxRules | None:
        found = parse_mailbox_rules(path.name, read_bounded(path))
        if isinstance(found, MailboxRules):
            return found
        self._broken()
        fields = {"path": str(path), "faults": [str(fault) for fault in found[:5]]}
        log.error("an account's rules have faults, its mail goes into the inbox", extra={"fields": fields})
        return None

    def text(self, account: str) -> bytes | None:
        """The file as it is; None: there is none. Raises OSError."""
        try:
            return read_bounded(self.path(account))
        except FileNotFoundError:
            return None

    def write(self, account: str, content: bytes) -> list[Fault]:
        """Take new rules, or say what is wrong with them and change nothing. Raises OSError."""
        path = self.path(account)
        found = parse_mailbox_rules(path.name, content)
        if not isinstance(found, MailboxRules):
            return found
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
        put(path, content, temporary=temporary, mode=FILE_MODE, disk=self._disk)
        return []

    def clear(self, account: str) -> bool:
        """False: there were none. Raises OSError."""
        try:
            self._disk.unlink(self.path(account))
        except FileNotFoundError:
            return False
        sync_directory(self._directory, self._disk)
        return True


def read_bounded(path: Path) -> bytes:
    """One octet more than may be, so that too much is seen as such. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(fd, "rb", buffering=0) as file:
        return file.read(MAX_OCTETS + 1) or b""


def _stamp_of(path: Path) -> _Stamp | None:
    try:
        status = os.stat(path, follow_symlinks=False)  # noqa: PTH116 -- one call, and its error is the answer
    except FileNotFoundError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size
