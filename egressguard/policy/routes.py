"""Which way a message leaves: the first route whose matchers all match; none means MX. Pure."""

from __future__ import annotations

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
