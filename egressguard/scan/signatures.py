"""puremagic's tables, looked up by offset and octet. Pure.

Contract
    `media_type_of` says what puremagic.from_string says of the same octets, "" where that knows nothing: of all
    signatures that stand in them the longest counts. puremagic compares each of its 1400 in turn, which took more
    time than all other reading of a message.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from operator import getitem, itemgetter

import puremagic

_Row = puremagic.PureMagic


def media_type_of(octets: bytes) -> str:
    at_the_head = [row for _, row in sorted(_at_the_head(octets))]
    found = [*at_the_head, *_at_the_end(octets)]
    if not found:
        return ""
    found += [more for row in found for more in _refined(row, octets)]
    longest = max(found, key=lambda row: len(row.byte_match))  # the first of them
    return str(longest.mime_type).lower()


@dataclass(frozen=True, slots=True)
class _Candidates:
    """The signatures at one offset that begin with one octet: the words alone, and each with its place in the table."""

    offset: int
    words: tuple[bytes, ...]
    rows: tuple[tuple[int, _Row], ...]


@dataclass(frozen=True, slots=True)
class _Heads:
    """`pick` takes the octet at each offset; `by_octet` has, for each offset in turn, what an octet there may begin."""

    needed_octets: int
    pick: Callable[[bytes], tuple[int, ...]]
    by_octet: tuple[tuple[_Candidates | None, ...], ...]


@functools.cache
def _heads() -> _Heads:
    by_offset: dict[int, dict[int, list[tuple[int, _Row]]]] = {}
    for number, row in enumerate(puremagic.magic_header_array):
        by_offset.setdefault(row.offset, {}).setdefault(row.byte_match[0], []).append((number, row))
    tables = tuple(
        tuple(_candidates(offset, some.get(octet, ())) for octet in range(256)) for offset, some in by_offset.items()
    )
    return _Heads(max(by_offset) + 1, itemgetter(*by_offset), tables)


def _candidates(offset: int, rows: Sequence[tuple[int, _Row]]) -> _Candidates | None:
    return _Candidates(offset, tuple(row.byte_match for _, row in rows), tuple(rows)) if rows else None


def _at_the_head(octets: bytes) -> Iterator[tuple[int, _Row]]:
    heads = _heads()
    picked = heads.pick(octets.ljust(heads.needed_octets, b"\0"))
    for some in filter(None, map(getitem, heads.by_octet, picked)):
        if octets.startswith(some.words, some.offset):
            yield from (each for each in some.rows if octets.startswith(each[1].byte_match, some.offset))


def _at_the_end(octets: bytes) -> Iterator[_Row]:
    for row, word, start, end in _feet():
        if octets[start:end] == word:
            yield row


@functools.cache
def _feet() -> tuple[tuple[_Row, bytes, int, int | None], ...]:
    """What stands so far before a file's end: the signature, its word, where that begins and ends."""
    rows = puremagic.magic_footer_array
    return tuple((row, row.byte_match, row.offset, row.offset + len(row.byte_match) or None) for row in rows)


def _stands_before_the_end(row: _Row, octets: bytes) -> bool:
    end = row.offset + len(row.byte_match)
    return bool(octets[row.offset : end or None] == row.byte_match)


def _refined(row: _Row, octets: bytes) -> Iterator[_Row]:
    """What a second signature further on says of a file that begins so: a container of sounds, of pictures, ..."""
    for more in puremagic.multi_part_dict.get(row.byte_match, ()):
        end = more.offset + len(more.byte_match)
        if more.offset < 0 and _stands_before_the_end(more, octets):
            yield more._replace(byte_match=row.byte_match + more.byte_match)
        elif more.offset >= 0 and octets.startswith(more.byte_match, more.offset):
            yield more._replace(byte_match=octets[row.offset : end])
