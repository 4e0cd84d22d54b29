"""The search among boxes is exact: the same as asking every point."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egressguard.policy.difference.boxes import Box, Search, TooHard

SIZES = (2, 3, 3, 4)
BOXES = st.dictionaries(st.integers(0, 3), st.integers(1, 15), max_size=4).map(
    lambda box: {fact: classes & (1 << SIZES[fact]) - 1 or 1 for fact, classes in box.items()}
)


def holds(box: Box, point: tuple[int, ...]) -> bool:
    return all(classes >> point[fact] & 1 for fact, classes in box.items())


@given(BOXES, st.lists(BOXES, max_size=8), st.none() | BOXES)
def test_it_finds_what_every_point_tells(inside: Box, outside: list[Box], impossible: Box | None) -> None:
    def check(box: Box) -> Box | None:
        return impossible if impossible and search.covers(impossible, box) else None

    search = Search([(1 << size) - 1 for size in SIZES], check)
    points = [
        point
        for point in itertools.product(*map(range, SIZES))
        if holds(inside, point)
        and not any(holds(box, point) for box in outside)
        and not (impossible and holds(impossible, point))
    ]
    found = search.search(inside, outside)
    assert (found is not None) == bool(points) or (found is not None and impossible)
    if found is not None:
        inner = [point for point in itertools.product(*map(range, SIZES)) if holds(found, point)]
        assert inner and all(holds(inside, p) and not any(holds(box, p) for box in outside) for p in inner)


def test_it_never_guesses() -> None:
    search = Search([3] * 40, steps=50)
    outside = [{n: 1, n + 1: 2} for n in range(39)] + [{n: 2, n + 1: 1} for n in range(39)]
    with pytest.raises(TooHard):
        search.search({0: 1, 39: 2}, outside)
