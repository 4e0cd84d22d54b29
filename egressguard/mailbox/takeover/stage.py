"""The staging tree: a whole mailbox, built where nobody looks, until it can be put in its place in one step.

Contract
    What is in the tree is what the source said last: messages that came are added, others' flags are set, what went
    is removed. It may be synced as often as one likes, while the old server still runs.
    Octets are copied, never linked: nothing that happens here can change the source.
    A message counts as staged (ledger) after its octets are on stable storage; killed anywhere, the next run goes on.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import hashlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from egressguard.mailbox.maildir import DIRECTORY_MODE, FILE_MODE, PARTS
from egressguard.mailbox.takeover import keywords, uid_lists
from egressguard.mailbox.takeover.ledger import STAGED, Ledger, Row
from egressguard.mailbox.takeover.pop3_names import without_repeats
from egressguard.mailbox.takeover.source import INBOX, Folder, Message, Name, Problems, Reader, SourceError, shown
from egressguard.mailbox.takeover.uid_lists import Given
from egressguard.store.durable import put, sync_directory

SETTLE_MESSAGES = 4000
SETTLE_OCTETS = 256 * 1024 * 1024
"""After so much, what was copied is made durable and noted: a run that is killed repeats no more than that."""

_GOOD_BASE = re.compile(r"\d{1,15}\.[!-.0-9;-~]{1,180}")
_SIZE_IN_NAME = re.compile(r",S=(\d{1,15})(?![0-9])")
_libc = ctypes.CDLL(None, use_errno=True)


class Busy(Exception):
    """Another take-over of this account is running."""


@dataclass(slots=True)
class Tally:
    """What a sync did."""

    folders: int = 0
    messages: int = 0
    octets: int = 0
    copied: int = 0
    known: int = 0
    removed: int = 0
    failed: int = 0
    names: list[Name] = field(default_factory=list)


Tick = Callable[[int], object]
"""Told of each message that is done: its octets."""


class Stage:
    """One account's, in `root`. `owner`: (uid, gid) that all of it is given to; None = leave it.

    Raises Busy, OSError, sqlite3.Error."""

    def __init__(
        self, root: Path, owner: tuple[int, int] | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        if root.is_symlink():
            raise OSError(f"{root} is a link")
        self._lock = os.open(root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise Busy(f"another take-over works in {root}") from None
        self.root = root
        self.tree = root / "tree"
        self.ledger = Ledger(root / "ledger.sqlite")
        self._owner = owner
        self._clock = clock

    def close(self) -> None:
        self.ledger.close()
        os.close(self._lock)

    def remove(self) -> None:
        """Nothing is left to go on with. After `close`. Raises OSError."""
        shutil.rmtree(self.root)

    def has_all(self, folder: Folder) -> bool:
        """Whether all of the folder was taken before."""
        rows = self.ledger.rows(folder.name)
        return all(not _is_open(rows.get(message.key)) for message in folder.messages)

    def sync(self, reader: Reader, problems: Problems, tally: Tally, tick: Tick) -> None:
        """Bring one folder's copy up to date. Raises OSError (here; the source's troubles are problems)."""
        folder = reader.folder
        place = self.make_folder(folder.name)
        rows = self.ledger.rows(folder.name)
        wanted = [message for message in folder.messages if _is_open(rows.get(message.key))]
        tally.folders += 1
        tally.names.append(folder.name)
        tally.known += len(folder.messages) - len(wanted)
        letters = _letters(wanted, problems, folder.name)
        copied = _Copies(self, place, folder, reader, rows, letters)
        bases = copied.sync(wanted, problems, tally, tick)
        self._write_lists(place, folder, letters, bases)

    def _write_lists(self, place: Path, folder: Folder, letters: dict[str, str], bases: dict[str, str]) -> None:
        validity, guid = self.ledger.folder(
            folder.name, folder.uid_validity or int(self._clock()) & 0x7FFFFFFF, secrets.token_hex(16)
        )
        if folder.uid_validity is not None and folder.uid_validity != validity:
            validity = folder.uid_validity  # the source began anew: so does the copy
            self.ledger.change_validity(folder.name, validity)
        there = [message for message in folder.messages if message.key in bases]
        uidls = without_repeats(message.uidl for message in there)
        lines = ((bases[m.key], Given(m.uid, uidl, m.pop3_order)) for m, uidl in zip(there, uidls, strict=True))
        self.write(place / uid_lists.FILE, uid_lists.render_uid_list(validity, folder.uid_next, guid, lines))
        if letters:
            self.write(place / keywords.DOVECOT_FILE, keywords.render_dovecot_keywords(letters).encode())

    def write_subscriptions(self, names: Iterable[Name]) -> None:
        """Raises OSError."""
        if wanted := list(names):
            self.make_folder(INBOX)
            lines = "".join("\t".join(name) + "\n" for name in wanted)
            self.write(self.tree / "subscriptions", f"V\t2\n\n{lines}".encode())

    def keep_only(self, names: Iterable[Name]) -> None:
        """Remove folders that the source has no more. Raises OSError."""
        wanted = {directory_name(name) for name in names}
        for path in self.tree.glob(".*/"):
            if path.name not in wanted:
                shutil.rmtree(path)

    def settle(self) -> None:
        """All that was written so far is on stable storage when this returns. Raises OSError."""
        fd = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if _libc.syncfs(fd) != 0:
                wrong = ctypes.get_errno()
                raise OSError(wrong, os.strerror(wrong), str(self.root))
        finally:
            os.close(fd)

    def write(self, path: Path, content: bytes | Iterable[bytes]) -> None:
        temporary = path.with_name(f"{path.name}.tmp")
        temporary.unlink(missing_ok=True)  # of a process that died here
        put(path, content, temporary=temporary, mode=FILE_MODE)
        self.own(path, FILE_MODE)

    def own(self, path: Path | int, mode: int) -> None:
        os.chmod(path, mode)  # noqa: PTH101 -- may be a descriptor
        if self._owner is not None:
            os.chown(path, *self._owner)

    def make_folder(self, name: Name) -> Path:
        self.tree.mkdir(exist_ok=True)
        place = self.tree / directory_name(name) if name else self.tree
        for path in (self.tree, place, *(place / part for part in PARTS)):
            if not path.is_dir():
                path.mkdir()
            self.own(path, DIRECTORY_MODE)
        if name and not (place / "maildirfolder").exists():
            self.write(place / "maildirfolder", b"")
        sync_directory(place)
        return place


class _Copies:
    """The messages of one folder, brought up to date."""

    def __init__(
        self, stage: Stage, place: Path, folder: Folder, reader: Reader, rows: dict[str, Row], letters: dict[str, str]
    ) -> None:
        self._stage = stage
        self._place = place
        self._folder = folder
        self._reader = reader
        self._rows = rows
        self._letters = letters
        listed = ((part, name) for part in PARTS[1:] for name in names_in(place / part))
        self._there = {uid_lists.base_of(name): (part, name) for part, name in listed}
        self._unsettled: list[tuple[str, str, int]] = []
        self._unsettled_octets = 0

    def sync(self, wanted: list[Message], problems: Problems, tally: Tally, tick: Tick) -> dict[str, str]:
        """Base names by key, of what is in the folder now."""
        for left in (self._place / "tmp").iterdir():  # by a run that was killed
            left.unlink()
        bases: dict[str, str] = {}
        for message in wanted:
            try:
                base, size = self._kept(message) or self._copy(message)
            except SourceError as wrong:
                problems.add(shown(self._folder.name), f"UID {message.uid} not taken: {wrong}")
                tally.failed += 1
                continue
            except _SourceGone as wrong:
                problems.add(shown(self._folder.name), f"UID {message.uid} not taken: {wrong}")
                tally.failed += 1
                continue
            bases[message.key] = base
            tally.messages += 1
            tally.octets += size
            tally.copied = tally.copied + (message.key not in self._rows)
            tick(size)
        self._settle()
        self._forget(bases, tally)
        return bases

    def _kept(self, message: Message) -> tuple[str, int] | None:
        """What was staged before, with the flags of now."""
        row = self._rows.get(message.key)
        found = self._there.get(row.base) if row else None
        if row is None or found is None:
            return None
        part, name = self._name(row.base, message)
        old, new = self._place / found[0] / found[1], self._place / part / name
        status = old.stat()
        if status.st_size != row.size:
            return None
        if old != new:
            old.rename(new)
            self._there[row.base] = (part, name)
        if status.st_mtime_ns != message.received_ns:
            os.utime(new, ns=(message.received_ns, message.received_ns))
        return row.base, row.size

    def _copy(self, message: Message) -> tuple[str, int]:
        temporary = self._place / "tmp" / f"{len(self._unsettled)}.{secrets.token_hex(4)}"
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
        try:
            size = 0
            for piece in _from_source(self._reader, message):
                size += len(piece)
                view = memoryview(piece)
                while view:
                    view = view[os.write(fd, view) :]
            self._stage.own(fd, FILE_MODE)
            os.utime(fd, ns=(message.received_ns, message.received_ns))
        except BaseException:
            temporary.unlink()
            raise
        finally:
            os.close(fd)
        base = _base(message, size)
        part, name = self._name(base, message)
        if base in self._there:  # staged before a crash, and not noted
            old_part, old_name = self._there[base]
            (self._place / old_part / old_name).unlink(missing_ok=True)
        temporary.rename(self._place / part / name)
        self._there[base] = (part, name)
        self._unsettled.append((message.key, base, size))
        self._unsettled_octets += size
        if len(self._unsettled) >= SETTLE_MESSAGES or self._unsettled_octets >= SETTLE_OCTETS:
            self._settle()
        return base, size

    def _name(self, base: str, message: Message) -> tuple[str, str]:
        """(part, file name) with the flags as Maildir has them: capitals first, then a letter for each keyword."""
        if message.is_new:
            return "new", base
        words = "".join(sorted(self._letters[word] for word in message.keywords if word in self._letters))
        return "cur", f"{base}:2,{message.flags}{words}"

    def _settle(self) -> None:
        if self._unsettled:
            self._stage.settle()
            self._stage.ledger.staged(self._folder.name, self._unsettled)
            self._unsettled, self._unsettled_octets = [], 0

    def _forget(self, bases: dict[str, str], tally: Tally) -> None:
        """What the source has no more goes from here, too."""
        kept = set(bases.values())
        gone = [key for key, row in self._rows.items() if row.state == STAGED and key not in bases]
        self._stage.ledger.forget(self._folder.name, gone)
        for base, (part, name) in self._there.items():
            if base not in kept:
                (self._place / part / name).unlink(missing_ok=True)
                tally.removed += 1


class _SourceGone(Exception):
    """The source does not give this message any more, or not now."""


def _from_source(reader: Reader, message: Message) -> Iterator[bytes]:
    """The source's troubles are no troubles of the disk that is written to."""
    pieces = reader.pieces(message)
    while True:
        try:
            piece = next(pieces, None)
        except OSError as wrong:
            raise _SourceGone(wrong.strerror or str(wrong)) from wrong
        if piece is None:
            return
        yield piece


def names_in(path: Path) -> list[str]:
    """Raises OSError."""
    return os.listdir(path)  # noqa: PTH208 -- names only, of many files


def directory_name(name: Name) -> str:
    return "." + ".".join(name) if name else ""


def _is_open(row: Row | None) -> bool:
    return row is None or row.state == STAGED


def _base(message: Message, size: int) -> str:
    """The file's name, where it can stay; it is the message's GUID, and some POP3 servers' UIDL."""
    told = _SIZE_IN_NAME.search(message.key)
    if _GOOD_BASE.fullmatch(message.key) and (told is None or int(told[1]) == size):
        return message.key
    digest = hashlib.sha256(message.key.encode("utf-8", "surrogateescape")).hexdigest()[:24]
    return f"{message.received_ns // 10**9}.T{digest}.takeover,S={size}"


def _letters(messages: list[Message], problems: Problems, name: Name) -> dict[str, str]:
    """Keyword -> letter, those first that are used first."""
    words = list(dict.fromkeys(word for message in messages for word in message.keywords))
    if len(words) > keywords.MAX_KEYWORDS:
        lost = ", ".join(words[keywords.MAX_KEYWORDS : keywords.MAX_KEYWORDS + 5])
        problems.add(shown(name), f"{len(words)} keywords; more than {keywords.MAX_KEYWORDS} are not kept: {lost}")
    return {word: chr(ord("a") + number) for number, word in enumerate(words[: keywords.MAX_KEYWORDS])}


def remove_tree(path: Path) -> None:
    """Raises OSError."""
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(path)
