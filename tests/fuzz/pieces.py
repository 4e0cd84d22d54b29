"""How an input of the fuzzer becomes the writes of a peer: cuts and repetitions are octets of the input itself.

Contract
    Pure. CUT ends a write; REPEAT and an octet n send the write before it n more times, as long as they fit.
    Both begin with an octet that UTF-8 never has, so a text can be cut anywhere and still be read in the corpus.
"""

from __future__ import annotations

import re

CUT = b"\xfe\xff"
REPEAT = b"\xfe\xfd"
SENT_OCTETS = 1536 * 1024

_MARK = re.compile(rb"\xfe\xff|\xfe\xfd(.)", re.DOTALL)


def pieces_of(octets: bytes, most_octets: int = SENT_OCTETS) -> list[bytes]:
    """The writes; none is empty, and one that would be too much is left out."""
    found: list[bytes] = []
    at, sent = 0, 0
    for start, end, times in [*_marks(octets), (len(octets), len(octets), 1)]:
        piece = octets[at:start]
        at = end
        fitting = min(times, (most_octets - sent) // len(piece)) if piece else 0
        found += [piece] * fitting
        sent += len(piece) * fitting
    return found


def _marks(octets: bytes) -> list[tuple[int, int, int]]:
    return [(mark.start(), mark.end(), 1 + (mark[1][0] if mark[1] else 0)) for mark in _MARK.finditer(octets)]


def flags_and_pieces(octets: bytes, most_octets: int = SENT_OCTETS) -> tuple[int, list[bytes]]:
    """The first octet chooses the circumstances, the rest is said in them."""
    return (octets[0], pieces_of(octets[1:], most_octets)) if octets else (0, [])
