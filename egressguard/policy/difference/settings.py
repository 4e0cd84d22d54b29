"""What another policy would change, in words: rule by rule, by name. Pure."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from egressguard.policy.model import Policy

SECTIONS = ("flows", "mail", "limits", "routes", "tls", "devices")
SHOWN_ITEMS = 6


@dataclass(frozen=True, slots=True)
class Change:
    """`what` is added, removed, changed or moved; `at` is where the rule stands; `words` say what changed."""

    section: str
    name: str
    what: str
    at: str
    words: str = ""

    def __str__(self) -> str:
        words = f": {self.words}" if self.words else ""
        return f"{self.what:<8} {self.section} {self.name}{words}" + (f" ({self.at})" if self.at else "")


def differences(old: Policy | None, new: Policy) -> Iterator[Change]:
    """From `old` (None = nothing is in force) to `new`: the site first, then section by section in the new order."""
    yield from _site((), _plain(old.site) if old else {}, _plain(new.site))
    for section in SECTIONS:
        before: Sequence[Any] = getattr(old, section) if old else ()
        yield from _section(section, before, getattr(new, section))


def _section(section: str, before: Sequence[Any], after: Sequence[Any]) -> Iterator[Change]:
    old, new = {item.name: item for item in before}, {item.name: item for item in after}
    for name, item in old.items():
        if name not in new:
            yield Change(section, name, "removed", item.at)
    stayed = [name for name in old if name in new]
    order = {name: position for position, name in enumerate(name for name in new if name in old)}
    moved = _out_of_order([order[name] for name in stayed])
    for name, item in new.items():
        if name not in old:
            yield Change(section, name, "added", item.at)
            continue
        if words := ", ".join(_keys(_plain(old[name]), _plain(item))):
            yield Change(section, name, "changed", item.at, words)
        if order[name] in moved and section != "devices":
            yield Change(section, name, "moved", item.at, "other rules come first now")


def _out_of_order(positions: Sequence[int]) -> frozenset[int]:
    """What is not in a longest ascending run: the fewest that must have been moved."""
    tails: list[int] = []
    before: dict[int, int | None] = {}
    for position in positions:
        index = next((i for i, tail in enumerate(tails) if tail > position), len(tails))
        before[position] = tails[index - 1] if index else None
        tails[index:] = [position, *tails[index + 1 :]]
    kept: set[int] = set()
    step: int | None = tails[-1] if tails else None
    while step is not None:
        kept.add(step)
        step = before[step]
    return frozenset(positions) - kept


def _plain(model: Any) -> Mapping[str, Any]:
    """The keys that say something, by the names that rule files have for them."""
    fields = type(model).model_fields
    return {fields[key].alias or key: getattr(model, key) for key in fields if key != "name"}


def _keys(old: Mapping[str, Any], new: Mapping[str, Any], above: str = "") -> Iterator[str]:
    """What changed, key by key, also inside a mapping: "match.recipient_domain x.example -> y.example"."""
    for key in [*new, *(key for key in old if key not in new)]:
        before, after = old.get(key), new.get(key)
        if before == after:
            continue
        if _is_mapping(before) and _is_mapping(after):
            yield from _keys(_mapping(before), _mapping(after), f"{above}{key}.")
        else:
            yield f"{above}{key} {_shown(before)} -> {_shown(after)}"


def _site(path: tuple[str, ...], old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Change]:
    for key in [*new, *(key for key in old if key not in new)]:
        before, after = old.get(key), new.get(key)
        if before == after:
            continue
        here = (*path, key)
        if _is_mapping(after) and (_is_mapping(before) or before is None):
            yield from _site(here, _mapping(before), _mapping(after))
        elif after is None and _is_mapping(before):
            yield Change("site", ".".join(here), "removed", "")
        else:
            yield Change("site", ".".join(here), "changed", "", _sizes(before, after))


def _is_mapping(value: object) -> bool:
    return isinstance(value, dict) or hasattr(type(value), "model_fields")


def _mapping(value: Any) -> Mapping[str, Any]:
    return {} if value is None else value if isinstance(value, dict) else _plain(value)


def _sizes(before: object, after: object) -> str:
    """Of long lists only what came and went."""
    if not (isinstance(before, tuple) and isinstance(after, tuple)):
        return f"{_shown(before)} -> {_shown(after)}"
    come = [item for item in after if item not in set(before)]
    gone = [item for item in before if item not in set(after)]
    parts = [f"{sign}{len(items)} ({_shown(tuple(items))})" for sign, items in (("+", come), ("-", gone)) if items]
    return ", ".join(parts) or "in another order"


def _shown(value: object) -> str:
    if _is_mapping(value):
        return "{...}"
    if isinstance(value, enum.Enum):
        return str(value.value)
    if isinstance(value, tuple | frozenset):
        items = [_shown(item) for item in value]
        more = f" and {len(items) - SHOWN_ITEMS} more" if len(items) > SHOWN_ITEMS else ""
        return (", ".join(items[:SHOWN_ITEMS]) + more) or "nothing"
    return "nothing" if value in (None, "") else str(value).lower() if isinstance(value, bool) else str(value)
