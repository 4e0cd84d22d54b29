"""A message's octets, wherever they lie: in memory while they are few, in a file when they are many.

Contract
    What is put in front of a message lies beside it: nothing is copied to add a header field.
    A file belongs to whoever made it (the spool, the quarantine, a Draft); it must stay while the content is read.
    Methods of a content that lies in a file block: call them in a thread. Octets are never changed, but for those
    that `overwritten` is told of.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from egressguard.mail.header import HEADER_OCTETS, split_header_section
from egressguard.values import value

PIECE_OCTETS = 256 * 1024
_FIRST_LOOK_OCTETS = 64 * 1024


@value(frozen=True, slots=True)
class Content:
    """`front`, then `rest`, then the `file_octets` octets of `file` (either of the two is empty)."""

    front: bytes = b""
    rest: bytes = b""
    file: Path | None = None
    file_octets: int = 0
    is_ascii: bool = True

    @staticmethod
    def of(octets: bytes) -> Content:
        return Content(rest=octets, is_ascii=octets.isascii())

    @property
    def size_octets(self) -> int:
        return len(self.front) + len(self.rest) + self.file_octets

    def in_front(self, octets: bytes) -> Content:
        """The same with `octets` before it."""
        return replace(self, front=octets + self.front, is_ascii=self.is_ascii and octets.isascii())

    def overwritten(self, places: Sequence[int], octets: bytes) -> Content:
        """The same with `octets` at each of `places`; in a file they are written where it lies. Raises OSError."""
        if self.front:
            raise ValueError("what lies in front of a message is not overwritten")
        if self.file is not None:
            with self.file.open("r+b", buffering=0) as file:
                for place in places:
                    os.pwrite(file.fileno(), octets, place)
            return self
        changed = bytearray(self.rest)
        for place in places:
            changed[place : place + len(octets)] = octets
        return replace(self, rest=bytes(changed))

    def head(self, octets: int) -> bytes:
        """The first `octets` of it. Raises OSError."""
        known = self.front + self.rest if self.front else self.rest
        if self.file is not None and len(known) < octets:
            with self.file.open("rb", buffering=0) as file:
                known += file.read(octets - len(known))
        return known[:octets]

    def header_section(self) -> bytes:
        """Every field, without the empty line behind them; at most HEADER_OCTETS are looked at. Raises OSError."""
        section, rest = split_header_section(self.head(_FIRST_LOOK_OCTETS))
        if not rest and self.size_octets > _FIRST_LOOK_OCTETS:
            section, _ = split_header_section(self.head(HEADER_OCTETS))
        return section

    def pieces(self) -> Iterator[bytes]:
        """All of it, at most PIECE_OCTETS at a time from a file. Raises OSError, also when the file is too short."""
        if self.front or self.rest:
            yield self.front + self.rest
        if self.file is None:
            return
        left = self.file_octets
        with self.file.open("rb", buffering=0) as file:
            while left:
                piece = file.read(min(PIECE_OCTETS, left))
                if not piece:
                    raise OSError(f"{self.file} is shorter than it was")
                left -= len(piece)
                yield piece

    def whole(self) -> bytes:
        """All of it in memory. Raises OSError."""
        return b"".join(self.pieces())
