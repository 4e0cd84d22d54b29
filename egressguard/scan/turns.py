"""At most so many at once, counted over all workers: a place is a lock on one octet of a file that all have open.

Contract
    A place is free again when its holder leaves it or dies: the kernel keeps the locks, by process.
    Whoever finds no place within its time is told so.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

_LOOK_AGAIN_SECONDS = 0.01


class Turns:
    """One holder a process at a time: the kernel does not tell a process's own locks apart."""

    def __init__(self, file: Path, places: int) -> None:
        self._fd = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._places = places

    @contextlib.contextmanager
    def place(self, seconds: float) -> Iterator[bool]:
        """True while a place is held; False when there was none."""
        until = time.monotonic() + seconds
        while (number := self._take()) is None:
            if time.monotonic() >= until:
                yield False
                return
            time.sleep(_LOOK_AGAIN_SECONDS)
        try:
            yield True
        finally:
            fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, number)

    def _take(self) -> int | None:
        for number in range(self._places):
            try:
                fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
            except BlockingIOError:
                continue
            return number
        return None

    def close(self) -> None:
        os.close(self._fd)
