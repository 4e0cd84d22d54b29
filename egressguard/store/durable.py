"""Put a file on disk so that a crash leaves the old file or the new one, never half.

Contract
    The order is the contract: write, fsync(file), rename, fsync(directory). Only after the last step may a
    caller tell anyone that the octets are safe. OSError goes up untouched.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path


class Disk:
    """The calls that can fail. Tests hand in one that fails on purpose."""

    open = staticmethod(os.open)
    write = staticmethod(os.write)
    fsync = staticmethod(os.fsync)
    close = staticmethod(os.close)
    rename = staticmethod(os.rename)
    unlink = staticmethod(os.unlink)


def put(
    path: Path,
    content: bytes | Iterable[bytes],
    *,
    temporary: Path | None = None,
    mode: int = 0o600,
    disk: type[Disk] = Disk,
) -> None:
    """Write `content` to `path` durably. `temporary` (same file system) defaults to a hidden neighbour."""
    temporary = temporary or path.with_name(f".{path.name}.{os.getpid()}.tmp")
    write_new(temporary, content, mode=mode, disk=disk)
    try:
        disk.rename(temporary, path)
    except OSError:
        _discard(temporary, disk)
        raise
    sync_directory(path.parent, disk)


def keep(temporary: Path, path: Path, *, disk: type[Disk] = Disk) -> None:
    """Make a file that was written before durable, under its name."""
    sync_and_close(disk.open(temporary, os.O_RDONLY | os.O_CLOEXEC), disk)
    disk.rename(temporary, path)
    sync_directory(path.parent, disk)


def write_new(path: Path, content: bytes | Iterable[bytes], *, mode: int = 0o600, disk: type[Disk] = Disk) -> None:
    """Create `path` with `content` (whole or in pieces), fsynced; on an error nothing stays behind."""
    fd = open_new(path, content, mode=mode, disk=disk)
    try:
        sync_and_close(fd, disk)
    except OSError:
        _discard(path, disk)
        raise


def open_new(path: str | Path, content: bytes | Iterable[bytes], *, mode: int = 0o600, disk: type[Disk] = Disk) -> int:
    """The descriptor of a new file with `content`, which is not on the disk yet; on an error nothing stays behind."""
    fd = disk.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        for piece in (content,) if isinstance(content, bytes) else content:
            view = memoryview(piece)
            while view:
                view = view[disk.write(fd, view) :]
    except BaseException:
        with contextlib.suppress(OSError):
            disk.close(fd)
        _discard(path, disk)
        raise
    return fd


def sync_and_close(fd: int, disk: type[Disk] = Disk) -> None:
    try:
        disk.fsync(fd)
    finally:
        disk.close(fd)


def sync_directory(directory: Path, disk: type[Disk] = Disk) -> None:
    sync_and_close(disk.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), disk)


def _discard(path: str | Path, disk: type[Disk]) -> None:
    with contextlib.suppress(OSError):  # the first error is the one that matters
        disk.unlink(path)
