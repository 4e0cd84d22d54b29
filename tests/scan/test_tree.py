"""Where a header section ends, whichever line ends a message has."""

from __future__ import annotations

import random

from egressguard.scan.tree import _body_start


def test_a_body_starts_behind_the_first_empty_line() -> None:
    chance = random.Random(20261126)
    found = 0
    for _ in range(5000):
        text = b"".join(chance.choices((b"\n", b"\r", b"\r\n", b"a: b", b" "), k=chance.randrange(12)))
        start, end = chance.randrange(4), len(text) - chance.randrange(4)
        ends = [at + len(mark) for mark in (b"\n\r\n", b"\n\n") if (at := text.find(mark, start, end)) >= 0]

        assert _body_start(text, start, end) == min(ends, default=-1), (text, start, end)
        found += bool(ends)
    assert found > 1000
