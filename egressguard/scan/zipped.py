"""The files in a ZIP archive, and where two programs could read the same octets as different archives.

Contract
    `entries` yields what the central directory lists, under each name that it gives; `doubts` says where another
    reader (one that goes by the local headers, by the first end record, by ZIP64's) would see something else.
    Archives that something stands before or behind are found too: a program with an archive behind it, for one.

Source: the ZIP file format as PKWARE publishes it (APPNOTE 6.3: 4.3.7 local header, 4.3.12 central directory,
4.3.15 and 4.3.16 end records, 4.6.9 the Unicode path).
"""

from __future__ import annotations

import lzma
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from egressguard.scan.libarchive import Entry, Unreadable
from egressguard.scan.octets import Octets, opened, part

LOCAL, CENTRAL, END, LOCATOR64 = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06", b"PK\x06\x07"
_END_HAS = b"\x06"
"""One octet is looked for faster than four: texts have no such."""
_END_OCTETS, _LOCAL_OCTETS = 22, 30
_CHUNK_OCTETS = 1 << 18
_MOST_CANDIDATES = 64
_ENCRYPTED, _DESCRIPTOR = 0x1, 0x8
_DESCRIPTOR_OCTETS = 24  # with a signature, in ZIP64
_UNICODE_PATH = 0x7075
_WRONG = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    ValueError,
    OSError,
    EOFError,
    NotImplementedError,
    RuntimeError,
    struct.error,
    IndexError,
    MemoryError,
)


class Broken(Exception):
    """No program could list what this holds."""


@dataclass(slots=True)
class Zip:
    content: Octets
    file: zipfile.ZipFile
    listed: list[zipfile.ZipInfo]
    end: int
    """Where its end record stands."""

    def entries(self) -> Iterator[Entry]:
        for info in self.listed:
            if not info.filename.endswith("/") or info.file_size:  # is_dir() raises for a name that is empty
                encrypted = bool(info.flag_bits & _ENCRYPTED)
                yield Entry(tuple(_names(info)), iter(()) if encrypted else self._chunks(info), encrypted)

    def _chunks(self, info: zipfile.ZipInfo) -> Iterator[bytes]:
        """The declared size is only a claim. Raises Unreadable."""
        try:
            with self.file.open(info) as file:
                while chunk := file.read(_CHUNK_OCTETS):
                    yield chunk
        except _WRONG as wrong:
            raise Unreadable(type(wrong).__name__, encrypted=False) from wrong

    def doubts(self) -> Iterator[str]:
        """Where readers would differ; each is a reason to hold the message."""
        covered: list[tuple[int, int]] = []
        for info in self.listed:
            if "\0" in info.orig_filename:
                yield "a name with an octet of zero in it"
            if ".." in info.filename.replace("\\", "/").split("/"):
                yield "a name that leads out of its folder"
            if (read := self._local(info)) is None:
                yield "its local headers say something else than its directory"
            else:
                covered.append(read)
        covered.append((self.file.start_dir, self.end + _END_OCTETS + self._comment()))
        yield from _overlaps(covered)
        if any(_holds_records(self.content, start, stop) for start, stop in _gaps(covered, len(self.content))):
            yield "files that its directory leaves out"
        if self._two_ends():
            yield "two end records that differ"

    def _local(self, info: zipfile.ZipInfo) -> tuple[int, int] | None:
        """Which octets a member takes; None where its own header contradicts the directory."""
        start = info.header_offset
        if start < 0 or self.content[start : start + 4] != LOCAL or start + _LOCAL_OCTETS > len(self.content):
            return None
        flags, method = struct.unpack("<HH", self.content[start + 6 : start + 10])
        packed, size, name_octets, extra_octets = struct.unpack("<IIHH", self.content[start + 18 : start + 30])
        name = self.content[start + _LOCAL_OCTETS : start + _LOCAL_OCTETS + name_octets]
        try:
            named = info.orig_filename.encode("utf-8" if info.flag_bits & 0x800 else "cp437")
        except UnicodeEncodeError:
            return None
        if name != named or method != info.compress_type or (flags ^ info.flag_bits) & _ENCRYPTED:
            return None
        later = flags & _DESCRIPTOR
        sizes_agree = all(
            here in (there, 0xFFFFFFFF) or (later and here == 0)
            for here, there in ((packed, info.compress_size), (size, info.file_size))
        )
        if not sizes_agree:
            return None
        return start, start + _LOCAL_OCTETS + name_octets + extra_octets + info.compress_size

    def _comment(self) -> int:
        return int.from_bytes(self.content[self.end + 20 : self.end + 22], "little")

    def _two_ends(self) -> bool:
        """A ZIP64 end record that contradicts the old one: a reader may go by either (4.4.1.4)."""
        if self.content[max(self.end - 20, 0) : self.end][:4] != LOCATOR64:
            return False
        count, size = struct.unpack("<HI", self.content[self.end + 10 : self.end + 16])
        listed = len(self.listed)
        return (count not in (0xFFFF, listed)) or (size not in (0xFFFFFFFF, self._directory_octets()))

    def _directory_octets(self) -> int:
        behind = self.content.find(b"PK\x06\x06", self.file.start_dir)
        return (behind if behind >= 0 else self.end) - self.file.start_dir


def find(content: Octets) -> Zip | None:
    """The archive that ends last in `content`, wherever that is. Raises Broken for one that cannot be listed."""
    at = len(content) if not isinstance(content, bytes) or _END_HAS in content else 0
    for _ in range(_MOST_CANDIDATES):
        at = content.rfind(END, 0, at)
        if at < 0:
            break
        if _is_end(content, at):
            return _opened(content, at)
    if content.startswith((LOCAL, b"PK00" + LOCAL, b"PK\x07\x08" + LOCAL)):
        raise Broken("no end record")
    return None


def _is_end(content: Octets, at: int) -> bool:
    """Whether a directory of the size that it names stands before this end record."""
    if at + _END_OCTETS > len(content):
        return False
    count, size = struct.unpack("<HI", content[at + 10 : at + 16])
    if content[max(at - 20, 0) : at][:4] == LOCATOR64 or (count == 0 and size == 0):
        return True
    return size <= at and content.startswith(CENTRAL, at - size)


def _opened(content: Octets, end: int) -> Zip:
    comment = int.from_bytes(content[end + 20 : end + 22], "little")
    try:
        file = zipfile.ZipFile(opened(part(content, 0, end + _END_OCTETS + comment)))
        return Zip(content, file, file.infolist(), end)
    except _WRONG as wrong:
        raise Broken(str(wrong)[:100]) from wrong


def _names(info: zipfile.ZipInfo) -> Iterator[str]:
    yield info.filename
    if "\0" in info.orig_filename:
        yield info.orig_filename
    at = 0
    while at + 4 <= len(info.extra):
        kind, size = struct.unpack_from("<HH", info.extra, at)
        if kind == _UNICODE_PATH and size > 5:
            name = info.extra[at + 9 : at + 4 + size].decode("utf-8", "replace")
            if name != info.filename:
                yield name
        at += 4 + size


def _overlaps(covered: list[tuple[int, int]]) -> Iterator[str]:
    ordered = sorted(covered)
    if any(after[0] < before[1] for before, after in pairwise(ordered)):
        yield "members that share the same octets"


def _gaps(covered: list[tuple[int, int]], length: int) -> Iterator[tuple[int, int]]:
    reached = 0
    for start, stop in sorted(covered):
        if start > reached:
            yield reached, start
        reached = max(reached, stop)
    if reached < length:
        yield reached, length


def _holds_records(content: Octets, start: int, stop: int) -> bool:
    """A record that a reader could take for one: a program that unpacks archives has the bare signatures in it."""
    for signature in (LOCAL, CENTRAL, END):
        at = start
        for _ in range(_MOST_CANDIDATES):
            at = content.find(signature, at, stop)
            if at < 0:
                break
            if _is_end(content, at) if signature == END else _is_header(content, at, signature):
                return True
            at += 1
        else:
            return True
    return False


def _is_header(content: Octets, at: int, signature: bytes) -> bool:
    offset, least = (26, _LOCAL_OCTETS) if signature == LOCAL else (28, 46)
    if at + least > len(content):
        return False
    method, version = content[at + offset - 18], content[at + 4]
    name_octets = int.from_bytes(content[at + offset : at + offset + 2], "little")
    return version <= 63 and method <= 99 and 0 < name_octets <= 1024 and at + least + name_octets <= len(content)
