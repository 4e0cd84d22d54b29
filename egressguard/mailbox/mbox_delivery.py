"""Delivery into files of mail (mbox) that people's programs on this machine read: /var/mail/USER, ~/mail/FOLDER.

Contract
    DELIVERED means on stable storage. The file is never left with half a message: what could not be written whole is
    cut off again, at once or, after a crash, before the next message is written.
    Once per (queue_id, file): before a message is written, where and what it will be is noted durably, so that an
    attempt after a crash finds it. Only in a file that somebody rewrote since may it stand twice.
    Others' locks are respected (mailbox.spool_lock); who holds them too long makes the message wait.
    No file is followed, read or written that is not the account's user's own: links are refused.
    A missing file is made only where it would belong to its user.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import json
import os
import pwd
import random
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from egressguard.mail.outcome import Outcome, delivered, transient
from egressguard.mailbox.deposit import Deposit
from egressguard.mailbox.mbox_text import from_line, quoted
from egressguard.mailbox.spool_lock import Locked, locked
from egressguard.policy.mailbox_rules import INBOX
from egressguard.policy.model import Policy
from egressguard.store.durable import Disk, put, sync_directory

FILE_MODE = 0o660
TRIES, LONGEST_PAUSE_SECONDS = 20, 1.0
LOCKED = transient("4.2.0", "the mailbox is locked by another program")
_COMPARED_OCTETS = 64
_READ_OCTETS = 256 * 1024
_NOTE_OCTETS = 4096


@dataclass(frozen=True, slots=True)
class Note:
    """What is about to be written: `octets` from `offset` on, `begin` in hexadecimal being the first of them."""

    queue_id: str
    offset: int
    octets: int
    sha256: str
    begin: str


def uid_of(account: str) -> int | None:
    """The system's user of that name."""
    try:
        return pwd.getpwnam(account).pw_uid
    except KeyError:
        return None


class MboxDelivery:
    """`notes` is a directory of our own for what is about to be written; made where missing."""

    def __init__(
        self,
        notes: Path,
        *,
        owner_of: Callable[[str], int | None] = uid_of,
        chance: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.time,
        disk: type[Disk] = Disk,
    ) -> None:
        self._notes = notes
        self._owner_of = owner_of
        self._chance = chance
        self._clock = clock
        self._disk = disk
        self._locks: dict[Path, asyncio.Lock] = {}

    async def store(self, policy: Policy, deposit: Deposit) -> Outcome:
        """Raises OSError."""
        mbox = policy.site.mailboxes.mbox
        path = Path(mbox.inbox.replace("{account}", deposit.account))
        if deposit.folder != INBOX and mbox.folders is not None:
            path = Path(mbox.folders.replace("{account}", deposit.account)) / deposit.folder
        async with self._locks.setdefault(path, asyncio.Lock()):
            for _ in range(TRIES):
                try:
                    return await asyncio.to_thread(self._append, path, deposit)
                except Locked:
                    await asyncio.sleep(LONGEST_PAUSE_SECONDS * self._chance())
        return LOCKED

    def _append(self, path: Path, deposit: Deposit) -> Outcome:
        """Raises Locked, OSError."""
        owner = self._owner_of(deposit.account)
        if owner is None:
            return transient("4.3.5", f"the system has no user {deposit.account}, whose file of mail this would be")
        if not self._make(path, owner):
            words = f"there is no {path}; make it: install -m 660 -o {deposit.account} -g mail /dev/null {path}"
            return transient("4.2.0", words)
        fd = self._disk.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            _refuse_others(os.fstat(fd), path, owner)
            with locked(path, fd):
                return self._write(path, fd, deposit)
        finally:
            self._disk.close(fd)

    def _write(self, path: Path, fd: int, deposit: Deposit) -> Outcome:
        note = self._note(path)
        if note is not None:
            self._cut_half_a_message(fd, note)
            if note.queue_id == deposit.queue_id and deposit.is_again and _stands(fd, note):
                self._disk.fsync(fd)
                return delivered("already in the mailbox")
        offset = os.fstat(fd).st_size
        front = _lines_missing(fd, offset) + from_line(deposit.reverse_path, self._clock())
        self._announce(path, deposit.queue_id, offset, _text(front, deposit))
        try:
            os.lseek(fd, offset, os.SEEK_SET)
            for piece in _text(front, deposit):
                view = memoryview(piece)
                while view:
                    view = view[self._disk.write(fd, view) :]
            self._disk.fsync(fd)
        except OSError:
            os.ftruncate(fd, offset)
            raise
        return delivered("in the mailbox")

    def _announce(self, path: Path, queue_id: str, offset: int, pieces: Iterator[bytes]) -> None:
        digest, octets, begin = hashlib.sha256(), 0, b""
        for piece in pieces:
            digest.update(piece)
            octets += len(piece)
            begin += piece[: _COMPARED_OCTETS - len(begin)]
        note = Note(queue_id, offset, octets, digest.hexdigest(), begin.hex())
        self._notes.mkdir(mode=0o700, exist_ok=True)
        put(self._note_path(path), json.dumps(asdict(note)).encode(), disk=self._disk)

    def _cut_half_a_message(self, fd: int, note: Note) -> None:
        """A crash of ours in mid-write: nobody has written behind it, or there would be another From_ line."""
        size = os.fstat(fd).st_size
        if not note.offset < size < note.offset + note.octets:
            return
        tail = os.pread(fd, size - note.offset, note.offset)
        begin = bytes.fromhex(note.begin)
        ours = tail.startswith(begin) if len(tail) >= len(begin) else begin.startswith(tail)
        if ours and b"\nFrom " not in tail.lstrip(b"\n"):
            os.ftruncate(fd, note.offset)

    def _note(self, path: Path) -> Note | None:
        """None: nothing is known; a note that cannot be understood says nothing."""
        try:
            with self._note_path(path).open("rb") as file:
                return Note(**json.loads(file.read(_NOTE_OCTETS)))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def _note_path(self, path: Path) -> Path:
        return self._notes / hashlib.sha256(os.fsencode(path)).hexdigest()[:32]

    def _make(self, path: Path, owner: int) -> bool:
        """Whether the file is there now. Raises OSError."""
        if os.path.lexists(path):
            return True
        if os.geteuid() not in (0, owner):
            return False
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = self._disk.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, FILE_MODE)
        try:
            if os.geteuid() == 0:
                os.fchown(fd, owner, -1)
            os.fchmod(fd, FILE_MODE)
        finally:
            self._disk.close(fd)
        sync_directory(path.parent, self._disk)
        return True


def _refuse_others(found: os.stat_result, path: Path, owner: int) -> None:
    """Raises OSError."""
    if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1 or found.st_uid not in (owner, os.geteuid()):
        raise OSError(errno.EACCES, "not a file of its user's own", str(path))


def _text(front: bytes, deposit: Deposit) -> Iterator[bytes]:
    yield front
    yield from quoted(deposit.traced.pieces())


def _lines_missing(fd: int, size: int) -> bytes:
    """What has to stand before a From_ line: an empty line, also behind what others did not end with one."""
    end = os.pread(fd, 2, max(size - 2, 0))
    if size == 0 or end == b"\n\n":
        return b""
    return b"\n" if end.endswith(b"\n") else b"\n\n"


def _stands(fd: int, note: Note) -> bool:
    """Whether what was announced is there."""
    if os.fstat(fd).st_size < note.offset + note.octets:
        return False
    digest, at, end = hashlib.sha256(), note.offset, note.offset + note.octets
    while at < end:
        piece = os.pread(fd, min(_READ_OCTETS, end - at), at)
        if not piece:
            return False
        digest.update(piece)
        at += len(piece)
    return digest.hexdigest() == note.sha256
