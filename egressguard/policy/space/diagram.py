"""Functions of several whole numbers, exact: interval decision diagrams in canonical form.

Contract
    Pure. A diagram asks for one number after another, in the ascending order of levels, and ends in a leaf.
    At each level the numbers from 0 up are cut into pieces; a level that makes no difference is not asked.
    Two diagrams of one `Diagrams` that say the same are the same object: to compare them costs nothing.
    Where no number reaches a leaf, the leaf is nowhere in the diagram: what is there has a witness.
    Pieces are merged a set at a time, not one by one: a list of 20,000 prefixes is one node with two children.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, compress
from operator import is_not

LEAF = 1 << 30
"""The level of leaves: behind all others."""
Span = tuple[int, int | None]
"""(first number, the one behind the last); None: there is no last."""


class Node:
    """`starts` has the first number of each piece, ascending from 0, `children` what is asked next in it, `kinds` each
    child once. A leaf has none of them, but a `value`."""

    __slots__ = ("children", "kinds", "level", "starts", "value")

    def __init__(self, level: int, starts: tuple[int, ...], children: tuple[Node, ...], value: Hashable) -> None:
        self.level, self.starts, self.children, self.value = level, starts, children, value
        self.kinds = tuple(dict.fromkeys(children))


Answer = Callable[[Node, Node], Node | None]
"""What two diagrams give, where that is known without looking deeper; for two leaves it always is."""


@dataclass(frozen=True, slots=True, eq=False)
class Operation:
    """How two leaves become one. The memory of what was worked out is kept by operation: make each once."""

    answer: Answer


def _both(one: Node, other: Node) -> Node | None:
    if one.level == LEAF:
        return other if one.value else one
    if other.level == LEAF:
        return one if other.value else other
    return one if one is other else None


def _either(one: Node, other: Node) -> Node | None:
    if one.level == LEAF:
        return one if one.value else other
    if other.level == LEAF:
        return other if other.value else one
    return one if one is other else None


UNDECIDED = "undecided"
"""The value of a leaf that leaves the answer to the next diagram."""


def _first(one: Node, other: Node) -> Node | None:
    if one.level == LEAF:
        return other if one.value == UNDECIDED else one
    return one if one is other or other.value == UNDECIDED else None


BOTH, EITHER, FIRST = Operation(_both), Operation(_either), Operation(_first)
"""Of yes and no: and, or. Of other leaves: the first that has decided."""


class Diagrams:
    """Makes nodes, each once; they live as long as this does."""

    def __init__(self) -> None:
        self._leaves: dict[tuple[type, Hashable], Node] = {}
        self._nodes: dict[tuple[int, tuple[int, ...], tuple[Node, ...]], Node] = {}
        self._worked_out: dict[Operation, dict[tuple[Node, Node], Node]] = {}
        self.no, self.yes = self.leaf(False), self.leaf(True)

    def leaf(self, value: Hashable) -> Node:
        key = (type(value), value)
        if (found := self._leaves.get(key)) is None:
            found = self._leaves[key] = Node(LEAF, (), (), value)
        return found

    def node(self, level: int, starts: Sequence[int], children: Sequence[Node]) -> Node:
        """The diagram that asks at `level` first; neighbours that say the same are one piece."""
        differs = list(map(is_not, children[1:], children[:-1]))
        if not all(differs):
            starts = (starts[0], *compress(starts[1:], differs))
            children = (children[0], *compress(children[1:], differs))
        if len(children) == 1:
            return children[0]
        key = (level, tuple(starts), tuple(children))
        if (found := self._nodes.get(key)) is None:
            found = self._nodes[key] = Node(*key, None)
        return found

    def between(self, level: int, bounds: Sequence[int]) -> Node:
        """Yes from the first bound up to the second, from the third up to the fourth; an odd one has no end."""
        if not bounds:
            return self.no
        starts = tuple(bounds) if bounds[0] == 0 else (0, *bounds)
        turn = (self.yes, self.no) if bounds[0] == 0 else (self.no, self.yes)
        return self.node(level, starts, (turn * (len(starts) // 2 + 1))[: len(starts)])

    def combine(self, operation: Operation, one: Node, other: Node) -> Node:
        found = operation.answer(one, other)
        if found is not None:
            return found
        memory = self._worked_out.setdefault(operation, {})
        found = memory.get((one, other))
        if found is None:
            found = memory[one, other] = self._work_out(operation, one, other)
        return found

    def _work_out(self, operation: Operation, one: Node, other: Node) -> Node:
        if one.level < other.level:
            return self._with_each_child(one, lambda child: self.combine(operation, child, other))
        if other.level < one.level:
            return self._with_each_child(other, lambda child: self.combine(operation, one, child))
        if len(one.starts) * 8 < len(other.starts):
            return self._sliced(one, other, lambda few, many: self.combine(operation, few, many))
        if len(other.starts) * 8 < len(one.starts):
            return self._sliced(other, one, lambda few, many: self.combine(operation, many, few))
        starts = sorted({*one.starts, *other.starts})
        pairs = list(zip(_children_at(one, starts), _children_at(other, starts), strict=True))
        results = {pair: self.combine(operation, *pair) for pair in dict.fromkeys(pairs)}
        return self.node(one.level, starts, tuple(map(results.__getitem__, pairs)))

    def _sliced(self, few: Node, many: Node, join: Callable[[Node, Node], Node]) -> Node:
        """Each of a few pieces with all the pieces of the other that it meets, a set at a time."""
        starts: list[int] = []
        children: list[Node] = []
        for number, (first, child) in enumerate(zip(few.starts, few.children, strict=True)):
            begin = bisect_right(many.starts, first) - 1
            end = bisect_left(many.starts, few.starts[number + 1]) if number + 1 < len(few.starts) else None
            met = many.children[begin:end]
            results = {each: join(child, each) for each in dict.fromkeys(met)}
            starts.append(first)
            starts += many.starts[begin + 1 : end]
            children += map(results.__getitem__, met)
        return self.node(few.level, starts, children)

    def _with_each_child(self, node: Node, change: Callable[[Node], Node]) -> Node:
        results = {child: change(child) for child in node.kinds}
        return self.node(node.level, node.starts, tuple(map(results.__getitem__, node.children)))

    def relabel(self, node: Node, label: Callable[[Hashable], Hashable]) -> Node:
        """The same cuts with other leaves."""
        known: dict[Node, Node] = {}

        def of(each: Node) -> Node:
            if each not in known:
                known[each] = self.leaf(label(each.value)) if each.level == LEAF else self._with_each_child(each, of)
            return known[each]

        return of(node)

    def without(self, node: Node, levels: frozenset[int], either: Operation) -> Node:
        """What the diagram can say whatever the numbers of these levels are: their children joined by `either`."""
        known: dict[Node, Node] = {}

        def of(each: Node) -> Node:
            if each.level == LEAF:
                return each
            if each not in known:
                if each.level in levels:
                    first, *rest = map(of, each.kinds)
                    for other in rest:
                        first = self.combine(either, first, other)
                    known[each] = first
                else:
                    known[each] = self._with_each_child(each, of)
            return known[each]

        return of(node)

    def given(self, node: Node, numbers: Mapping[int, int]) -> Node:
        """The diagram when the numbers of some levels are known."""
        known: dict[Node, Node] = {}

        def of(each: Node) -> Node:
            if each.level == LEAF:
                return each
            if each not in known:
                if each.level in numbers:
                    known[each] = of(child_at(each, numbers[each.level]))
                else:
                    known[each] = self._with_each_child(each, of)
            return known[each]

        return of(node)


def _children_at(node: Node, numbers: Sequence[int]) -> Iterator[Node]:
    """What is asked next at each of these ascending numbers."""
    upcoming = iter(zip((*node.starts[1:], numbers[-1] + 1), node.children, strict=True))
    behind, child = next(upcoming)
    for number in numbers:
        if number >= behind:
            behind, child = next(upcoming)
        yield child


def bounds_of(spans: Iterable[tuple[int, int]]) -> list[int]:
    """Where any of these (first, behind the last) begin and end, ascending; neighbours are joined."""
    bounds: list[int] = []
    for first, behind in sorted(spans):
        if not bounds or first > bounds[-1]:
            bounds += (first, behind)
        else:
            bounds[-1] = max(bounds[-1], behind)
    return bounds


def child_at(node: Node, number: int) -> Node:
    return node.children[bisect_right(node.starts, number) - 1]


def value_at(node: Node, number_of: Callable[[int], int]) -> Hashable:
    """What the diagram says for the numbers that `number_of` gives for each level."""
    while node.level != LEAF:
        node = child_at(node, number_of(node.level))
    return node.value


def spans_by_child(node: Node) -> dict[Node, list[Span]]:
    """Child -> the pieces where it is asked, in the order of the first."""
    found: dict[Node, list[Span]] = {}
    ends: Iterable[int | None] = chain(node.starts[1:], (None,))
    for child, first, behind in zip(node.children, node.starts, ends, strict=True):
        found.setdefault(child, []).append((first, behind))
    return found


def values_in(node: Node) -> Iterator[Hashable]:
    """The values of all leaves, each once."""
    seen = {node}
    waiting = [node]
    while waiting:
        each = waiting.pop()
        if each.level == LEAF:
            yield each.value
        fresh = [child for child in each.kinds if child not in seen]
        seen.update(fresh)
        waiting += fresh


def paths(node: Node, wanted: Callable[[Hashable], bool]) -> Iterator[dict[int, list[Span]]]:
    """Disjoint boxes that are together all numbers whose leaf is `wanted`: level -> pieces. A level left out: any."""
    if node.level == LEAF:
        if wanted(node.value):
            yield {}
        return
    for child, spans in spans_by_child(node).items():
        for rest in paths(child, wanted):
            yield {node.level: spans, **rest}
