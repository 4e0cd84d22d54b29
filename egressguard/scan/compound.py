"""Compound files ([MS-CFB]): the streams of old office documents and of Outlook's messages, put together. Never raises.

Contract
    `entries` gives every entry of the directory that a chain of sectors leads to, `stream` what one of them holds. A
    chain that leads in a circle or out of the file ends there. All is bounded by the file's size and the limits here.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator
from dataclasses import dataclass

from egressguard.scan.octets import Octets, gather, part

COMPOUND = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
STORAGE, STREAM, ROOT = 1, 2, 5
MAX_ENTRIES = 20_000
_HEADER_OCTETS, _ENTRY_OCTETS = 512, 128
_END = 0xFFFFFFFA  # this and above are no sectors (s2.1)
_MOST_SECTORS = 1 << 20


@dataclass(frozen=True, slots=True)
class Entry:
    """`left`, `right`: its siblings, `child`: the first in it, by their numbers in the directory (s2.6.1)."""

    name: str
    kind: int
    left: int
    right: int
    child: int
    start: int
    size: int


class Compound:
    def __init__(self, content: Octets) -> None:
        self._content = content
        header = content[:_HEADER_OCTETS].ljust(_HEADER_OCTETS, b"\0")
        sector, mini = struct.unpack_from("<HH", header, 30)
        self._sector = 1 << (sector if sector in {9, 12} else 9)
        self._mini = 1 << (mini if mini == 6 else 6)
        directory, self._cutoff, mini_table, more_tables = struct.unpack_from("<I4xII4xI", header, 48)
        self._next = self._table(self._tables(header, more_tables))
        self._next_mini = self._table(self._chain(mini_table, self._next))
        self.entries = tuple(self._listed(directory))
        root = next((entry for entry in self.entries if entry.kind == ROOT), None)
        self._minis = self._gathered(root.start, root.size) if root else b""

    def stream(self, entry: Entry) -> Octets:
        if entry.size >= self._cutoff:
            return self._gathered(entry.start, entry.size)
        places = (number * self._mini for number in self._chain(entry.start, self._next_mini))
        return part(gather(self._minis[at : at + self._mini] for at in places), 0, entry.size)

    def _gathered(self, start: int, size: int) -> Octets:
        return part(gather(self._at(number) for number in self._chain(start, self._next)), 0, size)

    def _at(self, number: int) -> bytes:
        return self._content[(number + 1) * self._sector : (number + 2) * self._sector]

    def _tables(self, header: bytes, more: int) -> Iterator[int]:
        """The sectors that the table of sectors lies in (s2.5)."""
        yield from struct.unpack_from("<109I", header, 76)
        for _ in range(_MOST_SECTORS):
            octets = self._at(more)
            if more >= _END or len(octets) < self._sector:
                return
            *numbers, more = struct.unpack(f"<{self._sector // 4}I", octets)
            yield from numbers

    def _table(self, sectors: Iterator[int]) -> array[int]:
        table = array("I")
        most = min(len(self._content) // self._mini + 1, _MOST_SECTORS * 16)
        for number in sectors:
            octets = self._at(number)
            if number >= _END or len(octets) < self._sector or len(table) > most:
                break
            table.frombytes(octets)
        return table

    def _chain(self, start: int, following: array[int]) -> Iterator[int]:
        for _ in range(len(following)):
            if start >= len(following):
                return
            yield start
            start = following[start]

    def _listed(self, start: int) -> Iterator[Entry]:
        left = MAX_ENTRIES
        for number in self._chain(start, self._next):
            octets = self._at(number)
            for at in range(0, len(octets) - _ENTRY_OCTETS + 1, _ENTRY_OCTETS):
                if not left:
                    return
                left -= 1
                yield _entry(octets[at : at + _ENTRY_OCTETS])


def _entry(octets: bytes) -> Entry:
    length, kind = struct.unpack_from("<HB", octets, 64)
    name = octets[: max(min(length, 64) - 2, 0)].decode("utf-16-le", "replace")
    left, right, child = struct.unpack_from("<III", octets, 68)
    start, size = struct.unpack_from("<II", octets, 116)
    return Entry(name, kind, left, right, child, start, size)
