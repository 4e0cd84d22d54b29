"""The octets of a backup: files named by the SHA-256 of what is in them, each once, whatever holds it.

Contract
    An object is there whole or not at all, also after a power cut: it gets its name only after its octets are on stable
    storage (`settle`). What a killed run left is swept by the next. Nothing is ever changed in place.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import secrets
from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass
from pathlib import Path

SETTLE_FILES = 4000
SETTLE_OCTETS = 256 * 1024 * 1024
_CHUNK_OCTETS = 1 << 20
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Stored:
    digest: str
    size: int
    is_new: bool


class Objects:
    """In `root`. Raises OSError."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._temporary = root / "tmp"
        self._temporary.mkdir(mode=0o700, parents=True, exist_ok=True)
        for left in self._temporary.iterdir():
            left.unlink()
        self._waiting: dict[str, Path] = {}
        self._waiting_octets = 0

    def put(self, pieces: Iterable[bytes]) -> Stored:
        """Keep what `pieces` are together. Whole after the next `settle`."""
        temporary = self._temporary / secrets.token_hex(8)
        digest, size = hashlib.sha256(), 0
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            for piece in pieces:
                digest.update(piece)
                size += len(piece)
                view = memoryview(piece)
                while view:
                    view = view[os.write(fd, view) :]
        except BaseException:
            temporary.unlink()
            raise
        finally:
            os.close(fd)
        name = digest.hexdigest()
        if name in self._waiting or self.has(name):
            temporary.unlink()
            return Stored(name, size, is_new=False)
        self._waiting[name] = temporary
        self._waiting_octets += size
        if len(self._waiting) >= SETTLE_FILES or self._waiting_octets >= SETTLE_OCTETS:
            self.settle()
        return Stored(name, size, is_new=True)

    def settle(self) -> None:
        """All that was put is on stable storage, under its name, when this returns."""
        self._sync()
        for name, temporary in self._waiting.items():
            path = self._path(name)
            path.parent.mkdir(mode=0o700, exist_ok=True)
            temporary.rename(path)
        if self._waiting:
            self._sync()
        self._waiting, self._waiting_octets = {}, 0

    def has(self, digest: str) -> bool:
        return self._path(digest).exists()

    def pieces(self, digest: str) -> Iterator[bytes]:
        """Raises FileNotFoundError."""
        with self._path(digest).open("rb") as file:
            while piece := file.read(_CHUNK_OCTETS):
                yield piece

    def is_whole(self, digest: str) -> bool:
        """Whether it is there, and what its name says."""
        found = hashlib.sha256()
        try:
            for piece in self.pieces(digest):
                found.update(piece)
        except OSError:
            return False
        return found.hexdigest() == digest

    def sweep(self, used: Set[str]) -> int:
        """Remove what no backup needs; return how many octets that gave back."""
        freed = 0
        for folder in self._root.iterdir():
            if len(folder.name) != 2:
                continue
            for path in folder.iterdir():
                if path.name not in used:
                    freed += path.stat().st_size
                    path.unlink()
            with contextlib.suppress(OSError):  # not empty
                folder.rmdir()
        return freed

    def _path(self, digest: str) -> Path:
        return self._root / digest[:2] / digest

    def _sync(self) -> None:
        fd = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if _libc.syncfs(fd) != 0:
                wrong = ctypes.get_errno()
                raise OSError(wrong, os.strerror(wrong), str(self._root))
        finally:
            os.close(fd)
