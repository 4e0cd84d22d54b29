"""Lock a file of mail that other programs of the system write too, the Debian way (Debian Policy s11.6).

Contract
    fcntl(2) first, then FILE.lock. Whoever cannot have both at once gives back what it has and tries later: nobody
    waits for one while holding the other, so two programs that begin at different ends never block each other.
    FILE.lock comes into being by link(2), which is atomic on every file system, NFS too. It holds our process id.
    One that is older than STALE_SECONDS by its file system's own clock was left by a crash, and is removed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

STALE_SECONDS = 300  # what liblockfile takes for it


class Locked(Exception):
    """Somebody else has it now."""


@contextlib.contextmanager
def locked(path: Path, fd: int) -> Iterator[None]:
    """Hold both locks of the file at `path`, open for writing as `fd`. Raises Locked at once, OSError."""
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as taken:  # fcntl(2) says either
        raise Locked(str(path)) from taken
    try:
        lock = path.with_name(f"{path.name}.lock")
        _take(lock)
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)
    finally:
        fcntl.lockf(fd, fcntl.LOCK_UN)


def _take(lock: Path) -> None:
    mine = lock.with_name(f".{lock.name}.{os.getpid()}.{secrets.token_hex(4)}")
    fd = os.open(mine, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444)
    try:
        try:
            os.write(fd, f"{os.getpid()}\n".encode())
            now = os.fstat(fd).st_mtime
        finally:
            os.close(fd)
        if not _linked(mine, lock):
            if _is_fresh(lock, now):
                raise Locked(str(lock))
            lock.unlink(missing_ok=True)  # nobody but us would: fcntl's lock is ours
            if not _linked(mine, lock):
                raise Locked(str(lock))
    finally:
        mine.unlink(missing_ok=True)


def _linked(mine: Path, lock: Path) -> bool:
    """Over NFS an answer may get lost: the number of links is what counts."""
    with contextlib.suppress(FileExistsError):
        os.link(mine, lock)
    return mine.stat().st_nlink == 2


def _is_fresh(lock: Path, now: float) -> bool:
    try:
        return now - lock.lstat().st_mtime < STALE_SECONDS
    except FileNotFoundError:
        return True  # it went just now: whoever comes next may have it
