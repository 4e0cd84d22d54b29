"""A message file as its server shows it: some of Dovecot's are compressed (its zlib plugin).

Contract
    No mail begins as a compressed file does: what begins so is one. What it unpacks to is bounded.
"""

from __future__ import annotations

import bz2
import lzma
import os
import re
import zlib
from collections.abc import Callable, Iterator
from typing import Protocol

from egressguard.mailbox.takeover.directory import CHUNK_OCTETS, read_pieces
from egressguard.mailbox.takeover.source import SourceError

MAX_MESSAGE_OCTETS = 2 * 1024**3
_MEMORY_OCTETS = 256 * 1024 * 1024


class _Unpacker(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = ...) -> bytes: ...


class _Gzip:
    """zlib's object with the interface of the others."""

    def __init__(self) -> None:
        self._object = zlib.decompressobj(wbits=31)

    @property
    def eof(self) -> bool:
        return self._object.eof

    @property
    def unused_data(self) -> bytes:
        return self._object.unused_data

    def decompress(self, data: bytes, max_length: int = 0) -> bytes:
        return self._object.decompress(self._object.unconsumed_tail + data, max_length)


_KINDS: tuple[tuple[re.Pattern[bytes], Callable[[], _Unpacker] | None], ...] = (
    (re.compile(rb"\x1f\x8b\x08"), _Gzip),
    (re.compile(rb"BZh[1-9]1AY&SY"), bz2.BZ2Decompressor),
    (re.compile(rb"\xfd7zXZ\x00"), lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MEMORY_OCTETS)),
    (re.compile(rb"\x28\xb5\x2f\xfd"), None),  # Zstandard: Python 3.11 has nothing that reads it
    (re.compile(rb"Dovecot-LZ4\r"), None),
)


def plain_pieces(fd: int, path: str) -> Iterator[bytes]:
    """The message's octets. Raises OSError, SourceError."""
    size = os.fstat(fd).st_size
    if size > MAX_MESSAGE_OCTETS:
        raise SourceError(f"{path}: larger than {MAX_MESSAGE_OCTETS} octets")
    head = os.pread(fd, 16, 0)
    for magic, make in _KINDS:
        if magic.match(head):
            if make is None:
                raise SourceError(f"{path}: compressed in a way that is not read here; uncompress it at the source")
            return _unpacked(make(), read_pieces(fd, size), path)
    return read_pieces(fd, size)


def _unpacked(unpacker: _Unpacker, packed: Iterator[bytes], path: str) -> Iterator[bytes]:
    total = 0
    try:
        for piece in packed:
            data = piece
            while not unpacker.eof and (plain := unpacker.decompress(data, CHUNK_OCTETS)):
                data = b""
                total += len(plain)
                if total > MAX_MESSAGE_OCTETS:
                    raise SourceError(f"{path}: unpacks to more than {MAX_MESSAGE_OCTETS} octets")
                yield plain
    except (zlib.error, lzma.LZMAError, OSError, EOFError, ValueError) as wrong:
        raise SourceError(f"{path}: begins as a compressed file, but is damaged ({wrong})") from wrong
    if not unpacker.eof or unpacker.unused_data:
        raise SourceError(f"{path}: begins as a compressed file, but is not one whole one")
