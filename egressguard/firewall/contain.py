"""Hosts that are shut out because a limit was exceeded: two sets in the table, kept as the relay says.

Contract
    A contained host reaches no mail port of anybody but this gateway's (where the relay defers it), on connections
    that stand as well. The kernel lets it go by itself when its time is over, whoever lives then.
    The table has the sets only when a limit of the policy can contain somebody.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from egressguard.net.flow import plain_address
from egressguard.policy.model import Policy

CONTAINED = "contained"
"""The name under which such flows are counted and told; also that of the sets and the chain."""
MAIL_PORTS = (25, 465, 587, 2525)
MAX_HOSTS = 10_000


def contains(policy: Policy) -> bool:
    """Whether a limit of this policy can shut a host out."""
    return any(limit.above == "contain" and not limit.staged for limit in policy.limits)


def contained_sets(policy: Policy) -> Iterator[str]:
    for family, kind in ((4, "ipv4_addr"), (6, "ipv6_addr")) if contains(policy) else ():
        yield f"set {CONTAINED}_{family} {{"
        yield f"\ttype {kind}"
        yield "\tflags timeout"
        yield "}"


def contained_matches(policy: Policy) -> Iterator[str]:
    """The matches of packets that a contained host may not send."""
    ports = "{ " + ", ".join(map(str, MAIL_PORTS)) + " }"
    for family, word in ((4, "ip"), (6, "ip6")) if contains(policy) else ():
        yield f"{word} saddr @{CONTAINED}_{family} tcp dport {ports}"


def render_contained(hosts: Mapping[str, float], now: float, table: str) -> str:
    """One nft transaction that makes the sets say exactly `hosts` (address -> until, seconds since 1970)."""
    lines = [f"flush set inet {table} {CONTAINED}_{family}" for family in (4, 6)]
    left = {plain_address(host): int(until - now) for host, until in hosts.items() if until - now >= 1}
    for family in (4, 6):
        those = [(a, s) for a, s in left.items() if a.version == family][:MAX_HOSTS]
        if those:
            elements = ", ".join(f"{address} timeout {seconds}s" for address, seconds in those)
            lines.append(f"add element inet {table} {CONTAINED}_{family} {{ {elements} }}")
    return "".join(f"{line}\n" for line in lines)
