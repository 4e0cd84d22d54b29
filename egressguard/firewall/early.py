"""What happens to packets before they are routed: floods thinned, questions seen, flows sent elsewhere."""

from __future__ import annotations

from collections.abc import Iterator

from egressguard.firewall.chains import SENT_ELSEWHERE
from egressguard.firewall.host import Host
from egressguard.firewall.matching import each_match, zone_variants
from egressguard.firewall.table import (
    FAMILIES,
    MAPPED,
    OWN,
    QUESTION,
    REDIRECTED,
    braces,
    comment,
    counter_name,
    is_tried_out,
    log_statement,
    zones_of_rule,
)
from egressguard.policy.model import FlowRule, Policy

FLOOD_PER_SECOND = 1000
"""So many openings that a rule stops go the whole way, with log and reset; what is more is dropped at once."""


def early_chains(policy: Policy, host: Host) -> Iterator[str]:
    flood, flood_line = _flood(policy, host)
    questions, question_line = _questions(policy, host)
    lines = [line for line in (flood_line, question_line) if line]
    yield from (*flood, *questions)
    if lines:
        yield "chain early {"
        yield "\ttype filter hook prerouting priority raw; policy accept;"
        yield from (f"\t{line}" for line in lines)
        yield "}"
    yield from _prerouting(policy, host)


def _flood(policy: Policy, host: Host) -> tuple[list[str], str]:
    """Openings that a rule will stop, before conntrack makes an entry of each: the same rules in the same order."""
    judged = [r for r in policy.flows if r.protocol == "tcp" and not r.staged and not r.speaks]
    last = max((i for i, rule in enumerate(judged) if _stops(rule)), default=-1)
    if last < 0:
        return [], ""
    judged = judged[: last + 1]
    chains: list[str] = []
    rate = f"limit rate over {FLOOD_PER_SECOND}/second burst {FLOOD_PER_SECOND} packets"
    for rule in filter(_stops, judged):
        for zone in zones_of_rule(rule):
            counter = f"counter name {counter_name(rule.name, zone)}"
            drops = [f"\t{word} daddr != @{OWN}_{family} {rate} {counter} drop" for family, word, _ in FAMILIES]
            chains += [f"chain flood_{rule.name}/{zone} {{", *drops, "}"]
    ports = sorted({port for rule in judged if _stops(rule) for port in rule.port})
    if not all(rule.port for rule in judged if _stops(rule)):
        ports = []
    chains.append("chain openings {")
    for rule in judged:
        if ports and rule.port and not set(ports) & set(rule.port):
            continue
        for zone, match in each_match(policy, rule, host, asked=ports):
            then = f"goto flood_{rule.name}/{zone}" if _stops(rule) else "return"
            chains.append(f"\t{match} {then}".replace("\t ", "\t"))
    chains.append("}")
    where = f"tcp dport {ports[0] if len(ports) == 1 else braces(ports)} " if ports else ""
    return chains, f"{where}tcp flags & (syn | ack) == syn jump openings"


def _stops(rule: FlowRule) -> bool:
    return rule.action in {"reject", "drop"} and rule.decide == "kernel"


def _questions(policy: Policy, host: Host) -> tuple[list[str], str]:
    """DNS questions of LAN hosts, to whomever, sampled: the daemon looks for those that ask for MX."""
    rate = policy.site.packet_plane.mx_questions_per_second
    if not rate or not policy.site.zones:
        return [], ""
    chains: list[str] = []
    for zone in policy.site.zones:
        chains += [f"chain asks_{zone} {{", f"\t{log_statement(policy, QUESTION, zone, rate)}", "}"]
    chains.append("chain who_asks {")
    for zone in policy.site.zones:
        variants = zone_variants(policy, host, zone)
        chains += [f"\t{variant.statement} goto asks_{zone}" for variant in variants]
    return [*chains, "}"], "udp dport 53 jump who_asks"


def sends_elsewhere(rule: FlowRule, host: Host) -> bool:
    return rule.action in SENT_ELSEWHERE and not rule.staged and _port_of(rule, host) is not None


def _port_of(rule: FlowRule, host: Host) -> int | None:
    return host.redirect_port if rule.action == "redirect" else host.tarpit_port


def _prerouting(policy: Policy, host: Host) -> Iterator[str]:
    """Redirects happen before routing; what an earlier rule decides leaves this chain untouched.

    Staged rules are tried out here too: a nat chain sees each flow once, before any rule could change it. Those that
    look at what is said are tried out in `forward`: here nobody has said anything yet."""
    early = [i for i, r in enumerate(policy.flows) if sends_elsewhere(r, host) or (is_tried_out(r) and not r.speaks)]
    if not early:
        return
    yield "chain prerouting {"
    yield "\ttype nat hook prerouting priority dstnat; policy accept;"
    yield "\tct state invalid return"  # and so conntrack is at work, without which no nat chain is asked
    yield "\tfib daddr type local return"
    yield from (f"\tip6 {which} {MAPPED} return" for which in ("saddr", "daddr"))
    for rule in policy.flows[: max(early) + 1]:
        if not rule.speaks:
            yield from (f"\t{line}" for line in _prerouting_rule(policy, host, rule))
    yield "}"


def _prerouting_rule(policy: Policy, host: Host, rule: FlowRule) -> Iterator[str]:
    if rule.staged:
        if is_tried_out(rule):
            yield f"jump rule_{rule.name} {comment(rule)}"
        return
    for zone, match in each_match(policy, rule, host):
        if not sends_elsewhere(rule, host):
            yield f"{match} return {comment(rule)}"
            continue
        if rule.log:
            yield f"{match} {log_statement(policy, REDIRECTED, rule.name, rule.log_per_second)}"
        counter = f"counter name {counter_name(rule.name, zone)}"
        yield f"{match} {counter} redirect to :{_port_of(rule, host)} {comment(rule)}"
