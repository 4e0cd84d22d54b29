"""Rules that allow what was seen and nothing else: which hosts really submit mail, and to whom. Pure.

Contract
    What was seen to pass passes still: the new rules stand in front of the rule that let it pass, or, where no rule
    names it, behind all of them. What is left of that rule's flows to these ports is rejected.
    A rule for hosts names exactly the destinations that each of them had: no pair that was not seen is allowed.
    A rule that names sources and destinations already, or looks at more than addresses, is left as it is; so is one
    with very many pairs, which is said (`too_many`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

from egressguard.net.flow import IPAddress, Protocol
from egressguard.policy.backtest import FlowJudge, MomentOf
from egressguard.policy.decision import FlowAction
from egressguard.policy.model import FlowRule, Policy
from egressguard.policy.networks import zones_of
from egressguard.policy.recorded import RecordedFlow

SUBMISSION_PORTS = (465, 587, 2525)
MAX_PAIRS = 500
"""Of one rule's flows: a list that nobody reads protects nobody."""

Pair = tuple[IPAddress, IPAddress]


@dataclass(frozen=True, slots=True)
class Suggestion:
    """New rules, as rule files have them, in front of the rule `before` ("" = behind all); `flows` were seen."""

    before: str
    rules: tuple[dict[str, Any], ...]
    flows: int


@dataclass(slots=True)
class _Seen:
    """What one rule (or none) let pass: by port, who went where."""

    pairs: dict[int, set[Pair]] = field(default_factory=lambda: defaultdict(set))
    zones: set[str] = field(default_factory=set)
    flows: int = 0

    @property
    def many(self) -> int:
        return sum(map(len, self.pairs.values()))


@dataclass(frozen=True, slots=True)
class Suggested:
    """`too_many`: rules ("" = none names the flows) whose flows go from and to too many."""

    suggestions: tuple[Suggestion, ...]
    too_many: tuple[str, ...]
    flows: int


def suggest(
    policy: Policy,
    flows: Iterable[RecordedFlow],
    moment_of: MomentOf,
    ports: Collection[int] = SUBMISSION_PORTS,
    *,
    staged: bool = False,
) -> Suggested:
    """`staged`: what is left is counted and journaled, and not rejected yet."""
    seen = _seen(FlowJudge(policy, moment_of), policy, flows, frozenset(ports))
    rules = {rule.name: rule for rule in policy.flows}
    names = _Names(set(rules))
    suggestions, too_many = [], []
    for name in sorted(seen, key=lambda each: _position(policy, each)):
        rule, found = rules.get(name), seen[name]
        if rule is not None and _is_narrow(rule):
            continue
        if found.many > MAX_PAIRS:
            too_many.append(name)
            continue
        made = (*_allowing(found, rule, names), _rest(found, rule, frozenset(ports), names, staged=staged))
        suggestions.append(Suggestion(name, made, found.flows))
    return Suggested(tuple(suggestions), tuple(too_many), sum(each.flows for each in seen.values()))


def _is_narrow(rule: FlowRule) -> bool:
    if rule.source and rule.destination:
        return True
    return bool(rule.destination_host or rule.source_mac or rule.weekdays or rule.hours or rule.speaks)


def _seen(judge: FlowJudge, policy: Policy, flows: Iterable[RecordedFlow], ports: frozenset[int]) -> dict[str, _Seen]:
    """By the rule that lets it pass now, what was let pass then."""
    found: dict[str, _Seen] = defaultdict(_Seen)
    for recorded in flows:
        facts, flow = recorded.facts, recorded.facts.flow
        is_meant = flow.protocol is Protocol.TCP and flow.destination_port in ports
        if not is_meant or facts.action != FlowAction.ALLOW.value:
            continue
        inside = frozenset({flow.interface} if facts.is_inside else ())
        zones = zones_of(policy, flow.source, flow.interface, inside)
        outcome = judge.outcome(recorded)
        if not zones or outcome.action != FlowAction.ALLOW.value:
            continue
        seen = found[outcome.rule]
        seen.pairs[flow.destination_port].add((flow.source, flow.destination))
        seen.zones |= zones
        seen.flows += recorded.count
    return found


def _position(policy: Policy, name: str) -> int:
    return next((number for number, rule in enumerate(policy.flows) if rule.name == name), len(policy.flows))


@dataclass(slots=True)
class _Names:
    taken: set[str]

    def fresh(self, wanted: str) -> str:
        name, number = wanted, 2
        while name in self.taken:
            name, number = f"{wanted}-{number}", number + 1
        self.taken.add(name)
        return name


def _allowing(found: _Seen, rule: FlowRule | None, names: _Names) -> Iterable[dict[str, Any]]:
    """A rule for all hosts that have the same destinations at the same ports."""
    by_host: dict[IPAddress, dict[int, frozenset[IPAddress]]] = defaultdict(dict)
    for port, pairs in found.pairs.items():
        for host in {source for source, _ in pairs}:
            by_host[host][port] = frozenset(to for source, to in pairs if source == host)
    alike: dict[tuple[tuple[int, ...], frozenset[IPAddress]], list[IPAddress]] = defaultdict(list)
    for host, to_by_port in by_host.items():
        ports_of: dict[frozenset[IPAddress], list[int]] = defaultdict(list)
        for port, destinations in to_by_port.items():
            ports_of[destinations].append(port)
        for destinations, theirs in ports_of.items():
            alike[tuple(sorted(theirs)), destinations].append(host)
    for (used, destinations), hosts in sorted(alike.items(), key=lambda item: (item[0][0], _texts(item[1]))):
        yield {
            "name": names.fresh(f"seen-{'-'.join(map(str, used))}"),
            **_from(found, rule),
            "source": _texts(hosts),
            "destination": _texts(destinations),
            "port": list(used),
            "action": "allow",
        }


def _rest(found: _Seen, rule: FlowRule | None, ports: frozenset[int], names: _Names, *, staged: bool) -> dict[str, Any]:
    """All else that the rule would let pass to these ports; where no rule is, also to ports that nobody used."""
    closed = sorted(ports & set(rule.port) if rule is not None and rule.port else ports)
    made: dict[str, Any] = {"name": names.fresh(f"not-seen-{'-'.join(map(str, closed))}"), **_from(found, rule)}
    made |= {"source": list(rule.source)} if rule is not None and rule.source else {}
    made |= {"destination": list(rule.destination)} if rule is not None and rule.destination else {}
    return made | {"port": closed, "action": "reject"} | ({"staged": True} if staged else {})


def _from(found: _Seen, rule: FlowRule | None) -> dict[str, Any]:
    zones = sorted(found.zones) if rule is None else list(rule.from_zone)
    return {"from": zones} if zones else {}


def _texts(addresses: Iterable[IPAddress]) -> list[str]:
    return [str(address) for address in sorted(addresses, key=lambda each: (each.version, int(each)))]
