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

from egressguard.firewall.chains import ANSWERS, queue_answers, rule_chains
from egressguard.firewall.contain import CONTAINED, contains
from egressguard.firewall.early import early_chains
from egressguard.firewall.forward import forward_chains
from egressguard.firewall.host import Host
from egressguard.firewall.own_ports import guards_own_ports, own_ports
from egressguard.firewall.passed import passed_chains
from egressguard.firewall.sets import sets
from egressguard.firewall.table import (
    ANY_ZONE,
    BLOCKED,
    COMMENT_CHARACTERS,
    FRAGMENTS_RULE,
    GUARD_RULE,
    MAIL_ACCESS_RULE,
    OWN_ZONE,
    OWNER,
    TABLE,
    counter_name,
    log_statement,
    quoted,
    zones_of_rule,
    zones_without_tunnels,
)
from egressguard.policy.flows import MAPPED_RULE, TUNNELS_RULE
from egressguard.policy.model import Policy


def render_ruleset(policy: Policy, host: Host) -> str:
    """The whole transaction, for `nft -f -` with TZ=UTC."""
    lines = [
        *sets(policy, host),
        *_counters(policy, host),
        *rule_chains(policy, host),
        *early_chains(policy, host),
        *forward_chains(policy, host),
        *queue_answers(policy, host),
        *passed_chains(policy, host),
        *own_ports(policy, host),
        *_output(policy, host),
    ]
    return _transaction(_described(policy), lines)


def render_closed() -> str:
    """The wall for a machine that has no policy yet: nothing but port 25, forwarded, is closed."""
    lines = [
        "chain forward {",
        "\ttype filter hook forward priority filter; policy accept;",
        f"\t{ANSWERS['tcp']}",
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
    chains = {f"chain {kind}_{rule_name} {{" for kind in ("rule", "would", "speaks", "said")}
    found: list[str] = []
    inside = False
    for line in ruleset.splitlines():
        text = line.strip()
        inside = inside or text in chains or text.startswith(f"chain pass_{rule_name}/")
        if inside or f'comment "{rule_name} ' in text:
            found.append(line.removeprefix("\t"))
        inside = inside and text != "}"
    return found


def _counters(policy: Policy, host: Host) -> Iterator[str]:
    named = [(rule.name, zone) for rule in policy.flows for zone in zones_of_rule(rule)]
    named.append((MAPPED_RULE, ANY_ZONE))
    named += [(FRAGMENTS_RULE, zone) for zone in policy.site.zones]
    named += [(TUNNELS_RULE, zone) for zone in zones_without_tunnels(policy)]
    if _guards(policy, host):
        named.append((GUARD_RULE, OWN_ZONE))
    if contains(policy):
        named.append((CONTAINED, ANY_ZONE))
    if guards_own_ports(policy):
        named.append((MAIL_ACCESS_RULE, ANY_ZONE))
    yield from (f"counter {counter_name(*pair)} {{ }}" for pair in named)


def _guards(policy: Policy, host: Host) -> bool:
    return policy.site.packet_plane.guard_own_processes and host.relay_uid is not None


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
