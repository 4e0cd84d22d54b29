"""Diagrams against the same questions asked number by number."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable

import pytest

from egressguard.policy.space.diagram import (
    BOTH,
    EITHER,
    FIRST,
    LEAF,
    UNDECIDED,
    Diagrams,
    Node,
    bounds_of,
    paths,
    value_at,
    values_in,
)

SIZES = (2, 8, 16)
POINTS = list(itertools.product(*map(range, SIZES)))
Predicate = Callable[[tuple[int, ...]], bool]


def drawn(diagrams: Diagrams, dice: random.Random, depth: int) -> tuple[Node, Predicate]:
    """A diagram and what it should say, made of the same parts in two ways."""
    if depth == 0 or dice.random() < 0.2:
        level = dice.randrange(len(SIZES))
        first = dice.randrange(SIZES[level])
        behind = dice.randrange(first + 1, SIZES[level] + 1)
        bounds = [first] if behind == SIZES[level] else [first, behind]
        return diagrams.between(level, bounds), lambda point: first <= point[level] < behind
    one, is_one = drawn(diagrams, dice, depth - 1)
    other, is_other = drawn(diagrams, dice, depth - 1)
    match dice.randrange(3):
        case 0:
            return diagrams.combine(BOTH, one, other), lambda point: is_one(point) and is_other(point)
        case 1:
            return diagrams.combine(EITHER, one, other), lambda point: is_one(point) or is_other(point)
    return diagrams.relabel(one, lambda inside: not inside), lambda point: not is_one(point)


def says(node: Node, point: tuple[int, ...]) -> object:
    return value_at(node, point.__getitem__)


@pytest.mark.parametrize("seed", range(60))
def test_a_diagram_says_of_every_point_what_its_parts_say(seed: int) -> None:
    diagrams, dice = Diagrams(), random.Random(seed)
    nodes: dict[tuple[bool, ...], Node] = {}
    for _ in range(5):
        node, inside = drawn(diagrams, dice, 5)
        told = tuple(inside(point) for point in POINTS)
        assert tuple(says(node, point) for point in POINTS) == told
        assert nodes.setdefault(told, node) is node, "two diagrams say the same"
        assert (node is diagrams.no) == (not any(told))
        boxes = list(paths(node, bool))
        held = [sum(all(_in(spans, point[level]) for level, spans in box.items()) for box in boxes) for point in POINTS]
        assert held == [int(yes) for yes in told], "boxes are disjoint and together the region"


def _in(spans: list[tuple[int, int | None]], number: int) -> bool:
    return any(first <= number and (behind is None or number < behind) for first, behind in spans)


@pytest.mark.parametrize("seed", range(30))
def test_the_first_that_has_decided_wins(seed: int) -> None:
    diagrams, dice = Diagrams(), random.Random(seed)
    rules = [(*drawn(diagrams, dice, 3), f"rule{n}") for n in range(6)]
    result = diagrams.leaf("none")
    for node, _, name in reversed(rules):
        told = diagrams.relabel(node, lambda inside, name=name: name if inside else UNDECIDED)  # type: ignore[misc]
        result = diagrams.combine(FIRST, told, result)
    for point in POINTS:
        expected = next((name for _, inside, name in rules if inside(point)), "none")
        assert says(result, point) == expected
    assert set(values_in(result)) == {says(result, point) for point in POINTS}


@pytest.mark.parametrize("seed", range(20))
def test_without_a_level_is_what_can_be_said_whatever_its_number(seed: int) -> None:
    diagrams, dice = Diagrams(), random.Random(seed)
    node, inside = drawn(diagrams, dice, 5)
    some = diagrams.without(node, frozenset({1}), EITHER)
    every = diagrams.without(node, frozenset({1}), BOTH)
    for a, c in itertools.product(range(SIZES[0]), range(SIZES[2])):
        said = [inside((a, b, c)) for b in range(SIZES[1])]
        assert says(some, (a, 0, c)) == any(said)
        assert says(every, (a, 0, c)) == all(said)
    known = diagrams.given(node, {1: 3})
    assert all(says(known, (a, 0, c)) == inside((a, 3, c)) for a, _, c in POINTS)


def test_few_pieces_meet_many_as_many_meet_few() -> None:
    diagrams = Diagrams()
    many = diagrams.between(0, list(range(10, 4000, 3)))
    few = diagrams.between(0, [100, 2000])
    both = diagrams.combine(BOTH, few, many)
    assert both is diagrams.combine(BOTH, many, few)
    for number in (9, 10, 99, 100, 101, 102, 1999, 2000, 2001, 3999, 5000):
        assert value_at(both, lambda _, n=number: n) == (  # type: ignore[misc]
            value_at(many, lambda _, n=number: n) and value_at(few, lambda _, n=number: n)  # type: ignore[misc]
        )


def test_a_leaf_tells_true_from_one() -> None:
    diagrams = Diagrams()
    assert diagrams.leaf(1) is not diagrams.yes
    assert diagrams.leaf(1).level == LEAF


@pytest.mark.parametrize(
    ("spans", "bounds"),
    [
        ([], []),
        ([(3, 5), (1, 2)], [1, 2, 3, 5]),
        ([(1, 3), (3, 5)], [1, 5]),
        ([(1, 9), (2, 3), (20, 21)], [1, 9, 20, 21]),
    ],
)
def test_bounds(spans: list[tuple[int, int]], bounds: list[int]) -> None:
    assert bounds_of(spans) == bounds
