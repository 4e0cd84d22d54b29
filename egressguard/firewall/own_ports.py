"""Who reaches the gateway's own IMAP and POP3: hosts of the zones that `site.access.zones` names, and nobody else.

Contract
    Pure. Only these ports are judged here, and only packets to the gateway itself; loopback always passes.
    Every packet is judged: a host that leaves the zones loses its connections, too.
"""

from __future__ import annotations

from collections.abc import Iterator

from egressguard.firewall.host import Host
from egressguard.firewall.matching import zone_variants
from egressguard.firewall.table import ANY_ZONE, BLOCKED, MAIL_ACCESS_RULE, braces, counter_name, log_statement
from egressguard.policy.model import Policy


def guards_own_ports(policy: Policy) -> bool:
    return bool(policy.site.access.ports)


def own_ports(policy: Policy, host: Host) -> Iterator[str]:
    if not guards_own_ports(policy):
        return
    access = policy.site.access
    yield "chain input {"
    yield "\ttype filter hook input priority filter; policy accept;"
    yield f"\ttcp dport != {braces(sorted(set(access.ports)))} accept"
    yield "\tmeta l4proto != tcp accept"
    yield '\tiifname "lo" accept'
    for zone in access.zones or policy.site.zones:
        for variant in zone_variants(policy, host, zone):
            yield f'\t{variant.statement} accept comment "site.access.zones"'
    yield f"\t{log_statement(policy, BLOCKED, MAIL_ACCESS_RULE)}"
    counter = f"counter name {counter_name(MAIL_ACCESS_RULE, ANY_ZONE)}"
    yield f'\t{counter} reject with tcp reset comment "{MAIL_ACCESS_RULE}"'
    yield "}"
