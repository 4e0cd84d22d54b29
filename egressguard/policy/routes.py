"""Which way a message leaves: to a mailbox here, by the first route whose matchers all match, else by MX. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from egressguard.mail.address import domain_of
from egressguard.policy.index import prepared
from egressguard.policy.model import Policy, Route
from egressguard.policy.patterns import domain_matches, path_matches


def choose_route(policy: Policy, reverse_path: str, forward_path: str, tags: tuple[str, ...] = ()) -> Route | None:
    """The route of one recipient, or None for delivery by MX look-up. A staged route is never taken."""
    for route in policy.routes:
        match = route.match
        if route.staged or (match.tag and not set(match.tag) & set(tags)):
            continue
        if match.sender and not path_matches(match.sender, reverse_path):
            continue
        if match.sender_domain and not domain_matches(match.sender_domain, reverse_path, policy.site.domains):
            continue
        if match.recipient_domain and not domain_matches(match.recipient_domain, forward_path, policy.site.domains):
            continue
        return route
    return None


def is_local(policy: Policy, forward_path: str) -> bool:
    """Whether this is one of the site's own addresses; a bare <postmaster> is."""
    domain = domain_of(forward_path)
    return not domain or domain in prepared(policy, _OwnDomains).names


@dataclass(frozen=True, slots=True)
class _OwnDomains:
    written: tuple[str, ...]
    names: frozenset[str]

    def is_of(self, policy: Policy) -> bool:
        return self.written is policy.site.domains

    @classmethod
    def prepare(cls, policy: Policy) -> Self:
        domains = policy.site.domains
        return cls(domains, frozenset(name.lower() for name in domains))
