"""A table as nft lists it in JSON -> chains in their order, sets and maps. Pure.

Contract
    Nothing is guessed: an object, a key or a value that is not understood is NotUnderstood, which names its place.
    What does not touch a verdict (counters, quotas of no rule, comments, handles) is passed over.
    A set that rules fill, or whose elements have timeouts, is `at_run_time`: what it holds now says nothing.
    The listing is bounded in size by whoever reads it, in objects here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from egressguard.firewall.table import OPEN_QUEUE_CHAIN, QUEUE_CHAIN

MAX_OBJECTS = 1_000_000
HOOKS = frozenset({"prerouting", "input", "forward", "output", "postrouting"})
NFQUEUE_TARGET = {"type": "target", "name": "NFQUEUE"}
"""How iptables' target is listed: less its number."""
_PASSED_OVER = frozenset({"metainfo", "counter", "table", "ct helper", "ct timeout", "secmark", "limit", "quota"})


class NotUnderstood(Exception):
    """Something in a ruleset that has no exact meaning here; the message says where it stands and what it is."""


@dataclass(frozen=True, slots=True)
class ListedRule:
    """`number` counts from 1 in its chain; `comment` names the rule of the policy, where it is one of ours."""

    chain: str
    number: int
    comment: str
    expressions: tuple[Mapping[str, Any], ...]

    @property
    def place(self) -> str:
        return f"chain {self.chain}, rule {self.number}" + (f" ({self.comment})" if self.comment else "")


@dataclass(frozen=True, slots=True)
class ListedChain:
    """`hook` is "" for a chain that only rules lead to; `policy` is what a base chain does at its end."""

    name: str
    hook: str
    priority: int
    kind: str
    policy: str
    rules: tuple[ListedRule, ...]


@dataclass(frozen=True, slots=True)
class ListedSet:
    """A set, or a map to verdicts: then the elements are pairs."""

    name: str
    elements: tuple[Any, ...]
    at_run_time: bool


@dataclass(frozen=True, slots=True)
class Listing:
    chains: Mapping[str, ListedChain]
    sets: Mapping[str, ListedSet]

    def base_chains(self, hook: str) -> Sequence[ListedChain]:
        """In the order in which the kernel asks them."""
        return sorted((c for c in self.chains.values() if c.hook == hook), key=lambda chain: chain.priority)


def parse_listing(text: str, table: str) -> Listing:
    """`nft -n -j list table inet TABLE` or `... list ruleset` -> what our table says. Raises NotUnderstood."""
    try:
        objects = json.loads(text)["nftables"]
    except (ValueError, TypeError, KeyError):
        raise NotUnderstood('not a ruleset; expected what "nft -n -j list table" prints') from None
    if not isinstance(objects, list) or len(objects) > MAX_OBJECTS:
        raise NotUnderstood(f"not a ruleset; expected a list of at most {MAX_OBJECTS} objects")
    try:
        return _listing(list(_of_table(objects, table)))
    except (KeyError, TypeError, AttributeError, ValueError) as wrong:
        raise NotUnderstood(f"the listing lacks or misplaces {wrong}; expected what this nft's JSON has") from wrong


def with_queue_rules(listing: Listing) -> Listing:
    """The listing of a rendered ruleset with what firewall.xt_queue puts into the kernel behind it."""
    chains = dict(listing.chains)
    for name in (QUEUE_CHAIN, OPEN_QUEUE_CHAIN):
        if (chain := chains.get(name)) is not None:
            queue = ListedRule(name, 0, "", ({"xt": dict(NFQUEUE_TARGET)},))
            chains[name] = replace(chain, rules=(queue, *chain.rules))
    return replace(listing, chains=chains)


def _of_table(objects: Sequence[Any], table: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for item in objects:
        ((kind, value),) = item.items()
        if kind not in _PASSED_OVER and value.get("table") == table and value.get("family") == "inet":
            yield kind, value


def _listing(objects: Sequence[tuple[str, Mapping[str, Any]]]) -> Listing:
    rules: dict[str, list[ListedRule]] = {}
    chains: list[Mapping[str, Any]] = []
    sets: list[Mapping[str, Any]] = []
    for kind, value in objects:
        if kind == "chain":
            chains.append(value)
        elif kind in {"set", "map"}:
            sets.append(value)
        elif kind == "rule":
            those = rules.setdefault(value["chain"], [])
            those.append(_rule(value, len(those) + 1))
        elif kind != "flowtable":  # asked for where a rule hands flows to it
            raise NotUnderstood(f"the object {kind!r} ({value.get('name', '')}) is not understood")
    filled = {name for those in rules.values() for rule in those for name in _filled(rule)}
    return Listing(
        {value["name"]: _chain(value, rules.get(value["name"], ())) for value in chains},
        {value["name"]: _set(value, value["name"] in filled) for value in sets},
    )


def _rule(value: Mapping[str, Any], number: int) -> ListedRule:
    return ListedRule(value["chain"], number, value.get("comment", ""), tuple(value["expr"]))


def _chain(value: Mapping[str, Any], rules: Sequence[ListedRule]) -> ListedChain:
    hook, name = value.get("hook", ""), value["name"]
    if hook and hook not in HOOKS:
        raise NotUnderstood(f"chain {name}: the hook {hook!r} is not understood; expected one of {sorted(HOOKS)}")
    policy = value.get("policy", "accept")
    if policy not in {"accept", "drop"}:
        raise NotUnderstood(f"chain {name}: the policy {policy!r} is not understood; expected accept or drop")
    return ListedChain(name, hook, int(value.get("prio", 0)), value.get("type", ""), policy, tuple(rules))


def _set(value: Mapping[str, Any], filled: bool) -> ListedSet:
    changing = filled or not {"timeout", "dynamic"}.isdisjoint(value.get("flags", ())) or "timeout" in value
    return ListedSet(value["name"], tuple(map(_bare, value.get("elem", ()))), changing)


def _bare(element: Any) -> Any:
    """An element without its counter, comment or time."""
    return element["elem"]["val"] if isinstance(element, dict) and "elem" in element else element


def _filled(rule: ListedRule) -> Iterator[str]:
    for expression in rule.expressions:
        for kind in ("set", "map"):
            if kind in expression:
                yield str(expression[kind][kind]).removeprefix("@")
