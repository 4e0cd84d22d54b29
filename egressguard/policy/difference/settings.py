"""What another policy sets otherwise, key by key: what no rule decides. Pure.

Contract
    Zones, sets and MAC sets are told by what rules make of them, here only who belongs to the site at all.
    What is called by another name and means the same is one change, of its name.
    A limit is told by what it counts, where a rule names it; what it does when it is exceeded is the rules' matter.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

from egressguard.policy.difference.change import Change, Place
from egressguard.policy.invariants import Invariant
from egressguard.policy.limits import quotas
from egressguard.policy.model import Limit, Policy, TlsRule
from egressguard.policy.networks import PrefixSet

SHOWN_ITEMS = 6
BY_RULES = frozenset({"zones", "sets", "mac_sets"})
"""Keys of the site that are told by what rules make of them."""
NAMED = frozenset({"smart_hosts", "block_lists", "pipes"})
"""Keys of the site that give names to things."""


def setting_changes(old: Policy, new: Policy) -> Iterator[Change]:
    yield from _who_is_of_the_site(old, new)
    before, after = _plain(old.site), _plain(new.site)
    for key in NAMED:
        yield from _renamed(key, before[key], after[key])
        before[key], after[key] = _less_renamed(before[key], after[key])
    for key in before.keys() - BY_RULES:
        if before[key] != after[key]:
            yield from _site((key,), before[key], after[key])
    yield from _limits(old, new)
    yield from _invariants(old, new)


def _invariants(old: Policy, new: Policy) -> Iterator[Change]:
    """What is promised of all packets: by name, for a promise that is gone is what a reviewer looks for."""
    before, after = ({each.name: each for each in policy.invariants} for policy in (old, new))
    for name in dict.fromkeys([*before, *after]):
        sides = [_promise(invariants.get(name)) for invariants in (before, after)]
        if sides[0] != sides[1]:
            yield Change("invariants", name, sides[0], sides[1])


def _promise(invariant: Invariant | None) -> str:
    if invariant is None:
        return "not promised"
    words = f"never {_shown(invariant.never)}" if invariant.never else f"always {_shown(invariant.always)}"
    return f"{words}, except {_shown(invariant.besides)}" if invariant.besides else words


def _who_is_of_the_site(old: Policy, new: Policy) -> Iterator[Change]:
    """Clients of no zone are of the world: SPF and the like are asked of them."""
    networks = [PrefixSet.of(chain(*(zone.networks for zone in p.site.zones.values()))) for p in (old, new)]
    interfaces = [frozenset(chain(*(zone.interfaces for zone in p.site.zones.values()))) for p in (old, new)]
    if networks[0] != networks[1]:
        here, there = (tuple(chain(*(zone.networks for zone in p.site.zones.values()))) for p in (old, new))
        yield Change("site", "networks of the zones, all together", *_sides(here, there))
    if interfaces[0] != interfaces[1]:
        before, after = map(_shown, interfaces)
        yield Change("site", "interfaces of the zones, all together", before, after)


def _renamed(key: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Change]:
    for name, other in _other_names(old, new).items():
        yield Change("site", key, name, other)


def _other_names(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, str]:
    """Old name -> the new one of what is the same."""
    gone = [name for name in old if name not in new]
    found: dict[str, str] = {}
    for name in new:
        if name not in old and (same := next((g for g in gone if g not in found and old[g] == new[name]), None)):
            found[same] = name
    return found


def _less_renamed(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    names = _other_names(old, new)
    return (
        {name: value for name, value in old.items() if name not in names},
        {name: value for name, value in new.items() if name not in names.values()},
    )


def _limits(old: Policy, new: Policy) -> Iterator[Change]:
    named = {name for policy in (old, new) for rule in policy.mail for name in (*rule.limit, *rule.match.over_limit)}
    before = {limit.name: limit for limit in old.limits if limit.name in named}
    for limit in new.limits:
        other = before.get(limit.name)
        if other is not None and limit.name in named and _counts(other) != _counts(limit):
            places = (Place(other.name, other.at),), (Place(limit.name, limit.at),)
            yield Change("limits", f"limit {limit.name}", _counts(other), _counts(limit), *places)


def _counts(limit: Limit) -> str:
    most = ", ".join(f"{quota.unit} {quota.most}" for quota in quotas(limit))
    return f"per {limit.per}: {most or 'nothing'}"


def tls_words(rule: TlsRule) -> str:
    """What a rule demands."""
    parts = [str(rule.level)]
    parts += [f"names {_shown(rule.names)}"] if rule.names else []
    parts += [f"authorities of {rule.ca_file}"] if rule.ca_file else []
    parts += ["with a certificate of ours"] if rule.client_certificate else []
    return ", ".join(parts)


def _plain(model: Any) -> dict[str, Any]:
    """The keys by the names that rule files have for them."""
    fields = type(model).model_fields
    return {fields[key].alias or key: getattr(model, key) for key in fields}


def _site(path: tuple[str, ...], before: Any, after: Any) -> Iterator[Change]:
    if _is_mapping(before) and _is_mapping(after):
        old, new = _mapping(before), _mapping(after)
        for key in [*new, *(key for key in old if key not in new)]:
            if old.get(key) != new.get(key):
                yield from _site((*path, key), old.get(key), new.get(key))
    else:
        yield Change("site", ".".join(path), *_sides(before, after))


def _is_mapping(value: object) -> bool:
    return isinstance(value, dict) or hasattr(type(value), "model_fields")


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else _plain(value)


def _sides(before: object, after: object) -> tuple[str, str]:
    """Of long lists only what came and went."""
    if isinstance(before, tuple) and isinstance(after, tuple) and len({*before, *after}) > SHOWN_ITEMS:
        gone = tuple(item for item in before if item not in set(after))
        come = tuple(item for item in after if item not in set(before))
        return f"{len(before)} of them, less {_shown(gone)}", f"{len(after)} of them, more: {_shown(come)}"
    return _shown(before), _shown(after)


def _shown(value: object) -> str:
    if _is_mapping(value):
        told = (f"{key} {_shown(item)}" for key, item in _mapping(value).items() if item not in (None, "", (), {}))
        return "{" + ", ".join(told) + "}"
    if isinstance(value, enum.Enum):
        return str(value.value)
    if isinstance(value, tuple | frozenset):
        items = [_shown(item) for item in (value if isinstance(value, tuple) else sorted(value, key=str))]
        more = f" and {len(items) - SHOWN_ITEMS} more" if len(items) > SHOWN_ITEMS else ""
        return (", ".join(items[:SHOWN_ITEMS]) + more) or "nothing"
    return "nothing" if value in (None, "") else str(value).lower() if isinstance(value, bool) else str(value)
