"""Names and words that everything about our table shares: what is written into the kernel and read back from it."""

from __future__ import annotations

from collections.abc import Iterable

from egressguard.policy.flows import MAPPED_RULE, TUNNELS_RULE
from egressguard.policy.model import FlowRule, Policy

TABLE = "egressguard"
OWNER = "egressguard revision"
"""How the comment of a table begins that is ours; another table of our name is somebody else's."""
GUARD_RULE = "own-processes"
"""The name under which the gateway's own blocked processes are counted and logged."""
FRAGMENTS_RULE = "fragments"
"""The name of what drops TCP in fragments that come from a zone: no host needs them, and no rule sees what is in the
later ones. Where conntrack is at work (NAT) they are whole again before."""
MAIL_ACCESS_RULE = "mail-access"
"""The name of what keeps hosts of no zone from IMAP and POP3."""
OWN_ZONE = "gateway"
ANY_ZONE = "any"
QUEUE_CHAIN, OPEN_QUEUE_CHAIN = "to_queue", "to_open_queue"
REJECT_MARK, ALLOW_MARK = 0x45470001, 0x45470002
"""The marks of a queued packet that the daemon refuses or lets pass: a later chain acts on them."""
LOG_SNAPLEN = 128
QUESTION_SNAPLEN = 384
"""Octets of a DNS question's packet that are looked at: headers, and a name of 255."""
BLOCKED, REDIRECTED, WOULD, QUESTION, PASSED = "block", "redir", "would", "ask", "pass"
SEEN = "blocked"
"""The sets that count what each source was stopped at, and how many sources they hold."""
SEEN_SOURCES = 8192
SEEN_SECONDS = 3600
JUDGED = "judged"
"""The sets of flows that the daemon let pass; a new table begins without them, so that new rules judge again."""
JUDGED_FLOWS = 65536
JUDGED_SECONDS = 86400
FAMILIES = ((4, "ip", "ipv4_addr"), (6, "ip6", "ipv6_addr"))
BUILT_IN_RULES = {MAPPED_RULE: "drop", TUNNELS_RULE: "reject", GUARD_RULE: "reject", "contained": "reject"} | {
    FRAGMENTS_RULE: "drop",
    MAIL_ACCESS_RULE: "reject",
}
"""What is counted without a rule in the policy, and what happens to it."""
OWN = "own"
"""The sets of the gateway's own addresses."""
MAPPED = "::ffff:0:0/96"
COMMENT_CHARACTERS = 100  # nft takes 128 octets


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


def log_statement(policy: Policy, action: str, rule: str, per_second: int | None = None) -> str:
    """Log at a bounded rate; `rule` may be any name of ours."""
    plane = policy.site.packet_plane
    rate = per_second or plane.log_per_second
    snaplen = QUESTION_SNAPLEN if action == QUESTION else LOG_SNAPLEN
    limit = f"limit rate {rate}/second burst {2 * rate} packets"
    return f'{limit} log prefix "{log_prefix(action, rule)}" group {plane.nflog_group} snaplen {snaplen}'


def quoted(text: str) -> str:
    """An nft string: names of interfaces and files come from the administrator, quotes have no escape in nft."""
    return '"' + "".join(c for c in text if c.isascii() and c.isprintable() and c not in '"\\') + '"'


def comment(rule: FlowRule) -> str:
    return f"comment {quoted(f'{rule.name} {rule.at}'[:COMMENT_CHARACTERS])}"


def braces(items: Iterable[object]) -> str:
    return "{ " + ", ".join(map(str, items)) + " }"


def zones_of_rule(rule: FlowRule) -> tuple[str, ...]:
    return rule.from_zone or (ANY_ZONE,)


def is_tried_out(rule: FlowRule) -> bool:
    """Whether the kernel tries a staged rule out. What needs thought it cannot: that is seen in the daemon only."""
    return rule.staged and rule.decide == "kernel"


def is_queued(rule: FlowRule) -> bool:
    """Whether flows go to the daemon because of it."""
    return rule.decide == "queue" and not rule.staged


def zones_without_tunnels(policy: Policy) -> tuple[str, ...]:
    return tuple(name for name, zone in policy.site.zones.items() if zone.tunnels == "reject")
