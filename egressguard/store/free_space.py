"""How much room a disk has, asked seldom: it is a question of every message."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path

ASK_SECONDS = 0.1
"""The disk is asked this often at most; the reserve is larger than what comes meanwhile."""


class FreeSpace:
    """Of the file system of `directory`; `reserve_octets` of it are not ours to use."""

    def __init__(self, directory: Path, reserve_octets: int) -> None:
        self.reserve_octets = reserve_octets
        self._directory = directory
        self._asked_at = -math.inf
        self._free_octets = 0

    def has(self, size_octets: int) -> bool:
        """Whether so much more would leave the reserve untouched. Raises OSError."""
        wanted = self.reserve_octets + size_octets
        now = time.monotonic()
        if now - self._asked_at > ASK_SECONDS or self._free_octets < wanted:  # a no is never an old one
            self._asked_at = now
            found = os.statvfs(self._directory)
            self._free_octets = found.f_bavail * found.f_frsize
        return self._free_octets >= wanted
