"""Policy -> the text of one nftables transaction. Pure: same policy and host, same text.

Contract
    The text replaces table `inet egressguard` and touches nothing else; loaded twice it changes nothing.
    Rules stand in the order of the files and the first match wins, in `prerouting` (redirects) as in `forward`.
    A rule judges who opens a flow; answers to a flow that somebody else opened pass, a TCP SYN is never an answer.
    A staged rule counts and logs what it would have decided, and decides nothing.
    A rule that the kernel cannot decide goes to NFQUEUE; nobody listening there is a drop.
    Each rule carries its name and file:line as a comment, the table the policy's revision.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from egressguard.firewall.contain import CONTAINED, contained_matches, contained_sets, contains
from egressguard.firewall.host import Host
from egressguard.net.flow import IPNetwork
from egressguard.policy.model import FlowRule, Policy
from egressguard.policy.networks import INSIDE, prefixes

TABLE = "egressguard"
GUARD_RULE = "own-processes"
"""The name under which the gateway's own blocked processes are counted and logged."""
OWN_ZONE = "gateway"
ANY_ZONE = "any"
QUEUE_CHAIN = "to_queue"
REJECT_MARK = 0x45470001
"""The mark of a queued packet that the daemon refuses: a later chain answers it with a reset."""
LOG_SNAPLEN = 128
COMMENT_CHARACTERS = 100  # nft takes 128 octets
BLOCKED, REDIRECTED, WOULD = "block", "redir", "would"


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to be in a zone: `family` 4, 6 or 0 (either); `statement` is the nft expression."""

    family: int
    statement: str


def render_ruleset(policy: Policy, host: Host) -> str:
    """The whole transaction, for `nft -f -`."""
    lines = [
        *_sets(policy, host),
        *contained_sets(policy),
        *_counters(policy, host),
        *_rule_chains(policy, host),
        *_prerouting(policy, host),
        *_forward(policy),
        *_queue_answers(policy, host),
        *_output(policy, host),
    ]
    head = f"table inet {TABLE}\ndelete table inet {TABLE}\n\n"
    comment = f"\tcomment {_quoted(_described(policy)[:COMMENT_CHARACTERS])}\n"
    return head + f"table inet {TABLE} {{\n" + comment + "".join(f"\t{line}\n" for line in lines) + "}\n"


def _described(policy: Policy) -> str:
    words = f"egressguard revision {policy.revision}"
    return f"{words}, {policy.origin}" if policy.origin else words


def statements_of(ruleset: str, rule_name: str) -> list[str]:
    """The lines of a rendered ruleset that a rule became: its chains, and where they are gone to."""
    found: list[str] = []
    inside = False
    for line in ruleset.splitlines():
        text = line.strip()
        if text in {f"chain rule_{rule_name} {{", f"chain would_{rule_name} {{"}:
            inside = True
        if inside or f'comment "{rule_name} ' in text:
            found.append(line.removeprefix("\t"))
        inside = inside and text != "}"
    return found


def counter_name(rule: str, zone: str) -> str:
    return f"c_{rule}/{zone}"


def parse_counter_name(name: str) -> tuple[str, str] | None:
    """(rule, zone), or None for a counter that is none of ours."""
    rule, slash, zone = name.removeprefix("c_").partition("/")
    return (rule, zone) if slash and name.startswith("c_") else None


def queue_mark(index: int) -> int:
    """The mark that tells the daemon which rule queued a packet."""
    return 0x45480000 | index


def log_prefix(action: str, rule: str) -> str:
    return f"eg:{action}:{rule}"


def _family_sets(name: str, networks: Sequence[IPNetwork]) -> Iterator[str]:
    for version, kind in ((4, "ipv4_addr"), (6, "ipv6_addr")):
        members = [n for n in networks if n.version == version]
        yield f"set {name}_{version} {{"
        yield f"\ttype {kind}"
        yield "\tflags interval"
        if members:
            yield f"\telements = {{ {', '.join(_collapse(members))} }}"
        yield "}"


def _collapse(networks: Iterable[IPNetwork]) -> list[str]:
    """Merged and sorted prefixes: overlapping elements are an error to the kernel."""
    four = [n for n in networks if isinstance(n, ipaddress.IPv4Network)]
    six = [n for n in networks if isinstance(n, ipaddress.IPv6Network)]
    return [*map(_prefix, ipaddress.collapse_addresses(four)), *map(_prefix, ipaddress.collapse_addresses(six))]


def _prefix(network: IPNetwork) -> str:
    return str(network.network_address) if network.prefixlen == network.max_prefixlen else str(network)


def _sets(policy: Policy, host: Host) -> Iterator[str]:
    for name, zone in policy.site.zones.items():
        interfaces = set(zone.interfaces) - {INSIDE}
        if INSIDE in zone.interfaces:
            interfaces |= host.inside_interfaces
        yield f"set zone_{name}_if {{"
        yield "\ttype ifname"
        if interfaces:
            yield f"\telements = {{ {', '.join(_quoted(i) for i in sorted(interfaces))} }}"
        yield "}"
        yield from _family_sets(f"zone_{name}", zone.networks)
    for rule in policy.flows:
        for which, texts in (("src", rule.source), ("dst", rule.destination)):
            if texts:
                yield from _family_sets(f"{which}_{rule.name}", prefixes(policy, texts))


def _quoted(text: str) -> str:
    """An nft string: names of interfaces and files come from the administrator, quotes have no escape in nft."""
    return '"' + "".join(c for c in text if c.isascii() and c.isprintable() and c not in '"\\') + '"'


def _zones_of_rule(rule: FlowRule) -> Sequence[str]:
    return rule.from_zone or (ANY_ZONE,)


def _counters(policy: Policy, host: Host) -> Iterator[str]:
    for rule in policy.flows:
        for zone in _zones_of_rule(rule):
            yield f"counter {counter_name(rule.name, zone)} {{ }}"
    if _guards(policy, host):
        yield f"counter {counter_name(GUARD_RULE, OWN_ZONE)} {{ }}"
    if contains(policy):
        yield f"counter {counter_name(CONTAINED, ANY_ZONE)} {{ }}"


def _guards(policy: Policy, host: Host) -> bool:
    return policy.site.packet_plane.guard_own_processes and host.relay_uid is not None


_NO_OPENING = {"tcp": "tcp flags & (syn | ack) != syn", "udp": "meta l4proto udp"}
"""Packets that may belong to a flow that stands. Conntrack alone is not asked: after a forged SYN from outside, the SYN
of a host in the LAN is an answer to it (a simultaneous open, RFC 9293 s3.5), and the way to port 25 would be open."""
_CLIENT_PORTS = "tcp dport >= 1024"
"""Answers go to a client's port. A connection to port 25 that conntrack first met in the middle stays judged."""


def _rule_chains(policy: Policy, host: Host) -> Iterator[str]:
    """A chain per rule that stops flows: log at a bounded rate, then the verdict."""
    yield f"chain {QUEUE_CHAIN} {{"
    if host.queue == "native":
        yield f"\tqueue num {policy.site.packet_plane.queue_number}"
    yield '\tdrop comment "nobody decides: closed"'
    yield "}"
    if contains(policy):
        yield f"chain {CONTAINED} {{"
        yield f"\t{_log(policy, BLOCKED, CONTAINED)}"
        yield "\treject with tcp reset"
        yield "}"
    for index, rule in enumerate(policy.flows):
        if rule.staged:
            yield from _staged_chain(policy, rule)
        elif rule.decide == "queue":
            yield f"chain rule_{rule.name} {{"
            yield f"\t{_NO_OPENING[rule.protocol]} ct state established accept"
            yield f"\tmeta mark set {queue_mark(index):#x}"
            yield f"\tgoto {QUEUE_CHAIN}"
            yield "}"
        elif rule.action != "allow":
            yield f"chain rule_{rule.name} {{"
            if rule.log:
                yield f"\t{_log(policy, BLOCKED, rule.name)}"
            yield from (f"\t{statement}" for statement in _refusal(rule))
            yield "}"


def _staged_chain(policy: Policy, rule: FlowRule) -> Iterator[str]:
    """Count and log once, whichever way the packet is in the zone, and go on."""
    if not _is_staged(rule):
        return
    if rule.log:
        yield f"chain would_{rule.name} {{"
        yield f"\t{_log(policy, WOULD, rule.name)}"
        yield "}"
    yield f"chain rule_{rule.name} {{"
    for zone, match in _each_match(rule):
        then = f"goto would_{rule.name}" if rule.log else "return"
        yield f"\t{match} counter name {counter_name(rule.name, zone)} {then}"
    yield "}"


def _is_staged(rule: FlowRule) -> bool:
    """Whether the kernel tries the rule out. What needs thought it cannot: that is seen in the daemon only."""
    return rule.staged and rule.decide == "kernel"


def _refusal(rule: FlowRule) -> Iterator[str]:
    if rule.action == "drop":
        yield "drop"
        return
    if rule.protocol == "tcp":
        yield "meta l4proto tcp reject with tcp reset"
    yield "reject with icmpx type admin-prohibited"


def _log(policy: Policy, action: str, rule_name: str) -> str:
    plane = policy.site.packet_plane
    rate = f"limit rate {plane.log_per_second}/second burst {2 * plane.log_per_second} packets"
    return f'{rate} log prefix "{log_prefix(action, rule_name)}" group {plane.nflog_group} snaplen {LOG_SNAPLEN}'


def _matches(rule: FlowRule, zone: str) -> Iterator[str]:
    """Each way in which a packet can match `rule` from `zone`: zone membership times address family."""
    for variant in _zone_variants(zone):
        families = (variant.family,) if variant.family else ((4, 6) if rule.source or rule.destination else (0,))
        for family in families:
            parts = [variant.statement, *_addresses(rule, family), _ports(rule)]
            yield " ".join(part for part in parts if part)


def _zone_variants(zone: str) -> Iterator[Variant]:
    if zone == ANY_ZONE:
        yield Variant(0, "")
        return
    yield Variant(0, f"iifname @zone_{zone}_if")
    yield Variant(4, f"ip saddr @zone_{zone}_4")
    yield Variant(6, f"ip6 saddr @zone_{zone}_6")


def _addresses(rule: FlowRule, family: int) -> Iterator[str]:
    word = {4: "ip", 6: "ip6"}.get(family, "")
    if rule.source:
        yield f"{word} saddr @src_{rule.name}_{family}"
    if rule.destination:
        yield f"{word} daddr @dst_{rule.name}_{family}"


def _ports(rule: FlowRule) -> str:
    if not rule.port:
        return f"meta l4proto {rule.protocol}"
    ports = sorted(set(rule.port))
    return f"{rule.protocol} dport {ports[0]}" if len(ports) == 1 else f"{rule.protocol} dport {_braces(ports)}"


def _braces(ports: Sequence[int]) -> str:
    return "{ " + ", ".join(map(str, ports)) + " }"


def _comment(rule: FlowRule) -> str:
    text = f"{rule.name} {rule.at}"
    return f"comment {_quoted(text[:COMMENT_CHARACTERS])}"


def _each_match(rule: FlowRule) -> Iterator[tuple[str, str]]:
    """(zone, match) for every nft rule that `rule` becomes."""
    for zone in _zones_of_rule(rule):
        for match in _matches(rule, zone):
            yield zone, match


def _prerouting(policy: Policy, host: Host) -> Iterator[str]:
    """Redirects happen before routing; what an earlier rule decides leaves this chain untouched.

    Staged rules are tried out here too: a nat chain sees each flow once, before any rule could change it."""
    redirects = [i for i, rule in enumerate(policy.flows) if rule.action == "redirect" and not rule.staged]
    staged = [i for i, rule in enumerate(policy.flows) if _is_staged(rule)]
    last = max([*(redirects if host.redirect_port is not None else []), *staged], default=-1)
    if last < 0:
        return
    yield "chain prerouting {"
    yield "\ttype nat hook prerouting priority dstnat; policy accept;"
    yield "\tfib daddr type local return"
    for rule in policy.flows[: last + 1]:
        yield from (f"\t{line}" for line in _prerouting_rule(policy, host, rule))
    yield "}"


def _prerouting_rule(policy: Policy, host: Host, rule: FlowRule) -> Iterator[str]:
    if rule.staged:
        if _is_staged(rule):
            yield f"jump rule_{rule.name} {_comment(rule)}"
        return
    for zone, match in _each_match(rule):
        if rule.action != "redirect" or host.redirect_port is None:
            yield f"{match} return {_comment(rule)}"
            continue
        if rule.log:
            yield f"{match} {_log(policy, REDIRECTED, rule.name)}"
        counter = f"counter name {counter_name(rule.name, zone)}"
        yield f"{match} {counter} redirect to :{host.redirect_port} {_comment(rule)}"


def _forward(policy: Policy) -> Iterator[str]:
    yield "chain forward {"
    yield "\ttype filter hook forward priority filter; policy accept;"
    counter = f"counter name {counter_name(CONTAINED, ANY_ZONE)}"
    for match in contained_matches(policy):
        yield f'\t{match} {counter} goto {CONTAINED} comment "{CONTAINED} by a limit"'
    yield f'\tct direction reply {_CLIENT_PORTS} {_NO_OPENING["tcp"]} accept comment "answers"'
    yield f'\tct direction reply {_NO_OPENING["udp"]} accept comment "answers"'
    for rule in policy.flows:
        for zone, match in _each_match(rule) if not rule.staged else ():
            yield from (f"\t{line}" for line in _forward_rule(rule, zone, match))
    yield "}"


def _forward_rule(rule: FlowRule, zone: str, match: str) -> Iterator[str]:
    counter = f"counter name {counter_name(rule.name, zone)}"
    if rule.decide == "queue":
        yield f"{match} ct state new {counter}"
        yield f"{match} goto rule_{rule.name} {_comment(rule)}"
    elif rule.action == "allow":
        yield f"{match} ct state new {counter}"
        yield f"{match} accept {_comment(rule)}"
    elif rule.action == "redirect":
        # Redirected flows never come here. One that does is refused: it is older than the table, or there is no relay.
        yield f"{match} goto rule_{rule.name} {_comment(rule)}"
    else:
        yield f"{match} {counter} goto rule_{rule.name} {_comment(rule)}"


def _queue_answers(policy: Policy, host: Host) -> Iterator[str]:
    """After NFQUEUE's accept, evaluation goes on here: a marked packet is refused with a reset."""
    if host.queue == "none" or not any(rule.decide == "queue" and not rule.staged for rule in policy.flows):
        return
    yield "chain answers {"
    yield "\ttype filter hook forward priority filter + 5; policy accept;"
    yield f"\tmeta mark {REJECT_MARK:#x} meta l4proto tcp reject with tcp reset"
    yield f"\tmeta mark {REJECT_MARK:#x} reject with icmpx type admin-prohibited"
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
    yield f"\t{match} {_log(policy, BLOCKED, GUARD_RULE)}"
    counter = f"counter name {counter_name(GUARD_RULE, OWN_ZONE)}"
    yield f'\t{match} {counter} reject with tcp reset comment "{GUARD_RULE}"'
    yield "}"
