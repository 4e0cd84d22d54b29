"""Mboxes of Dovecot, UW IMAP and local mail programs: files and folders of files, as one account's mailbox.

Contract
    Read-only, and under a shared lock (fcntl): programs that write wait, or we say that they do not let us in.
    UIDs hold where the file says which UIDVALIDITY they belong to (X-IMAPbase, or UW IMAP's first, unreal message);
    other messages get the next ones. Fields and lines that are the file's, not the message's, are left out.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from egressguard.mailbox.takeover import pop3_names
from egressguard.mailbox.takeover.directory import Directory, read_pieces
from egressguard.mailbox.takeover.folder_names import safe_name
from egressguard.mailbox.takeover.from_line import LocalTime, local_time
from egressguard.mailbox.takeover.keywords import is_keyword
from egressguard.mailbox.takeover.maildir import parse_subscriptions, unused
from egressguard.mailbox.takeover.mbox_layout import Piece, is_mbox, read_layout
from egressguard.mailbox.takeover.source import (
    INBOX,
    MAX_FOLDERS,
    MAX_MESSAGES,
    MAX_UID,
    Folder,
    Message,
    Name,
    Problems,
    SourceError,
    shown,
)

MBOX, UW, MBOXRD = "mbox", "uw", "mboxrd"
FORMATS = (MBOX, UW, MBOXRD)
X_UIDL = "x-uidl"
"""In place of a UIDL format: the field that qpopper and others wrote."""

LOCK_SECONDS = 10
_LOCK_RETRY_SECONDS = 0.1
_MAX_DEPTH = 30
_BASE = re.compile(rb"(\d{1,10})[ \t]+(\d{1,10})(?:[ \t]|\Z)")
_QUOTED = re.compile(rb"^>(>*From )", re.MULTILINE)


class MboxSource:
    """`path`: a file (it is INBOX), or a directory of them; `inbox`: the file that is INBOX then."""

    def __init__(
        self,
        path: Path | None,
        inbox: Path | None = None,
        form: str = MBOX,
        uidl_format: str | None = None,
        local: LocalTime = local_time,
    ) -> None:
        """Raises OSError, SourceError."""
        self.problems = Problems()
        self.format = form
        self._local = local
        usual = pop3_names.UW if form == UW else pop3_names.DOVECOT
        self._uidl_format = usual if uidl_format is None else uidl_format
        is_file = path is not None and not path.is_dir()
        if is_file and inbox is not None:
            raise SourceError(f"{path} and {inbox}: one INBOX is enough")
        self._inbox = path if is_file else inbox
        self._tree = path if path is not None and not is_file else None

    def folders(self) -> Iterator[MboxReader]:
        taken: set[Name] = {INBOX}
        if self._inbox is not None:
            with Directory.opened(self._inbox.parent) as parent:
                reader = self._read(parent, self._inbox.name, INBOX)
            if reader is None:
                raise SourceError(f"{self._inbox}: no mbox; expected a line that begins with From and ends with a date")
            yield reader
        if self._tree is None:
            return
        with Directory.opened(self._tree) as tree:
            count = 0
            for parts, parent, file in self._files(tree, (), 0):
                is_inbox = self._inbox is None and parts in {("INBOX",), ("inbox",)}
                name = INBOX if is_inbox else unused(safe_name(parts), taken)
                if (reader := self._read(parent, file, name)) is None:
                    continue
                if name not in {parts, INBOX}:
                    self.problems.add(f"{parent.path}/{file}", f"the folder will be called {shown(name)}")
                count += 1
                if count > MAX_FOLDERS:
                    reader.close()
                    raise SourceError(f"{self._tree}: more than {MAX_FOLDERS} folders")
                yield reader

    def _files(
        self, directory: Directory, above: tuple[str, ...], depth: int
    ) -> Iterator[tuple[tuple[str, ...], Directory, str]]:
        folders = set(directory.directories())
        for name in sorted(directory.names()):
            if name.startswith(".") or name.endswith(".lock"):
                continue
            if name not in folders:
                yield (*above, name.removesuffix(".mbox") or name), directory, name
            elif depth < _MAX_DEPTH:
                with contextlib.suppress(FileNotFoundError), directory.below(name) as inner:
                    yield from self._files(inner, (*above, name), depth + 1)

    def _read(self, parent: Directory, file: str, name: Name) -> MboxReader | None:
        """None: no mbox."""
        where = f"{parent.path}/{file}"
        try:
            fd = parent.open_file(file)
        except FileNotFoundError:
            if name == INBOX:
                raise
            return None
        except OSError as wrong:
            self.problems.add(where, f"not taken: {wrong.strerror}")
            return None
        try:
            if os.fstat(fd).st_size and not is_mbox(fd):
                self.problems.add(where, "not taken: no mbox (its first line is no From line with a date)")
                os.close(fd)
                return None
            return MboxReader(fd, where, name, self.format, self._uidl_format, self._local)
        except BaseException:
            with contextlib.suppress(OSError):
                os.close(fd)
            raise

    def subscriptions(self) -> list[Name]:
        """Dovecot's list in the directory; UW IMAP's beside it, whose names begin with the directory's."""
        if self._tree is None:
            return []
        with Directory.opened(self._tree) as tree:
            names = parse_subscriptions(tree.lines(".subscriptions"), "/")
        if not names:
            with Directory.opened(self._tree.parent) as home:
                listed = parse_subscriptions(home.lines(".mailboxlist"), "/")
            names = [name[1:] for name in listed if len(name) > 1 and name[0] == self._tree.name]
        return list(dict.fromkeys(safe_name(name) for name in names if name and name != ("INBOX",)))[:MAX_FOLDERS]

    def close(self) -> None:
        """Nothing is open between folders."""


class MboxReader:
    """One mbox, locked while it is open. Owns `fd`."""

    def __init__(self, fd: int, where: str, name: Name, form: str, uidl_format: str, local: LocalTime) -> None:
        """Raises OSError, SourceError."""
        self._fd = fd
        self._where = where
        self._unquotes = form == MBOXRD
        self._pieces: dict[str, Piece] = {}
        _lock(fd, where)
        self.folder = self._read(name, uidl_format, local)

    def _read(self, name: Name, uidl_format: str, local: LocalTime) -> Folder:
        validity, last, found = self._numbered(local)
        following = last + 1
        messages: list[Message] = []
        waiting: list[tuple[str, Piece]] = []
        for uid, piece in found:
            key = f"{validity}-{uid}" if uid is not None else _digest(self._fd, piece, self._pieces)
            self._pieces[key] = piece
            if uid is None:
                waiting.append((key, piece))
                continue
            messages.append(self._message(key, uid, piece, _uidl(name, uidl_format, uid, validity, piece)))
        for key, piece in waiting:
            if following > MAX_UID:
                raise SourceError(f"{self._where}: no UIDs are left in this folder")
            uidl = _uidl(name, uidl_format, following, None, piece)
            messages.append(self._message(key, following, piece, uidl))
            following += 1
        return Folder(name, validity, following, messages)

    def _numbered(self, local: LocalTime) -> tuple[int | None, int, list[tuple[int | None, Piece]]]:
        """(UIDVALIDITY, the last UID given, [(UID or None, message)])."""
        validity: int | None = None
        last, before, trusted = 0, 0, True
        found: list[tuple[int | None, Piece]] = []
        for number, piece in enumerate(read_layout(self._fd, local)):
            if number == 0:
                base = _BASE.match(piece.fields.get(b"x-imapbase", piece.fields.get(b"x-imap", b"")))
                if base and 1 <= int(base[1]) <= MAX_UID and int(base[2]) < MAX_UID:
                    validity, last = int(base[1]), int(base[2])
                if b"x-imap" in piece.fields:
                    continue  # UW IMAP's own: no message
            uid = _number(piece.fields.get(b"x-uid", b""))
            if validity is None or uid is None or not before < uid <= last or not trusted:
                trusted = trusted and uid is None  # what follows a UID that cannot be is not believed, either
                uid = None
            before = uid or before
            found.append((uid, piece))
            if len(found) > MAX_MESSAGES:
                raise SourceError(f"{self._where}: more than {MAX_MESSAGES} messages in one file")
        return validity, last, found

    def _message(self, key: str, uid: int, piece: Piece, uidl: str | None) -> Message:
        status = piece.fields.get(b"status", b"")
        words = piece.fields.get(b"x-keywords", b"").decode("utf-8", "replace").split()
        keywords = tuple(dict.fromkeys(word for word in words[:100] if is_keyword(word)))
        is_new = not (set(status) & set(b"RO"))
        flags = _flags(status, piece.fields.get(b"x-status", b""))
        return Message(key, uid, flags, keywords, int(piece.received_at) * 10**9, uidl, is_new and not flags)

    def pieces(self, message: Message) -> Iterator[bytes]:
        piece = self._pieces[message.key]
        octets = (part for offset, size in piece.ranges for part in read_pieces(self._fd, size, offset))
        return _unquoted(octets, piece.body_at) if self._unquotes else octets

    def close(self) -> None:
        os.close(self._fd)


LETTERS = ((b"R", "S"), (b"A", "R"), (b"F", "F"), (b"T", "D"), (b"D", "T"))
"""Status and X-Status, and Maildir's letter for the same flag."""


def _flags(status: bytes, x_status: bytes) -> str:
    seen = "S" if b"R" in status else ""
    return "".join(sorted(seen + "".join(flag for letter, flag in LETTERS[1:] if letter in x_status)))


def _uidl(name: Name, form: str, uid: int, validity: int | None, piece: Piece) -> str | None:
    if name != INBOX:
        return None  # POP3 shows INBOX only
    if form == X_UIDL:
        return pop3_names.checked(piece.fields.get(b"x-uidl", b"").decode("ascii", "replace"))
    return pop3_names.render_uidl(form, uid, validity, "") if validity is not None else None


def _digest(fd: int, piece: Piece, taken: dict[str, Piece]) -> str:
    """A key for a message without UID: what it is, and which of those that are the same."""
    found = hashlib.sha256(str(int(piece.received_at)).encode())
    for offset, size in piece.ranges:
        for part in read_pieces(fd, size, offset):
            found.update(part)
    name, number = found.hexdigest()[:32], 1
    while f"{name}-{number}" in taken:
        number += 1
    return f"{name}-{number}"


def _number(digits: bytes) -> int | None:
    return int(digits) if digits.isdigit() and len(digits) <= 10 and int(digits) > 0 else None


def _unquoted(octets: Iterator[bytes], body_at: int) -> Iterator[bytes]:
    """mboxrd: a ">" was put before each line of the body that is ">"s and "From "."""
    rest, seen = b"", 0
    for part in octets:
        if seen < body_at:  # ranges of the header section come whole
            seen += len(part)
            yield part
            continue
        whole, newline, after = (rest + part).rpartition(b"\n")
        if not newline and len(after) > 4096:
            yield _QUOTED.sub(rb"\1", after)
            rest = b""
            continue
        yield _QUOTED.sub(rb"\1", whole + newline)
        rest = after
    yield _QUOTED.sub(rb"\1", rest)


def _lock(
    fd: int, where: str, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep
) -> None:
    """Hold off programs that write, as they hold off one another. Raises SourceError."""
    give_up_at = clock() + LOCK_SECONDS
    while True:
        try:
            fcntl.lockf(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            if clock() > give_up_at:
                raise SourceError(f"{where}: another program has locked it for {LOCK_SECONDS} seconds") from None
            sleep(_LOCK_RETRY_SECONDS)
        else:
            return
