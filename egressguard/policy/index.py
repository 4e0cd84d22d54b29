"""What the policy room prepares once per policy, so that a decision costs what its answer costs and not what the
rules cost that have nothing to do with it.

Contract
    A set of rules is an int: bit i is the i-th rule. What each field says is joined by `&`; the lowest bit comes first.
    What is prepared is kept with its policy and goes with it. A copy of the policy with other parts gets its own.
    What is remembered by what messages and packets bring along is bounded in entries.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable, Iterable, Iterator, Sized
from typing import Protocol, Self, TypeVar

from egressguard.policy.model import Policy

REMEMBERED_ENTRIES = 4096

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Preparable(Protocol):
    """Something made from parts of a policy."""

    def is_of(self, policy: Policy) -> bool:
        """Whether it was made from the very parts that `policy` has."""

    @classmethod
    def prepare(cls, policy: Policy) -> Self: ...


Part = TypeVar("Part", bound=Preparable)

_NOTHING: tuple[Callable[[], Policy | None], None] = (lambda: None, None)


def prepared(policy: Policy, kind: type[Part]) -> Part:
    """The `kind` of this policy, made when it is first asked for."""
    private = policy.__pydantic_private__  # `policy._index` takes pydantic 1.2 us: a quarter of a decision on a flow
    assert private is not None
    index = private["_index"]
    owner, kept = index.get(kind, _NOTHING)
    if owner() is policy:
        part: Part = kept
        return part
    if not (isinstance(kept, kind) and kept.is_of(policy)):  # a model_copy() of another policy brings that one's along
        kept = kind.prepare(policy)
    index[kind] = (weakref.ref(policy), kept)
    return kept


class Remembered(dict[Key, Value]):
    """Answers that are worked out when they are first asked for; the fullest it gets is REMEMBERED_ENTRIES."""

    def __init__(self, work_out: Callable[[Key], Value]) -> None:
        super().__init__()
        self._work_out = work_out

    def __missing__(self, key: Key) -> Value:
        if len(self) >= REMEMBERED_ENTRIES:
            self.clear()
        found = self[key] = self._work_out(key)
        return found


def numbers(rules: int) -> Iterator[int]:
    """The numbers of the rules in a set, the first rule first."""
    while rules:
        lowest = rules & -rules
        rules ^= lowest
        yield lowest.bit_length() - 1


def every_rule(rules: Sized) -> int:
    """The set of all of them."""
    return (1 << len(rules)) - 1


def rule_set(rules: Iterable[int]) -> int:
    """The numbers of rules -> their set."""
    found = 0
    for number in rules:
        found |= 1 << number
    return found


def table(wanted: Iterable[tuple[int, Iterable[Key]]], others: int = 0) -> dict[Key, int]:
    """(rule, the values that it wants) -> value: the rules that want it, and `others`.

    Equal sets are one object: a list of thousands that a hundred rules share costs one set, not thousands."""
    found: dict[Key, int] = {}
    same: dict[int, int] = {}
    for number, values in wanted:
        rule = 1 << number
        for value in values:
            rules = found.get(value, others) | rule
            found[value] = same.setdefault(rules, rules)
    return found
