"""Read a directory that somebody else may write: no links followed, nothing waited for, all of it bounded.

Contract
    Strictly read-only. Below the directory that was asked for no symbolic link is ever followed, not even one that
    is put there while we read: each step is opened by its name within the descriptor of the one before.
    What is no regular file is not opened (a FIFO would make us wait, a device could do worse).
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from egressguard.mailbox.takeover.source import SourceError

MAX_LIST_OCTETS = 512 * 1024 * 1024
"""Of a file that describes a folder, such as a list of UIDs: a million messages take some 100 MB."""
MAX_NAMES = 4_000_000
CHUNK_OCTETS = 1 << 20
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class Directory:
    """An open directory. `path` is for people to read."""

    def __init__(self, fd: int, path: str) -> None:
        self._fd = fd
        self.path = path

    @classmethod
    def opened(cls, path: Path) -> Directory:
        """The path that was asked for may itself be a link. Raises OSError."""
        return cls(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), str(path))

    def below(self, name: str) -> Directory:
        """Raises OSError."""
        fd = os.open(name, _READ | os.O_DIRECTORY, dir_fd=self._fd)
        return Directory(fd, f"{self.path}/{name}")

    def again(self) -> Directory:
        """The same directory; each of the two is closed by itself."""
        return Directory(os.dup(self._fd), self.path)

    def close(self) -> None:
        os.close(self._fd)

    def __enter__(self) -> Directory:
        return self

    def __exit__(self, *_wrong: object) -> None:
        self.close()

    def names(self) -> list[str]:
        """Raises OSError, SourceError."""
        names = []
        with os.scandir(self._fd) as entries:
            for entry in entries:
                names.append(entry.name)
                if len(names) > MAX_NAMES:
                    raise SourceError(f"{self.path}: more than {MAX_NAMES} names in one directory")
        return names

    def directories(self) -> list[str]:
        """Names of real directories in it, sorted. Raises OSError."""
        with os.scandir(self._fd) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))

    def holds(self, name: str) -> bool:
        """Whether there is a regular file or directory of that name."""
        try:
            mode = os.stat(name, dir_fd=self._fd, follow_symlinks=False).st_mode
        except OSError:
            return False
        return stat.S_ISREG(mode) or stat.S_ISDIR(mode)

    def status(self, name: str) -> os.stat_result:
        """Raises OSError."""
        return os.stat(name, dir_fd=self._fd, follow_symlinks=False)

    def open_file(self, name: str) -> int:
        """A descriptor of a regular file. Raises OSError."""
        try:
            fd = os.open(name, _READ | os.O_NOATIME, dir_fd=self._fd)
        except PermissionError:  # O_NOATIME is the owner's alone
            fd = os.open(name, _READ, dir_fd=self._fd)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise OSError(errno.EINVAL, "no regular file", name)
        return fd

    def lines(self, name: str, *, most_octets: int = MAX_LIST_OCTETS) -> list[bytes]:
        """The whole lines of a small file; [] when there is none. Raises OSError, SourceError."""
        try:
            fd = self.open_file(name)
        except FileNotFoundError:
            return []
        try:
            if os.fstat(fd).st_size > most_octets:
                raise SourceError(f"{self.path}/{name}: larger than {most_octets} octets")
            content = b"".join(read_pieces(fd, most_octets))
        finally:
            os.close(fd)
        return content.split(b"\n")[:-1]  # a last line without its end is still being written


def read_pieces(fd: int, most_octets: int, offset: int = 0) -> Iterator[bytes]:
    """The octets of an open file from `offset` on. Raises OSError."""
    end = offset + most_octets
    while offset < end and (piece := os.pread(fd, min(CHUNK_OCTETS, end - offset), offset)):
        offset += len(piece)
        yield piece


def open_if_there(directory: Directory, name: str) -> Directory | None:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return directory.below(name)
    return None
