"""Sets of packets, exact: joined, cut, compared, in words, with a packet of each.

Contract
    Pure. A region is a set of packets over every field of policy.space.axes and any number of yes-or-no facts.
    Regions of one Space can be joined (|), cut (&), taken away (-) and turned round (~); `==` says whether they are
    the same packets, `<=` whether all of the one are in the other, `bool` whether there is any packet.
    What asks for a port asks for a protocol that has ports; what asks for an address asks for its family.
    `first_match` answers for all packets at once what a list of rules answers for one: the first that matches wins.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from egressguard.policy.networks import PrefixSet
from egressguard.policy.space import axes
from egressguard.policy.space.axes import Axis
from egressguard.policy.space.diagram import (
    BOTH,
    EITHER,
    FIRST,
    LEAF,
    UNDECIDED,
    Diagrams,
    Node,
    Operation,
    bounds_of,
    paths,
    value_at,
    values_in,
)
from egressguard.policy.space.witness import Witness, box_in_words, witness_of

Label = TypeVar("Label", bound=Hashable)
SHOWN_BOXES = 6


class Space:
    """Makes regions. Interfaces and facts are told apart by their names, from when they are first named."""

    def __init__(self) -> None:
        self.diagrams = Diagrams()
        self.names: list[str] = [""]
        self.facts: list[str] = []
        self.nothing = Region(self, self.diagrams.no)
        self.everything = Region(self, self.diagrams.yes)

    def among(self, axis: Axis, spans: Iterable[tuple[int, int]]) -> Region:
        """Packets whose number on the axis is in one of these (first, behind the last); nothing else is asked."""
        inside = ((max(0, first), min(axis.size, behind)) for first, behind in spans)
        bounds = bounds_of(span for span in inside if span[0] < span[1])
        if bounds and bounds[-1] == axis.size:
            bounds.pop()
        return Region(self, self.diagrams.between(axis.level, bounds))

    def one_of(self, axis: Axis, numbers: Iterable[int]) -> Region:
        return self.among(axis, ((number, number + 1) for number in numbers))

    def family(self, version: int) -> Region:
        return self.one_of(axes.FAMILY, [axes.FAMILIES.index(version)])

    def protocol(self, name: str) -> Region:
        """By the name that rules and axes.PROTOCOLS have for it."""
        return self.one_of(axes.PROTOCOL, [axes.PROTOCOLS[name]])

    def to_ports(self, ports: Iterable[int]) -> Region:
        return self.one_of(axes.TO_PORT, ports) & self.one_of(axes.PROTOCOL, axes.PORT_PROTOCOLS)

    def source(self, prefixes: PrefixSet) -> Region:
        return self._addresses(prefixes, axes.FROM_4, axes.FROM_6)

    def destination(self, prefixes: PrefixSet) -> Region:
        return self._addresses(prefixes, axes.TO_4, axes.TO_6)

    def _addresses(self, prefixes: PrefixSet, axis_4: Axis, axis_6: Axis) -> Region:
        four = self.among(axis_4, _pairs(prefixes.bounds_4)) & self.family(4)
        return four | (self.among(axis_6, _pairs(prefixes.bounds_6)) & self.family(6))

    def interfaces(self, names: Iterable[str], axis: Axis = axes.INTERFACE) -> Region:
        """Packets that arrive there; "" = nowhere, they are made on this machine."""
        return self.one_of(axis, map(self.name_number, names))

    def name_number(self, name: str) -> int:
        if name not in self.names:
            self.names.append(name)
        return self.names.index(name)

    def cards(self, macs: Iterable[str]) -> Region:
        """Packets of these link-layer sources, "00:53:00:12:34:56"."""
        return self.one_of(axes.CARD, map(axes.mac_number, macs))

    def state(self, *states: str) -> Region:
        return self.one_of(axes.STATE, map(axes.STATES.index, states))

    def fact(self, words: str) -> Region:
        """Packets of which something is true that is no field: each question once, by its words."""
        return Region(self, self.diagrams.between(self.fact_level(words), (1,)))

    def fact_level(self, words: str) -> int:
        if words not in self.facts:
            self.facts.append(words)
        return axes.FIRST_FACT + self.facts.index(words)

    def union(self, regions: Iterable[Region]) -> Region:
        """Of many at a time: neighbours first, so that no long list is gone through again and again."""
        waiting = list(regions) or [self.nothing]
        while len(waiting) > 1:
            pairs = zip(waiting[::2], waiting[1::2], strict=False)
            waiting = [one | other for one, other in pairs] + (waiting[-1:] if len(waiting) % 2 else [])
        return waiting[0]

    def first_match(self, rules: Sequence[tuple[Region, Label]], otherwise: Label) -> Outcomes[Label]:
        """What each packet comes to: the label of the first region that it is in, else `otherwise`."""
        nodes = [
            self.diagrams.relabel(region.node, lambda inside, label=label: _Told(label) if inside else UNDECIDED)  # type: ignore[misc]
            for region, label in rules
        ]
        return Outcomes(self, self.first_of([*nodes, self.diagrams.leaf(_Told(otherwise))]))

    def first_of(self, nodes: Sequence[Node]) -> Node:
        """The leaf of the first diagram that has decided; at least one of them is given."""
        waiting = list(nodes)
        while len(waiting) > 1:
            pairs = zip(waiting[::2], waiting[1::2], strict=False)
            rest = waiting[-1:] if len(waiting) % 2 else []
            waiting = [self.diagrams.combine(FIRST, one, other) for one, other in pairs] + rest
        return waiting[0]

    def outcomes(self, node: Node) -> Outcomes[Any]:
        """A diagram whose leaves are labels."""
        return Outcomes(self, self.diagrams.relabel(node, _Told))


@dataclass(frozen=True, slots=True)
class _Told(Generic[Label]):
    """A label in a leaf, told apart from yes, no and undecided."""

    label: Label


@dataclass(frozen=True, slots=True, eq=False)
class Region:
    space: Space
    node: Node

    def __and__(self, other: Region) -> Region:
        return self._with(BOTH, other)

    def __or__(self, other: Region) -> Region:
        return self._with(EITHER, other)

    def __sub__(self, other: Region) -> Region:
        return self._with(BOTH, ~other)

    def __invert__(self) -> Region:
        return Region(self.space, self.space.diagrams.relabel(self.node, lambda inside: not inside))

    def _with(self, operation: Operation, other: Region) -> Region:
        if other.space is not self.space:
            raise ValueError("two regions of different spaces; expected both of one")
        return Region(self.space, self.space.diagrams.combine(operation, self.node, other.node))

    def __bool__(self) -> bool:
        return self.node is not self.space.diagrams.no

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Region) and self.node is other.node and self.space is other.space

    def __hash__(self) -> int:
        return hash(self.node)

    def __le__(self, other: Region) -> bool:
        return not self - other

    def whatever(self, *asked: Axis) -> Region:
        """The packets that are in the region with some number on these axes: they are asked no more."""
        levels = frozenset(axis.level for axis in asked)
        return Region(self.space, self.space.diagrams.without(self.node, levels, EITHER))

    def whatever_but(self, *kept: Axis) -> Region:
        """The packets that are in the region with some number on all other axes and facts: only these are asked."""
        levels = {axis.level for axis in axes.AXES} | {axes.FIRST_FACT + n for n in range(len(self.space.facts))}
        others = frozenset(levels - {axis.level for axis in kept})
        return Region(self.space, self.space.diagrams.without(self.node, others, EITHER))

    def known(self, fact: str, where: Region) -> Region:
        """The same with the fact no longer open: it is true in `where`, and nowhere else."""
        level = self.space.fact_level(fact)
        true, false = (Region(self.space, self.space.diagrams.given(self.node, {level: n})) for n in (1, 0))
        return (true & where) | (false - where)

    def witness(self) -> Witness | None:
        """The most ordinary packet that is in the region; None when none is."""
        return witness_of(self.node, self.space.names, self.space.facts)

    def words(self, limit: int = SHOWN_BOXES) -> Iterator[str]:
        """Disjoint pieces that are together the region, one line each; behind `limit` only that there are more."""
        for number, box in enumerate(paths(self.node, bool)):
            if number == limit:
                yield "and more"
                return
            yield box_in_words(box, self.space.names, self.space.facts)


@dataclass(frozen=True, slots=True, eq=False)
class Outcomes(Generic[Label]):
    """What every packet comes to: a label for each. The regions of two labels have no packet in common."""

    space: Space
    node: Node

    def labels(self) -> set[Label]:
        """Those that some packet comes to."""
        return {told.label for told in values_in(self.node) if isinstance(told, _Told)}

    def region(self, *labels: Label) -> Region:
        wanted = {_Told(label) for label in labels}
        return Region(self.space, self.space.diagrams.relabel(self.node, lambda told: told in wanted))

    def named(self, name: Mapping[Label, Hashable]) -> Outcomes[Hashable]:
        """The same with other labels; a label that `name` has not stays."""
        renamed = self.space.diagrams.relabel(self.node, lambda told: _Told(name.get(_label(told), _label(told))))
        return Outcomes(self.space, renamed)

    def within(self, region: Region) -> Outcomes[Label | None]:
        """The same inside the region; outside the label is None."""
        nowhere = (~region).node
        label = self.space.diagrams.relabel(nowhere, lambda outside: _Told(None) if outside else UNDECIDED)
        return Outcomes(self.space, self.space.diagrams.combine(FIRST, label, self.node))

    def at(self, numbers: Mapping[int, int]) -> Label:
        """What one packet comes to, whose fields these are by level; a field left out is 0."""
        label: Label = _label(value_at(self.node, lambda level: numbers.get(level, 0)))
        return label

    def against(self, other: Outcomes[Label]) -> dict[tuple[Label, Label], Region]:
        """(label here, label there) -> the packets of which that is so, where the two differ; {} = all the same."""
        diagrams = self.space.diagrams
        met = diagrams.combine(_meeting(diagrams), self.node, other.node)
        pairs = [pair for pair in values_in(met) if isinstance(pair, _Met) and pair.here != pair.there]
        return {
            (pair.here, pair.there): Region(self.space, diagrams.relabel(met, lambda found, pair=pair: found == pair))  # type: ignore[misc]
            for pair in sorted(pairs, key=repr)
        }

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Outcomes) and self.node is other.node and self.space is other.space

    def __hash__(self) -> int:
        return hash(self.node)


@dataclass(frozen=True, slots=True)
class _Met(Generic[Label]):
    here: Label
    there: Label


def _meeting(diagrams: Diagrams) -> Operation:
    """Leaves with both labels where they differ, one leaf for all the rest."""
    same = diagrams.leaf(None)

    def answer(one: Node, other: Node) -> Node | None:
        if one is other:
            return same
        if one.level == LEAF and other.level == LEAF:
            return diagrams.leaf(_Met(_label(one.value), _label(other.value)))
        return None

    return Operation(answer)


def _label(told: object) -> Any:
    assert isinstance(told, _Told)
    return told.label


def _pairs(bounds: Sequence[int]) -> Iterator[tuple[int, int]]:
    return zip(bounds[::2], bounds[1::2], strict=True)
