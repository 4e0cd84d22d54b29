"""The index over puremagic's tables says what puremagic says."""

from __future__ import annotations

import random
from collections.abc import Iterator

import puremagic
import pytest

from egressguard.scan.signatures import media_type_of

ROWS = puremagic.magic_header_array
SNIFFED_OCTETS = 8192


def by_puremagic(octets: bytes) -> str:
    try:
        return str(puremagic.from_string(octets, mime=True)).lower()
    except puremagic.PureError:
        return ""


def longest(octets: bytes) -> set[str]:
    """Of signatures of the same length puremagic takes any: by the order of a set."""
    found = puremagic.magic_string(octets)
    return {str(row.mime_type).lower() for row in found if len(row.byte_match) == len(found[0].byte_match)}


def files() -> Iterator[bytes]:
    """Each signature alone and before other octets; then two in one file."""
    chance = random.Random(20261126)
    for row in ROWS:
        yield bytes(row.offset) + row.byte_match
        yield chance.randbytes(row.offset) + row.byte_match + chance.randbytes(50)
    for _ in range(500):
        file = bytearray(chance.randbytes(SNIFFED_OCTETS))
        for row in chance.sample(ROWS, 2):
            file[row.offset : row.offset + len(row.byte_match)] = row.byte_match
        yield bytes(file[:SNIFFED_OCTETS])
    for row in puremagic.magic_footer_array:
        yield b"x" * 50 + row.byte_match + bytes(-row.offset - len(row.byte_match))
        yield row.byte_match


def containers() -> Iterator[bytes]:
    """A signature, and further on the second one that says what kind of container it is."""
    for first in ROWS:
        for second in puremagic.multi_part_dict.get(first.byte_match, ()):
            if second.offset >= 0:
                end = max(first.offset + len(first.byte_match), second.offset + len(second.byte_match))
                file = bytearray(end)
                file[first.offset : first.offset + len(first.byte_match)] = first.byte_match
                file[second.offset : second.offset + len(second.byte_match)] = second.byte_match
                yield bytes(file)
            else:
                tail = second.byte_match + bytes(-second.offset - len(second.byte_match))
                yield bytes(first.offset) + first.byte_match + b"z" * 600 + tail


def test_every_signature_is_told_as_puremagic_tells_it() -> None:
    assert [octets[:40] for octets in files() if media_type_of(octets) != by_puremagic(octets)] == []


def test_containers_are_told_by_what_is_further_on() -> None:
    assert [o[:40] for o in containers() if media_type_of(o) not in longest(o)] == []
    assert sum(1 for _ in containers()) > 40


@pytest.mark.parametrize("octets", [b"", b"\0", b"Dear all,\r\n\r\nsee below\r\n", b"x" * SNIFFED_OCTETS])
def test_what_nobody_knows_is_nothing(octets: bytes) -> None:
    assert media_type_of(octets) == ""
