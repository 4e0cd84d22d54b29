"""New connections that got past every rule: some a second are logged, where the site wants to know of them.

Contract
    Pure. Decides nothing: a base chain of its own, behind all that could still stop a packet.
    A connection is logged once per opening packet, whichever way its source is in a zone.
"""

from __future__ import annotations

from collections.abc import Iterator

from egressguard.firewall.host import Host
from egressguard.firewall.matching import zone_variants
from egressguard.firewall.table import PASSED, braces, log_statement
from egressguard.policy.model import Policy


def passed_chains(policy: Policy, host: Host) -> Iterator[str]:
    wanted = policy.site.journal.passed_flows
    if wanted is None:
        return
    zones = [(zone, list(zone_variants(policy, host, zone))) for zone in policy.site.zones]
    ports = sorted(set(wanted.port))
    which = f"tcp dport {ports[0] if len(ports) == 1 else braces(ports)}"
    yield "chain log_passed {"
    yield f"\t{log_statement(policy, PASSED, 'flows', wanted.per_second)}"
    yield "}"
    yield "chain passed {"
    yield "\ttype filter hook forward priority filter + 10; policy accept;"  # behind `answers`
    for _, variants in zones:
        for variant in variants:
            yield f"\t{which} tcp flags & (syn | ack) == syn {variant.statement} goto log_passed"
    yield "}"
