"""puremagic's tables, looked up by offset and octet. Pure.

Contract
    `media_type_of` says what puremagic.from_string says of the same octets, "" where that knows nothing: of all
    signatures that stand in them the longest counts. puremagic compares each of its 1400 in turn, which took more
    time than all other reading of a message.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

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
class _Place:
    """All signatures at one offset, by their first octet: the words alone, and each with its place in the table."""

    offset: int
    starting: dict[int, tuple[tuple[bytes, ...], tuple[tuple[int, _Row], ...]]]


@functools.cache
def _places() -> tuple[_Place, ...]:
    by_offset: dict[int, dict[int, list[tuple[int, _Row]]]] = {}
    for number, row in enumerate(puremagic.magic_header_array):
        by_offset.setdefault(row.offset, {}).setdefault(row.byte_match[0], []).append((number, row))
    return tuple(
        _Place(offset, {first: (tuple(row.byte_match for _, row in rows), tuple(rows)) for first, rows in some.items()})
        for offset, some in by_offset.items()
    )


def _at_the_head(octets: bytes) -> Iterator[tuple[int, _Row]]:
    for place in _places():
        if place.offset < len(octets):
            words, rows = place.starting.get(octets[place.offset], ((), ()))
            if octets.startswith(words, place.offset):
                yield from (each for each in rows if octets.startswith(each[1].byte_match, place.offset))


def _at_the_end(octets: bytes) -> Iterator[_Row]:
    for row in puremagic.magic_footer_array:
        if _stands_before_the_end(row, octets):
            yield row


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
