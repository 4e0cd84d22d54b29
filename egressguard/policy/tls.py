"""What TLS with a mail host must be: what the first rule that matches says, else what its domain publishes. Pure."""

from __future__ import annotations

from egressguard.policy.match import TlsMatch
from egressguard.policy.model import Policy, TlsLevel, TlsRule
from egressguard.policy.patterns import is_one_of

NO_RULE = TlsRule(name="published", level="published")
"""In the place of a rule where none matches."""

DANE_ONLY = TlsRule(name="dane", level="dane-only")
"""For a smart host with `tls: dane`."""

LOOKS_FOR_DANE: frozenset[TlsLevel] = frozenset({"published", "dane", "dane-only"})


def choose_tls(policy: Policy, domain: str, next_hop: str) -> TlsRule:
    """The rule for mail to `domain` at the MX host `next_hop`. A staged rule is never taken."""
    for rule in policy.tls:
        if not rule.staged and _matches(rule.match, policy, domain.lower(), next_hop.lower()):
            return rule
    return NO_RULE


def _matches(match: TlsMatch, policy: Policy, domain: str, next_hop: str) -> bool:
    if match.recipient_domain and not is_one_of(match.recipient_domain, domain, policy.site.domains):
        return False
    return not match.next_hop or is_one_of(match.next_hop, next_hop)
