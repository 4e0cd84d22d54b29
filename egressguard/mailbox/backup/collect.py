"""Read everything that a backup holds, while the gateway runs.

Contract
    Nothing is locked or changed, no link followed. A Maildir's folder is taken as it was at one moment, as far as a
    folder that is never at rest has one (`looking`), with the UIDs that stood in the list before or after. What a mail
    program moves meanwhile is found again; what it deletes meanwhile is in the backup or not, never half.
    Databases are copied by SQLite itself. Indexes and caches that are made anew from the mail are left out.
"""

from __future__ import annotations

import grp
import os
import pwd
import re
import sqlite3
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from urllib.parse import quote

from egressguard.mailbox.backup.looking import LOOKS, Sight, look
from egressguard.mailbox.backup.manifest import Entry
from egressguard.mailbox.backup.objects import Objects
from egressguard.mailbox.takeover.directory import Directory, open_if_there, read_pieces
from egressguard.mailbox.takeover.uid_lists import FILE as UID_LIST
from egressguard.mailbox.takeover.uid_lists import base_of, parse_dovecot

TREES = ("mailboxes", "quarantine", "accounts", "secrets", "tls", "policy", "dovecot", "journal", "spool")
"""Below the state directory, in this order."""
SPOOL = "spool"
_HALVES = {SPOOL: "body", "quarantine": "envelopes"}
"""What is looked at both before and after the rest: without it a row, or a message, would be half."""
MAX_DEPTH = 40

_LEFT_OUT = {SPOOL: {"tmp"}, "quarantine": {"views"}}  # views are made of links, anew
_MADE_ANEW = re.compile(
    r"dovecot\.(list\.)?index.*|dovecot\.mailbox\.log.*|.*\.lock|maildirsize|.*\.sqlite-(wal|shm|journal)|\..*\.tmp|lock"
)
_DATABASE = re.compile(r".*\.sqlite")
_SIZE_MOST = 1 << 46


class _NoMessage(Exception):
    """A link, a directory, a device."""


class Collector:
    """`before`: the last backup's files by path, or, of messages, by folder and base name."""

    def __init__(
        self, state: Path, objects: Objects, before: Mapping[str, Entry], tick: Callable[[int], object]
    ) -> None:
        self._state = state
        self._objects = objects
        self._before = before
        self._tick = tick
        self.new_octets = 0
        self.new_files = 0
        self.problems: list[str] = []

    def collect(self) -> Iterator[Entry]:
        """Raises OSError where even the state directory cannot be read."""
        with Directory.opened(self._state) as state:
            for name in TREES:
                tree = open_if_there(state, name)
                if tree is not None:
                    with tree:
                        yield from self._tree(tree, name)

    def _tree(self, tree: Directory, name: str) -> Iterator[Entry]:
        half = _HALVES.get(name)
        first = open_if_there(tree, half) if half else None
        found: dict[str, Entry] = {}
        if first is not None:
            with first:
                found = {entry.path: entry for entry in self._walk(first, f"{name}/{half}", 0)}
        for entry in self._walk(tree, name, 0):
            found.pop(entry.path, None)
            yield entry
        yield from found.values()

    def _walk(self, directory: Directory, path: str, depth: int) -> Iterator[Entry]:
        yield _directory_entry(directory, path)
        if depth > MAX_DEPTH:
            self.problems.append(f"{directory.path}: folders nested too deep")
            return
        folders = set(directory.directories())
        if {"new", "cur"} <= folders:
            yield from self._messages(directory, path)
            folders -= {"new", "cur", "tmp"}
        yield from self._files(
            directory, path
        )  # after the messages: a keyword gets its letter before its message has it
        for name in sorted(folders - _LEFT_OUT.get(path, set())):
            inner = open_if_there(directory, name)
            if inner is not None:
                with inner:
                    yield from self._walk(inner, f"{path}/{name}", depth + 1)

    def _files(self, directory: Directory, path: str) -> Iterator[Entry]:
        for name in sorted(directory.names()):
            if _MADE_ANEW.fullmatch(name) or name == UID_LIST:
                continue
            try:
                status = directory.status(name)
                if not stat.S_ISREG(status.st_mode):
                    continue
                if _DATABASE.fullmatch(name):
                    yield self._database(directory, name, f"{path}/{name}", status)
                else:
                    yield self._file(directory, name, f"{path}/{name}", status)
            except FileNotFoundError:
                continue
            except (OSError, sqlite3.Error) as wrong:
                self.problems.append(f"{directory.path}/{name}: {wrong}")

    def _file(self, directory: Directory, name: str, path: str, status: os.stat_result) -> Entry:
        known = self._before.get(path)
        if known is not None and _is_same(known, status) and known.ctime_ns == status.st_ctime_ns:
            return self._entry(path, known.digest, known.size, status)
        fd = directory.open_file(name)
        try:
            return self._stored(path, read_pieces(fd, _SIZE_MOST), os.fstat(fd))
        finally:
            os.close(fd)

    def _database(self, directory: Directory, name: str, path: str, status: os.stat_result) -> Entry:
        with tempfile.TemporaryDirectory(prefix="egressguard-") as folder:
            copy = Path(folder) / "copy.sqlite"
            source = sqlite3.connect(f"file:{quote(f'{directory.path}/{name}')}?mode=ro", uri=True, timeout=10)
            target = sqlite3.connect(copy)
            try:
                source.backup(target)
            finally:
                target.close()
                source.close()
            fd = os.open(copy, os.O_RDONLY | os.O_CLOEXEC)
            try:
                return self._stored(path, read_pieces(fd, _SIZE_MOST), status)
            finally:
                os.close(fd)

    def _messages(self, directory: Directory, path: str) -> Iterator[Entry]:
        """The messages of one folder, and the list of their UIDs."""
        parts = {part: found for part in ("new", "cur") if (found := open_if_there(directory, part)) is not None}
        try:
            for part, inner in parts.items():
                yield _directory_entry(inner, f"{path}/{part}")
            yield _directory_entry(directory, f"{path}/tmp")  # noqa: S108 -- Maildir's
            entries, lists = self._settled(directory, parts, path)
            yield from entries
            if lists:
                content = _joined(lists)
                status = directory.status(UID_LIST)
                yield self._stored(f"{path}/{UID_LIST}", iter((content,)), status)
        except FileNotFoundError as wrong:
            if directory.holds("cur"):
                raise
            self.problems.append(f"{directory.path}: removed meanwhile ({wrong.filename})")
        finally:
            for inner in parts.values():
                inner.close()

    def _settled(
        self, directory: Directory, parts: Mapping[str, Directory], path: str
    ) -> tuple[list[Entry], list[list[bytes]]]:
        stored: dict[str, tuple[str, int, os.stat_result]] = {}
        strange: set[str] = set()
        sight, lists = Sight(), []
        for _ in range(LOOKS):
            lists = [directory.lines(UID_LIST)]
            sight.add(look(parts))
            for base, (part, file) in sight.there().items():
                if base in stored or base in strange:
                    continue
                try:
                    stored[base] = self._message(parts, path, base, part, file)
                except FileNotFoundError:
                    continue  # gone, or another look will find it
                except _NoMessage:
                    strange.add(base)
            lists.append(directory.lines(UID_LIST))
            listed = parse_dovecot(lists[-1])
            if sight.is_settled(listed.given.keys() if listed else frozenset()):
                break
        entries = []
        for base, (part, file) in sight.there().items():
            if base in stored:
                digest, size, status = stored[base]
                entries.append(self._entry(f"{path}/{part}/{file}", digest, size, status))
        return entries, [found for found in lists if found]

    def _message(
        self, parts: Mapping[str, Directory], path: str, base: str, part: str, file: str
    ) -> tuple[str, int, os.stat_result]:
        """Raises FileNotFoundError, _NoMessage, OSError."""
        status = parts[part].status(file)
        if not stat.S_ISREG(status.st_mode):
            raise _NoMessage
        known = self._before.get(f"{path}/{base}")
        if known is not None and _is_same(known, status):  # a message is immutable
            self._tick(0)
            return known.digest, known.size, status
        fd = parts[part].open_file(file)
        try:
            entry = self._stored(path, read_pieces(fd, _SIZE_MOST), status)
            return entry.digest, entry.size, status
        finally:
            os.close(fd)

    def _stored(self, path: str, pieces: Iterator[bytes], status: os.stat_result) -> Entry:
        stored = self._objects.put(pieces)
        if stored.is_new:
            self.new_files += 1
            self.new_octets += stored.size
        self._tick(stored.size)
        return self._entry(path, stored.digest, stored.size, status)

    def _entry(self, path: str, digest: str, size: int, status: os.stat_result) -> Entry:
        owner, group = _user(status.st_uid), _group(status.st_gid)
        mode = stat.S_IMODE(status.st_mode)
        return Entry(path, digest, size, mode, owner, group, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


def known_files(entries: Iterator[Entry]) -> dict[str, Entry]:
    """What a Collector is to know of the last backup."""
    found: dict[str, Entry] = {}
    for entry in entries:
        folder, _, file = entry.path.rpartition("/")
        place, _, part = folder.rpartition("/")
        found[f"{place}/{base_of(file)}" if part in {"new", "cur"} else entry.path] = entry
    return found


def _joined(lists: list[list[bytes]]) -> bytes:
    """Two readings of one list: a UID that stood in either holds."""
    last = lists[-1]
    parsed = [parse_dovecot(lines) for lines in lists]
    if len(lists) < 2 or parsed[0] is None or parsed[1] is None or parsed[0].uid_validity != parsed[1].uid_validity:
        return b"".join(line + b"\n" for line in last)
    earlier = {base_of(_file(line)): line for line in lists[0][1:]}
    missing = [line for base, line in earlier.items() if base not in parsed[1].given]
    lines = sorted([*last[1:], *missing], key=lambda line: int(line.split(b" ", 1)[0] or 0))
    return b"".join(line + b"\n" for line in (last[0], *lines))


def _file(line: bytes) -> str:
    return line.partition(b" :")[2].decode("utf-8", "surrogateescape")


def _is_same(known: Entry, status: os.stat_result) -> bool:
    return (known.inode, known.size, known.mtime_ns) == (status.st_ino, status.st_size, status.st_mtime_ns)


def _directory_entry(directory: Directory, path: str) -> Entry:
    status = directory.status(".")
    owner, group = _user(status.st_uid), _group(status.st_gid)
    return Entry(path, "", 0, stat.S_IMODE(status.st_mode), owner, group, status.st_mtime_ns)


@lru_cache(256)
def _user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


@lru_cache(256)
def _group(number: int) -> str:
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)
