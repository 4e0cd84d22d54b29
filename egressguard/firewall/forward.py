"""The way of a packet through the forward hook: as few questions as possible for what no rule names.

Contract
    Pure. The first rule that matches wins, in the order of the files: neighbouring rules that name ports stand in one
    chain behind one question for all their ports; the others are asked one by one.
    Answers pass before any rule that could match one: to a client's port, and never an opening.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from egressguard.firewall.chains import ANSWERS, FIRST_CLIENT_PORT, is_counted_when_new, passing_chain
from egressguard.firewall.contain import CONTAINED, contained_matches
from egressguard.firewall.early import sends_elsewhere
from egressguard.firewall.host import Host
from egressguard.firewall.matching import PROTOCOL_NUMBERS, each_match, may_speak
from egressguard.firewall.table import (
    ANY_ZONE,
    MAPPED,
    braces,
    comment,
    counter_name,
    is_tried_out,
    zones_without_tunnels,
)
from egressguard.net.flow import TEREDO_PORT
from egressguard.policy.flows import MAPPED_RULE
from egressguard.policy.model import FlowRule, Policy


def forward_chains(policy: Policy, host: Host) -> Iterator[str]:
    """The base chain, and behind it a chain for each transport protocol that a rule names."""
    tunnels = list(_tunnel_lines(policy, host))
    ways = {protocol: list(_lines(policy, host, protocol)) for protocol in ("tcp", "udp")}
    for protocol, lines in ways.items():
        yield from (line for chain, _ in lines for line in chain)
        yield f"chain {protocol}_flows {{"
        if protocol == "tcp":
            yield "\tip frag-off & 0x3fff != 0 jump fragments"
        yield from (f"\t{line}" for _, line in lines)
        yield "}"
    yield "chain six {"
    yield from (f"\tip6 {which} {MAPPED} goto rule_{MAPPED_RULE}" for which in ("saddr", "daddr"))
    yield "\tmeta l4proto tcp exthdr frag exists jump fragments"
    yield "}"
    if tunnels:
        yield "chain tunnel_flows {"
        yield from (f"\t{line}" for line in tunnels)
        yield "}"
    yield "chain forward {"
    yield "\ttype filter hook forward priority filter; policy accept;"
    counter = f"counter name {counter_name(CONTAINED, ANY_ZONE)}"
    for match in contained_matches(policy):
        yield f'\t{match} {counter} goto {CONTAINED} comment "{CONTAINED} by a limit"'
    yield "\tmeta nfproto ipv6 jump six"
    yield from (f"\tmeta l4proto {protocol} goto {protocol}_flows" for protocol, lines in ways.items() if lines)
    if tunnels:
        yield f"\tmeta l4proto {braces(PROTOCOL_NUMBERS.values())} goto tunnel_flows"
    yield "}"


Line = tuple[list[str], str]
"""(the chains that a line of a protocol's chain needs, the line)."""


def _lines(policy: Policy, host: Host, protocol: str) -> Iterator[Line]:
    rules = [r for r in policy.flows if r.protocol == protocol and (not r.staged or (r.speaks and is_tried_out(r)))]
    answered = False
    for number, (together, run) in enumerate(groupby(rules, key=_stands_with_others)):
        if together:
            yield from _run(policy, list(run), host, f"{protocol}_{number}", answered=answered)
            continue
        for rule in run:
            if rule.speaks:
                yield [], f"{may_speak()} jump speaks_{rule.name} {comment(rule)}"
                continue
            if not answered:
                yield [], ANSWERS[protocol]
                answered = True
            yield from (([], line) for line in _rule_lines(policy, rule, host))
    if protocol == "udp" and zones_without_tunnels(policy):
        yield [], f"udp dport {TEREDO_PORT} jump tunnels"


def _stands_with_others(rule: FlowRule) -> bool:
    return bool(rule.port) and not rule.speaks


def _run(policy: Policy, rules: Sequence[FlowRule], host: Host, name: str, *, answered: bool) -> Iterator[Line]:
    """Neighbouring rules behind one question for all their ports; nothing when none of them can match."""
    protocol, ports = rules[0].protocol, sorted({port for rule in rules for port in rule.port})
    can_be_answers = protocol == "udp" or ports[-1] >= FIRST_CLIENT_PORT
    inside = [line for rule in rules for line in _rule_lines(policy, rule, host, asked=ports)]
    if not inside:
        return
    if can_be_answers and not answered:
        inside.insert(0, ANSWERS[protocol])
    chain = [f"chain {name} {{", *(f"\t{line}" for line in inside), "}"]
    yield chain, f"{protocol} dport {ports[0] if len(ports) == 1 else braces(ports)} jump {name}"


def _rule_lines(policy: Policy, rule: FlowRule, host: Host, asked: Sequence[int] = ()) -> Iterator[str]:
    for zone, match in each_match(policy, rule, host, asked):
        if is_counted_when_new(rule):
            line = f"{match} goto {passing_chain(rule, zone)} {comment(rule)}"
        elif sends_elsewhere(rule, host):
            # Such flows never come here. One that does is refused: it is older than the table.
            line = f"{match} goto rule_{rule.name} {comment(rule)}"
        else:
            line = f"{match} counter name {counter_name(rule.name, zone)} goto rule_{rule.name} {comment(rule)}"
        yield line.lstrip()


def _tunnel_lines(policy: Policy, host: Host) -> Iterator[str]:
    for rule in policy.flows:
        if rule.protocol in PROTOCOL_NUMBERS and not rule.staged:
            yield from _rule_lines(policy, rule, host)
    if zones_without_tunnels(policy):
        yield "jump tunnels"
