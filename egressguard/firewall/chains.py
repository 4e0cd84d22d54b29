"""What happens to the packets of a rule: a chain, or a few, for each. `firewall.forward` sends them there.

Contract
    Pure. `rule_NAME` ends in the rule's verdict; `would_NAME` logs for a staged one; `pass_NAME/ZONE` counts what is
    allowed or asked about, so that its addresses are looked up once.
"""

from __future__ import annotations

from collections.abc import Iterator

from egressguard.firewall.contain import CONTAINED, contains
from egressguard.firewall.host import Host
from egressguard.firewall.matching import each_match, said, zone_variants
from egressguard.firewall.table import (
    ALLOW_MARK,
    ANY_ZONE,
    BLOCKED,
    FAMILIES,
    FRAGMENTS_RULE,
    JUDGED,
    OPEN_QUEUE_CHAIN,
    QUEUE_CHAIN,
    REJECT_MARK,
    SEEN,
    WOULD,
    comment,
    counter_name,
    is_queued,
    is_tried_out,
    log_statement,
    queue_mark,
    zones_of_rule,
    zones_without_tunnels,
)
from egressguard.policy.flows import MAPPED_RULE, TUNNELS_RULE
from egressguard.policy.model import FlowRule, Policy

NO_OPENING = {"tcp": "tcp flags & (syn | ack) != syn", "udp": "meta l4proto udp"}
"""Packets that may belong to a flow that stands. Conntrack alone is not asked: after a forged SYN from outside, the SYN
of a host in the LAN is an answer to it (a simultaneous open, RFC 9293 s3.5), and the way to port 25 would be open."""
_CLIENT_PORTS = "tcp dport >= 1024"
ANSWERS = {
    "tcp": f'ct direction reply {_CLIENT_PORTS} {NO_OPENING["tcp"]} accept comment "answers"',
    "udp": f'ct direction reply {NO_OPENING["udp"]} accept comment "answers"',
}
"""Answers go to a client's port. A connection to port 25 that conntrack first met in the middle stays judged."""
FIRST_CLIENT_PORT = 1024
SENT_ELSEWHERE = frozenset({"redirect", "tarpit"})


def rule_chains(policy: Policy, host: Host) -> Iterator[str]:
    yield from _queue_chains(policy, host)
    for index, rule in enumerate(policy.flows):
        if is_tried_out(rule):
            yield from _staged_chain(policy, host, rule)
        elif rule.staged:
            continue
        elif is_queued(rule):
            yield from _queueing_chain(rule, index)
        elif rule.action != "allow":
            yield from _refusing_chain(policy, f"rule_{rule.name}", rule)
        if rule.speaks:
            yield from _speaking_chains(policy, host, rule)
        elif is_counted_when_new(rule):
            yield from _passing_chains(rule)
    yield from _built_in_chains(policy, host)


def is_counted_when_new(rule: FlowRule) -> bool:
    """What passes is counted once a flow; what is stopped, each time that it tries."""
    return is_queued(rule) or (rule.action == "allow" and not rule.staged)


_FIRST = {"tcp": "tcp flags & (syn | ack) == syn"}
"""What opens a flow. Without a question about conntrack the kernel need not track what only passes through."""


def passing_chain(rule: FlowRule, zone: str) -> str:
    return f"pass_{rule.name}/{zone}"


def _passing_chains(rule: FlowRule) -> Iterator[str]:
    for zone in zones_of_rule(rule):
        yield f"chain {passing_chain(rule, zone)} {{"
        yield f"\t{_FIRST.get(rule.protocol, 'ct state new')} counter name {counter_name(rule.name, zone)}"
        yield f"\tgoto rule_{rule.name}" if is_queued(rule) else "\taccept"
        yield "}"


def _speaking_chains(policy: Policy, host: Host, rule: FlowRule) -> Iterator[str]:
    """First whether it is said at all, then by whom."""
    whom = f"rule_{rule.name}" if rule.staged else f"said_{rule.name}"
    if not rule.staged:
        yield f"chain {whom} {{"
        for zone, match in each_match(policy, rule, host):
            then = "accept" if rule.action == "allow" else f"goto rule_{rule.name}"
            yield f"\t{match} counter name {counter_name(rule.name, zone)} {then} {comment(rule)}"
        yield "}"
    # Whoever opened the flow: a host that begins to speak as an SMTP client is one.
    yield f"chain speaks_{rule.name} {{"
    yield from (f"\t{match} jump {whom} {comment(rule)}" for match in said())
    yield "}"


def _queue_chains(policy: Policy, host: Host) -> Iterator[str]:
    number = policy.site.packet_plane.queue_number
    for chain, queue, last in (
        (QUEUE_CHAIN, f"queue num {number}", "drop"),
        (OPEN_QUEUE_CHAIN, f"queue num {number + 1} bypass", "accept"),
    ):
        yield f"chain {chain} {{"
        if host.queue == "native":
            yield f"\t{queue}"
        yield f'\t{last} comment "nobody decides"'
        yield "}"


def _queueing_chain(rule: FlowRule, index: int) -> Iterator[str]:
    """Flows that the daemon let pass are not asked about again, until the rules change."""
    yield f"chain rule_{rule.name} {{"
    for family, word, _ in FAMILIES:
        yield f"\t{NO_OPENING.get(rule.protocol, '')} {_flow_key(word)} @{JUDGED}_{family} accept".replace("  ", " ")
    yield f"\tmeta mark set {queue_mark(index):#x}"
    yield f"\tgoto {OPEN_QUEUE_CHAIN if rule.fail == 'open' else QUEUE_CHAIN}"
    yield "}"


def _flow_key(word: str) -> str:
    return f"meta l4proto . {word} saddr . th sport . {word} daddr . th dport"


def _refusing_chain(policy: Policy, chain: str, rule: FlowRule) -> Iterator[str]:
    """Log at a bounded rate, count the source, then the verdict."""
    yield f"chain {chain} {{"
    if rule.log:
        yield f"\t{log_statement(policy, BLOCKED, rule.name, rule.log_per_second)}"
    yield from _stopped()
    if rule.action == "drop":
        yield "\tdrop"
    else:
        yield from _rejected(tcp=rule.protocol == "tcp")
    yield "}"


def _stopped() -> Iterator[str]:
    yield from (f"\tupdate @{SEEN}_{family} {{ {word} saddr }}" for family, word, _ in FAMILIES)


def _rejected(*, tcp: bool) -> Iterator[str]:
    if tcp:
        yield "\tmeta l4proto tcp reject with tcp reset"
    yield "\treject with icmpx type admin-prohibited"


def _built_in_chains(policy: Policy, host: Host) -> Iterator[str]:
    if contains(policy):
        yield f"chain {CONTAINED} {{"
        yield f"\t{log_statement(policy, BLOCKED, CONTAINED)}"
        yield from _stopped()
        yield "\treject with tcp reset"
        yield "}"
    yield f"chain rule_{MAPPED_RULE} {{"
    yield f"\t{log_statement(policy, BLOCKED, MAPPED_RULE)}"
    yield f"\tcounter name {counter_name(MAPPED_RULE, ANY_ZONE)} drop"
    yield "}"
    yield f"chain rule_{FRAGMENTS_RULE} {{"
    yield f"\t{log_statement(policy, BLOCKED, FRAGMENTS_RULE)}"
    yield "\tdrop"
    yield "}"
    yield "chain fragments {"
    for zone in policy.site.zones:
        for variant in zone_variants(policy, host, zone):
            counter = f"counter name {counter_name(FRAGMENTS_RULE, zone)}"
            yield f"\t{variant.statement} {counter} goto rule_{FRAGMENTS_RULE}"
    yield "}"
    if not zones_without_tunnels(policy):
        return
    yield f"chain rule_{TUNNELS_RULE} {{"
    yield f"\t{log_statement(policy, BLOCKED, TUNNELS_RULE)}"
    yield from _stopped()
    yield from _rejected(tcp=False)
    yield "}"
    yield "chain tunnels {"
    for zone in zones_without_tunnels(policy):
        for variant in zone_variants(policy, host, zone):
            counter = f"counter name {counter_name(TUNNELS_RULE, zone)}"
            yield f"\t{variant.statement} {counter} goto rule_{TUNNELS_RULE}"
    yield "}"


def _staged_chain(policy: Policy, host: Host, rule: FlowRule) -> Iterator[str]:
    """Count and log once, whichever way the packet is in the zone, and go on."""
    if rule.log:
        yield f"chain would_{rule.name} {{"
        yield f"\t{log_statement(policy, WOULD, rule.name, rule.log_per_second)}"
        yield "}"
    yield f"chain rule_{rule.name} {{"
    for zone, match in each_match(policy, rule, host):
        then = f"goto would_{rule.name}" if rule.log else "return"
        yield f"\t{match} counter name {counter_name(rule.name, zone)} {then}"
    yield "}"


def queue_answers(policy: Policy, host: Host) -> Iterator[str]:
    """After NFQUEUE's accept, evaluation goes on here: the mark says whether the packet is refused with a reset."""
    if host.queue == "none" or not any(map(is_queued, policy.flows)):
        return
    yield "chain answers {"
    yield "\ttype filter hook forward priority filter + 5; policy accept;"
    yield f"\tmeta mark {REJECT_MARK:#x} meta l4proto tcp reject with tcp reset"
    yield f"\tmeta mark {REJECT_MARK:#x} reject with icmpx type admin-prohibited"
    for family, word, _ in FAMILIES:
        yield f"\tmeta mark {ALLOW_MARK:#x} update @{JUDGED}_{family} {{ {_flow_key(word)} }}"
    yield f"\tmeta mark {ALLOW_MARK:#x} meta mark set 0"
    yield "}"
