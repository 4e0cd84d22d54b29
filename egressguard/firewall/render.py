"""Policy -> the text of one nftables transaction. Pure: same policy and host, same text.

Contract
    The text replaces table `inet egressguard` and touches nothing else; loaded twice it changes nothing.
    Rules stand in the order of the files and the first match wins, in `prerouting` (redirects) as in `forward`.
    A rule judges who opens a flow; answers to a flow that somebody else opened pass, a TCP SYN is never an answer.
    Every packet of who opened a flow is judged: when a rule begins to block, the flows that stand are cut.
    A staged rule counts and logs what it would have decided, and decides nothing.
    A rule that the kernel cannot decide goes to NFQUEUE; nobody listening there is what the rule's `fail` says.
    Each rule carries its name and file:line as a comment, the table the policy's revision.
"""

from __future__ import annotations

from collections.abc import Iterator

from egressguard.firewall.contain import CONTAINED, contained_matches, contains
from egressguard.firewall.host import Host
from egressguard.firewall.matching import PROTOCOL_NUMBERS, each_match, said, zone_variants
from egressguard.firewall.sets import sets
from egressguard.firewall.table import (
    ALLOW_MARK,
    ANY_ZONE,
    BLOCKED,
    COMMENT_CHARACTERS,
    FAMILIES,
    GUARD_RULE,
    JUDGED,
    OPEN_QUEUE_CHAIN,
    OWN_ZONE,
    OWNER,
    QUESTION,
    QUEUE_CHAIN,
    REDIRECTED,
    REJECT_MARK,
    SEEN,
    TABLE,
    WOULD,
    braces,
    comment,
    counter_name,
    is_queued,
    is_tried_out,
    log_statement,
    queue_mark,
    quoted,
    zones_of_rule,
    zones_without_tunnels,
)
from egressguard.net.flow import TEREDO_PORT
from egressguard.policy.flows import MAPPED_RULE, TUNNELS_RULE
from egressguard.policy.model import FlowRule, Policy

SENT_ELSEWHERE = frozenset({"redirect", "tarpit"})
_MAPPED = "::ffff:0:0/96"


def render_ruleset(policy: Policy, host: Host) -> str:
    """The whole transaction, for `nft -f -` with TZ=UTC."""
    lines = [
        *sets(policy, host),
        *_counters(policy, host),
        *_queue_chains(policy, host),
        *_rule_chains(policy, host),
        *_built_in_chains(policy),
        *_questions(policy),
        *_prerouting(policy, host),
        *_forward(policy, host),
        *_queue_answers(policy, host),
        *_output(policy, host),
    ]
    return _transaction(_described(policy), lines)


def render_closed() -> str:
    """The wall for a machine that has no policy yet: nothing but port 25, forwarded, is closed."""
    lines = [
        "chain forward {",
        "\ttype filter hook forward priority filter; policy accept;",
        f'\tct direction reply {_CLIENT_PORTS} {_NO_OPENING["tcp"]} accept comment "answers"',
        "\ttcp dport 25 counter reject with tcp reset",
        "}",
    ]
    return _transaction(f"{OWNER} (built in: port 25 closed)", lines)


def _transaction(described: str, lines: list[str]) -> str:
    head = f"table inet {TABLE}\ndelete table inet {TABLE}\n\n"
    words = f"\tcomment {quoted(described[:COMMENT_CHARACTERS])}\n"
    return head + f"table inet {TABLE} {{\n" + words + "".join(f"\t{line}\n" for line in lines) + "}\n"


def _described(policy: Policy) -> str:
    words = f"{OWNER} {policy.revision}"
    return f"{words}, {policy.origin}" if policy.origin else words


def statements_of(ruleset: str, rule_name: str) -> list[str]:
    """The lines of a rendered ruleset that a rule became: its chains, and where they are gone to."""
    chains = {f"chain {kind}_{rule_name} {{" for kind in ("rule", "would", "speaks")}
    found: list[str] = []
    inside = False
    for line in ruleset.splitlines():
        text = line.strip()
        inside = inside or text in chains
        if inside or f'comment "{rule_name} ' in text:
            found.append(line.removeprefix("\t"))
        inside = inside and text != "}"
    return found


def _counters(policy: Policy, host: Host) -> Iterator[str]:
    named = [(rule.name, zone) for rule in policy.flows for zone in zones_of_rule(rule)]
    named.append((MAPPED_RULE, ANY_ZONE))
    named += [(TUNNELS_RULE, zone) for zone in zones_without_tunnels(policy)]
    if _guards(policy, host):
        named.append((GUARD_RULE, OWN_ZONE))
    if contains(policy):
        named.append((CONTAINED, ANY_ZONE))
    yield from (f"counter {counter_name(*pair)} {{ }}" for pair in named)


def _guards(policy: Policy, host: Host) -> bool:
    return policy.site.packet_plane.guard_own_processes and host.relay_uid is not None


_NO_OPENING = {"tcp": "tcp flags & (syn | ack) != syn", "udp": "meta l4proto udp"}
"""Packets that may belong to a flow that stands. Conntrack alone is not asked: after a forged SYN from outside, the SYN
of a host in the LAN is an answer to it (a simultaneous open, RFC 9293 s3.5), and the way to port 25 would be open."""
_CLIENT_PORTS = "tcp dport >= 1024"
"""Answers go to a client's port. A connection to port 25 that conntrack first met in the middle stays judged."""


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


def _rule_chains(policy: Policy, host: Host) -> Iterator[str]:
    """A chain per rule: what happens to its packets, and for those that look at what is said, which these are."""
    for index, rule in enumerate(policy.flows):
        if is_tried_out(rule):
            yield from _staged_chain(policy, host, rule)
        elif is_queued(rule):
            yield from _queueing_chain(rule, index)
        elif rule.action != "allow" and not rule.staged:
            yield from _refusing_chain(policy, f"rule_{rule.name}", rule)
        if rule.speaks and not rule.staged:
            yield f"chain speaks_{rule.name} {{"
            for zone, match in each_match(rule, host):
                then = "accept" if rule.action == "allow" else f"goto rule_{rule.name}"
                yield f"\t{match} counter name {counter_name(rule.name, zone)} {then} {comment(rule)}"
            yield "}"


def _queueing_chain(rule: FlowRule, index: int) -> Iterator[str]:
    """Flows that the daemon let pass are not asked about again, until the rules change."""
    yield f"chain rule_{rule.name} {{"
    for family, word, _ in FAMILIES:
        yield f"\t{_NO_OPENING.get(rule.protocol, '')} {_flow_key(word)} @{JUDGED}_{family} accept".replace("  ", " ")
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


def _built_in_chains(policy: Policy) -> Iterator[str]:
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
    if not zones_without_tunnels(policy):
        return
    yield f"chain rule_{TUNNELS_RULE} {{"
    yield f"\t{log_statement(policy, BLOCKED, TUNNELS_RULE)}"
    yield from _stopped()
    yield from _rejected(tcp=False)
    yield "}"
    yield "chain tunnels {"
    for zone in zones_without_tunnels(policy):
        for variant in zone_variants(zone):
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
    for zone, match in each_match(rule, host):
        then = f"goto would_{rule.name}" if rule.log else "return"
        yield f"\t{match} counter name {counter_name(rule.name, zone)} {then}"
    yield "}"


def _questions(policy: Policy) -> Iterator[str]:
    """DNS questions of LAN hosts, to whomever, sampled: the daemon looks for those that ask for MX."""
    rate = policy.site.packet_plane.mx_questions_per_second
    if not rate or not policy.site.zones:
        return
    for zone in policy.site.zones:
        yield f"chain asks_{zone} {{"
        yield f"\t{log_statement(policy, QUESTION, zone, rate)}"
        yield "}"
    yield "chain questions {"
    yield "\ttype filter hook prerouting priority mangle; policy accept;"
    for zone in policy.site.zones:
        yield from (f"\tudp dport 53 {variant.statement} goto asks_{zone}" for variant in zone_variants(zone))
    yield "}"


def _sends_elsewhere(rule: FlowRule, host: Host) -> bool:
    return rule.action in SENT_ELSEWHERE and not rule.staged and _port_of(rule, host) is not None


def _port_of(rule: FlowRule, host: Host) -> int | None:
    return host.redirect_port if rule.action == "redirect" else host.tarpit_port


def _prerouting(policy: Policy, host: Host) -> Iterator[str]:
    """Redirects happen before routing; what an earlier rule decides leaves this chain untouched.

    Staged rules are tried out here too: a nat chain sees each flow once, before any rule could change it. Those that
    look at what is said are tried out in `forward`: here nobody has said anything yet."""
    early = [i for i, r in enumerate(policy.flows) if _sends_elsewhere(r, host) or (is_tried_out(r) and not r.speaks)]
    if not early:
        return
    yield "chain prerouting {"
    yield "\ttype nat hook prerouting priority dstnat; policy accept;"
    yield "\tfib daddr type local return"
    yield from (f"\tip6 {which} {_MAPPED} return" for which in ("saddr", "daddr"))
    for rule in policy.flows[: max(early) + 1]:
        if not rule.speaks:
            yield from (f"\t{line}" for line in _prerouting_rule(policy, host, rule))
    yield "}"


def _prerouting_rule(policy: Policy, host: Host, rule: FlowRule) -> Iterator[str]:
    if rule.staged:
        if is_tried_out(rule):
            yield f"jump rule_{rule.name} {comment(rule)}"
        return
    for zone, match in each_match(rule, host):
        if not _sends_elsewhere(rule, host):
            yield f"{match} return {comment(rule)}"
            continue
        if rule.log:
            yield f"{match} {log_statement(policy, REDIRECTED, rule.name, rule.log_per_second)}"
        counter = f"counter name {counter_name(rule.name, zone)}"
        yield f"{match} {counter} redirect to :{_port_of(rule, host)} {comment(rule)}"


def _forward(policy: Policy, host: Host) -> Iterator[str]:
    yield "chain forward {"
    yield "\ttype filter hook forward priority filter; policy accept;"
    counter = f"counter name {counter_name(CONTAINED, ANY_ZONE)}"
    for match in contained_matches(policy):
        yield f'\t{match} {counter} goto {CONTAINED} comment "{CONTAINED} by a limit"'
    for which in ("saddr", "daddr"):
        yield f"\tip6 {which} {_MAPPED} goto rule_{MAPPED_RULE}"
    yield f'\tct direction reply {_CLIENT_PORTS} {_NO_OPENING["tcp"]} accept comment "answers"'
    yield f'\tct direction reply {_NO_OPENING["udp"]} accept comment "answers"'
    for rule in policy.flows:
        yield from (f"\t{line}" for line in _forward_rule(rule, host))
    if zones_without_tunnels(policy):
        yield f"\tmeta l4proto {braces(PROTOCOL_NUMBERS.values())} jump tunnels"
        yield f"\tudp dport {TEREDO_PORT} jump tunnels"
    yield "}"


def _forward_rule(rule: FlowRule, host: Host) -> Iterator[str]:
    if rule.speaks:
        if is_tried_out(rule) or not rule.staged:
            for match in said():
                yield f"{match} jump {'rule' if rule.staged else 'speaks'}_{rule.name} {comment(rule)}"
        return
    if rule.staged:
        return
    for zone, match in each_match(rule, host):
        counter = f"counter name {counter_name(rule.name, zone)}"
        if is_queued(rule):
            yield f"{match} ct state new {counter}"
            yield f"{match} goto rule_{rule.name} {comment(rule)}"
        elif rule.action == "allow":
            yield f"{match} ct state new {counter}"
            yield f"{match} accept {comment(rule)}"
        elif _sends_elsewhere(rule, host):
            # Such flows never come here. One that does is refused: it is older than the table.
            yield f"{match} goto rule_{rule.name} {comment(rule)}"
        else:
            yield f"{match} {counter} goto rule_{rule.name} {comment(rule)}"


def _queue_answers(policy: Policy, host: Host) -> Iterator[str]:
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


def _output(policy: Policy, host: Host) -> Iterator[str]:
    """The gateway's own processes: only the relay's user speaks to port 25 beyond loopback.

    "skuid !=" does not match packets without an owner: what the kernel still sends for a socket that was closed.
    """
    if not _guards(policy, host):
        return
    yield "chain output {"
    yield "\ttype filter hook output priority filter; policy accept;"
    yield '\toifname "lo" accept'
    match = f"tcp dport 25 meta skuid != {host.relay_uid}"
    yield f"\t{match} {log_statement(policy, BLOCKED, GUARD_RULE)}"
    counter = f"counter name {counter_name(GUARD_RULE, OWN_ZONE)}"
    yield f'\t{match} {counter} reject with tcp reset comment "{GUARD_RULE}"'
    yield "}"
