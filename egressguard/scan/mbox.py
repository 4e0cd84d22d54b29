"""The messages of an mbox file, as octets and in bounded memory (RFC 4155: separated by From_ lines).

Contract
    Every octet of the file but the From_ lines is in exactly one message.
    A From_ line stands at the start of the file or after an empty line, and what follows it looks like a header
    section: text that merely starts with "From " does not cut a message in two.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

_BEGINS = b"From "
_FROM_LINE_OCTETS = 1000
_LOOK_AHEAD_OCTETS = 4096
_CHUNK_OCTETS = 1 << 20
_SEPARATOR = re.compile(
    rb"(?:\A|(?<=\n\n)|(?<=\n\r\n))From [^\n]{0,%d}\n(?=>?[!-9;-~]{1,100}[ \t]*:|>From )" % _FROM_LINE_OCTETS
)


def is_mbox(fd: int) -> bool:
    """Whether the file starts as an mbox does. Raises OSError."""
    return _SEPARATOR.match(os.pread(fd, _LOOK_AHEAD_OCTETS, 0)) is not None


def split_mbox(fd: int) -> Iterator[tuple[int, int]]:
    """(start, size) of each message, its From_ line left out. Raises OSError."""
    start: int | None = None
    for begin, end in _separators(fd):
        if start is not None:
            yield start, begin - start
        start = end
    if start is not None:
        yield start, max(os.fstat(fd).st_size - start, 0)


def _separators(fd: int) -> Iterator[tuple[int, int]]:
    """Where each From_ line begins and ends. Chunks overlap, so that one at an edge is seen whole."""
    offset, seen = 0, -1
    while chunk := os.pread(fd, _CHUNK_OCTETS, offset):
        is_last = len(chunk) < _CHUNK_OCTETS
        for found in _SEPARATOR.finditer(chunk):
            begin = offset + found.start()
            if (found.start() or not offset) and begin > seen:  # \A is the file's start, not a chunk's
                seen = begin
                yield begin, offset + found.end()
        if is_last:
            return
        offset += _CHUNK_OCTETS - _LOOK_AHEAD_OCTETS
