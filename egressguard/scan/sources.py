"""Find the messages below a path: a Maildir, Maildir++ or tree of them, an mbox, a folder of files, one file.

Contract
    Strictly read-only: nothing is renamed, made, locked or given another access time (where the kernel lets us).
    In a Maildir only new/ and cur/ hold messages, and only its subfolders are walked into: indexes, sidecars and
    what is still being delivered (tmp/) are no messages. Outside of one, every file is.
    A link is not followed, but the path that was asked for may be one. What is no regular file is told, not opened.
    A message that a mail program moves meanwhile (new -> cur, other flags) is found again by its base name; one that
    was not seen because it got another name just then is found by a second look.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from typing import NamedTuple

_MESSAGES = ("new", "cur")  # in this order: what is moved while we walk is moved this way
_NO_FOLDERS = frozenset({"new", "cur", "tmp"})
MAX_DEPTH = 64
_LOOKS = 5
_inode = os.DirEntry.inode


class Status(NamedTuple):
    """What tells a file from another, and from itself before it was changed."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int


class Source(NamedTuple):
    """A file that holds a message, or messages when it is an mbox (never in a Maildir).

    `status` None: `problem` says why it cannot be looked at."""

    path: str
    status: Status | None
    in_maildir: bool = False
    problem: str = ""


def status_of(found: os.stat_result) -> Status:
    return Status._make((found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns))


def find_sources(path: str) -> Iterator[Source]:
    """Everything below `path` that may be a message. Never raises: what cannot be read is a Source that says so."""
    try:
        found = os.stat(path)  # noqa: PTH116 -- many paths: no Path is made for each
    except OSError as wrong:
        yield Source(path, None, problem=_words(wrong))
        return
    if stat.S_ISDIR(found.st_mode):
        yield from _walk(path, 0, in_tree_of_maildirs=False)
    elif stat.S_ISREG(found.st_mode):
        yield Source(os.path.realpath(path), status_of(found))
    else:
        yield Source(path, None, problem="no regular file")


def _walk(path: str, depth: int, *, in_tree_of_maildirs: bool) -> Iterator[Source]:
    if depth > MAX_DEPTH:
        yield Source(path, None, problem="folders nested too deep")
        return
    try:
        folders, files = _listed(path)
    except FileNotFoundError:
        return  # taken away meanwhile
    except OSError as wrong:
        yield Source(path, None, problem=_words(wrong))
        return
    is_maildir = folders >= set(_MESSAGES)
    if is_maildir:
        yield from _messages(path)
        folders -= _NO_FOLDERS
    elif not in_tree_of_maildirs:
        yield from _files(files, in_maildir=False)
    for name in sorted(folders):
        yield from _walk(f"{path}/{name}", depth + 1, in_tree_of_maildirs=is_maildir or in_tree_of_maildirs)


def _listed(path: str) -> tuple[set[str], list[os.DirEntry[str]]]:
    folders: set[str] = set()
    files: list[os.DirEntry[str]] = []
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                folders.add(entry.name)
            else:
                files.append(entry)
    return folders, files


def _messages(maildir: str) -> Iterator[Source]:
    """A file that gets another name while its directory is read may be seen under neither: look until none is new."""
    seen: set[int] = set()
    for look in range(_LOOKS):
        before = len(seen)
        for part in _MESSAGES:
            try:
                with os.scandir(f"{maildir}/{part}") as entries:
                    files = [e for e in entries if not e.name.startswith(".") and e.inode() not in seen]
            except FileNotFoundError:
                continue
            except OSError as wrong:
                if not look:
                    yield Source(f"{maildir}/{part}", None, problem=_words(wrong))
                continue
            seen.update(entry.inode() for entry in files)
            yield from _files(files, in_maildir=True)
        if look and len(seen) == before:
            return


def _files(entries: list[os.DirEntry[str]], *, in_maildir: bool) -> Iterator[Source]:
    """In the order of their inodes: so they lie on a disk, and in what is remembered of them."""
    entries.sort(key=_inode)
    for entry in entries:
        try:
            found = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            moved = moved_to(entry.path) if in_maildir else None
            if moved is not None:
                yield moved
            continue
        except OSError as wrong:
            yield Source(entry.path, None, in_maildir, _words(wrong))
            continue
        if stat.S_ISREG(found.st_mode):
            yield Source(entry.path, status_of(found), in_maildir)
        elif not stat.S_ISDIR(found.st_mode):
            yield Source(entry.path, None, in_maildir, "no regular file; links are not followed")


def moved_to(path: str) -> Source | None:
    """Where the message of a Maildir is now that was at `path`; None: it is gone.

    It may be moved once more between any two steps of this: only several looks without it mean that it is gone."""
    folder, name = os.path.split(path)
    maildir, base = os.path.dirname(folder), name.partition(":")[0]  # noqa: PTH120
    for part in _MESSAGES * _LOOKS:
        with contextlib.suppress(OSError), os.scandir(f"{maildir}/{part}") as entries:
            for entry in entries:
                if entry.name.partition(":")[0] == base and entry.is_file(follow_symlinks=False):
                    return Source(entry.path, status_of(entry.stat(follow_symlinks=False)), in_maildir=True)
    return None


def open_source(path: str) -> int:
    """A descriptor to read from; no link, and nothing that waits for a writer. Raises OSError."""
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        return os.open(path, flags | os.O_NOATIME)
    except PermissionError:  # O_NOATIME is the owner's alone
        return os.open(path, flags)


def _words(wrong: OSError) -> str:
    return f"cannot be read: {wrong.strerror or type(wrong).__name__}"
