"""A message while it arrives: in memory while it is small, in a file of the spool's tmp/ from then on.

Contract
    Memory is bounded by MEMORY_OCTETS, whatever the size of the message.
    Nothing here is durable: the spool syncs the file and gives it its name when the message is taken.
    Whoever has a draft ends with `discard`; a crash leaves a file in tmp/, which the next start sweeps.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from collections.abc import Callable
from pathlib import Path

from egressguard.store.content import PIECE_OCTETS, Content

MEMORY_OCTETS = 1024 * 1024
"""Most messages are smaller, and are written once, when they are taken."""


class Draft:
    """`add` octets, then ask for the `content`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._waiting: list[bytes] = []
        self._waiting_octets = 0
        self._path: Path | None = None
        self._fd = -1
        self._written_octets = 0
        self._is_ascii = True

    @property
    def size_octets(self) -> int:
        return self._written_octets + self._waiting_octets

    @property
    def held_octets(self) -> int:
        """What of it is in memory."""
        return self._waiting_octets

    async def add(self, octets: bytes) -> None:
        """Raises OSError: then the draft is of no use any more."""
        self._waiting.append(octets)
        self._waiting_octets += len(octets)
        self._is_ascii = self._is_ascii and octets.isascii()
        if self._waiting_octets > (MEMORY_OCTETS if self._path is None else PIECE_OCTETS):
            await self.spill()

    async def spill(self) -> None:
        """Have nothing of it in memory. Raises OSError."""
        piece = b"".join(self._waiting)
        self._forget_memory()
        await asyncio.to_thread(self._write, piece)

    async def content(self) -> Content:
        """What was added. Raises OSError."""
        if self._path is None:
            return Content(rest=b"".join(self._waiting), is_ascii=self._is_ascii)
        if self._waiting:
            await self.spill()
        return Content(file=self._path, file_octets=self._written_octets, is_ascii=self._is_ascii)

    def discard(self) -> None:
        """Remove what is left of it: nothing, once the spool has taken the file."""
        self._forget_memory()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        if self._path is not None:
            with contextlib.suppress(OSError):
                self._path.unlink(missing_ok=True)
            self._path = None

    def _forget_memory(self) -> None:
        self._waiting.clear()
        self._waiting_octets = 0

    def _write(self, piece: bytes) -> None:
        if self._fd < 0:
            path = self._directory / f"draft.{secrets.token_hex(8)}"
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            self._path = path
        view = memoryview(piece)
        while view:
            written = os.write(self._fd, view)
            self._written_octets += written
            view = view[written:]


NewDraft = Callable[[], Draft]
