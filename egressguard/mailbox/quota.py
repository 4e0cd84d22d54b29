"""How much an account holds, and whether more would be too much.

Contract
    The files themselves are the truth, for us and for Dovecot's quota plugin (driver count, virtual sizes): a message
    counts as large as it is with CRLF line ends (W= in its file name; S=, else the file's size, where that is missing).
    All folders of the Maildir count. A folder is read again when it has changed, but reading takes at most a
    fiftieth of the time: what IMAP clients delete from a huge folder is seen seconds later.
    Where there is plenty of room, what was seen a second ago is enough; nobody is full without another look.
    Of an mbox only its octets are known, messages count as none.
"""

from __future__ import annotations

import math
import os
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from egressguard.mailbox.maildir import message_directories
from egressguard.policy.mailboxes import Quota
from egressguard.policy.model import Policy

KNOWN_ACCOUNTS = 10_000
SHARE = 50
AT_HAND_SECONDS = 1.0
PLENTY = 8
"""What was known so long ago is enough for a message while an eighth of the quota is free: a look takes longer than all
else that is asked of its account."""
TICK_SECONDS = 0.1
"""A directory's time is as coarse as a tick: one that changed just before it was read may change unseen."""

_VIRTUAL = re.compile(r",W=([0-9]{1,15})(?=[,:]|$)")
_ON_DISK = re.compile(r",S=([0-9]{1,15})(?=[,:]|$)")


@dataclass(frozen=True, slots=True)
class Usage:
    octets: int = 0
    messages: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(self.octets + other.octets, self.messages + other.messages)


NOTHING = Usage()


def excess(quota: Quota, usage: Usage, size_octets: int) -> str | None:
    """What a further message would exceed, in words; None: it fits."""
    if quota.octets is not None and usage.octets + size_octets > quota.octets:
        return f"{usage.octets} of {quota.octets} octets are used"
    if quota.messages is not None and usage.messages + 1 > quota.messages:
        return f"there are {usage.messages} of {quota.messages} messages"
    return None


def is_full(quota: Quota, usage: Usage) -> bool:
    """What was taken before is delivered while this is False: the last message may reach over the edge."""
    return (quota.octets is not None and usage.octets >= quota.octets) or (
        quota.messages is not None and usage.messages >= quota.messages
    )


def has_plenty(quota: Quota, usage: Usage, size_octets: int) -> bool:
    """A further message fits, and would if others had come since."""
    if quota.octets is not None and usage.octets + size_octets > quota.octets - quota.octets // PLENTY:
        return False
    return quota.messages is None or usage.messages + 1 <= quota.messages - quota.messages // PLENTY


@dataclass(slots=True)
class _Directory:
    """new/ or cur/ of one folder, as it was when its time was `stamp`."""

    stamp: int
    read_at: float
    usage: Usage


@dataclass(slots=True)
class _Account:
    """`added`: what we put there since its directories were read."""

    directories: dict[str, _Directory] = field(default_factory=dict)
    not_before: float = 0.0
    added: Usage = NOTHING
    looked_at: float = -math.inf

    @property
    def usage(self) -> Usage:
        return sum((directory.usage for directory in self.directories.values()), self.added)


class Usages:
    """Of the accounts whose Maildirs lie below `root`. Safe from several threads; calls block, and raise OSError."""

    def __init__(
        self,
        root: Path,
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._root = root
        self._clock = clock
        self._monotonic = monotonic
        self._known: OrderedDict[str, _Account] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, policy: Policy, account: str) -> Usage:
        """What the account holds now."""
        mailboxes = policy.site.mailboxes
        if mailboxes.target_of(account) == "mbox":
            return _of_files(mailboxes.mbox.inbox, mailboxes.mbox.folders, account)
        with self._lock:
            known = self._account(account)
            started = self._monotonic()
            if started >= known.not_before and self._read_changed(self._root / account, known):
                known.not_before = self._monotonic() + SHARE * (self._monotonic() - started)
                known.added = NOTHING
            known.looked_at = started
            return known.usage

    def at_hand(self, policy: Policy, account: str) -> Usage | None:
        """What it held AT_HAND_SECONDS ago at most, with what we have added since; None: ask `of`. Does not block."""
        if policy.site.mailboxes.target_of(account) == "mbox" or not self._lock.acquire(blocking=False):
            return None
        try:
            known = self._known.get(account)
            if known is None or self._monotonic() >= max(known.not_before, known.looked_at + AT_HAND_SECONDS):
                return None
            return known.usage
        finally:
            self._lock.release()

    def added(self, account: str, octets: int) -> None:
        """We have delivered a message there: it counts before the folder is read again."""
        with self._lock:
            if account in self._known:
                self._known[account].added += Usage(octets, 1)

    def _account(self, name: str) -> _Account:
        known = self._known.setdefault(name, _Account())
        self._known.move_to_end(name)
        while len(self._known) > KNOWN_ACCOUNTS:
            self._known.popitem(last=False)
        return known

    def _read_changed(self, maildir: Path, known: _Account) -> bool:
        """Read what has changed; True when there was any."""
        found: dict[str, _Directory] = {}
        changed = False
        for path in message_directories(str(maildir)):
            before = known.directories.get(path)
            stamp = os.stat(path).st_mtime_ns  # noqa: PTH116 -- one call of thousands
            settled = before is not None and before.stamp == stamp and before.read_at - stamp / 1e9 > TICK_SECONDS
            if before is not None and settled:
                found[path] = before
                continue
            changed = True
            found[path] = _Directory(stamp, self._clock(), _of_names(path))
        changed = changed or found.keys() != known.directories.keys()
        known.directories = found
        return changed


def _of_names(path: str) -> Usage:
    octets = messages = 0
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.name[0] != ".":
                octets += _size_of(entry)
                messages += 1
    return Usage(octets, messages)


def _size_of(entry: os.DirEntry[str]) -> int:
    said = _VIRTUAL.search(entry.name) or _ON_DISK.search(entry.name)
    if said is not None:
        return int(said[1])
    try:
        return entry.stat(follow_symlinks=False).st_size
    except FileNotFoundError:  # moved or deleted while we look
        return 0


def _of_files(inbox: str, folders: str | None, account: str) -> Usage:
    octets = _file_octets(inbox.replace("{account}", account))
    if folders is not None:
        try:
            with os.scandir(folders.replace("{account}", account)) as entries:
                octets += sum(entry.stat().st_size for entry in entries if entry.is_file(follow_symlinks=False))
        except (FileNotFoundError, PermissionError):  # a home directory that is closed to us holds none of ours
            return Usage(octets)
    return Usage(octets)


def _file_octets(path: str) -> int:
    try:
        return os.stat(path).st_size  # noqa: PTH116 -- one call, and its error is the answer
    except FileNotFoundError:
        return 0
