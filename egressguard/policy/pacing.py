"""Which rules of scheduling are a destination's and a recipient's own. Pure.

Contract
    A domain is treated as the first mapping of `site.destinations` says that has it, by MX only.
    When to try again: as the route says that was taken, else the destination's mapping, else the site.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from egressguard.mail.address import domain_of
from egressguard.policy.index import prepared
from egressguard.policy.model import Policy, Route
from egressguard.policy.scheduling import Concurrency, Destination, Retry


def destination_of(policy: Policy, domain: str) -> tuple[str, Destination] | None:
    """(its name in the rules, what they say) of the destination that `domain` belongs to."""
    if not policy.site.destinations:
        return None
    name = prepared(policy, _Domains).name_of(domain)
    return None if name is None else (name, policy.site.destinations[name])


def concurrency_at(policy: Policy, domain: str) -> Concurrency:
    """Of a destination by MX."""
    found = destination_of(policy, domain)
    return (found[1].concurrency if found else None) or policy.site.relay.concurrency


def concurrency_over(policy: Policy, smart_host: str) -> Concurrency:
    """Of a way over smart hosts, `smart_host` being the first."""
    host = policy.site.smart_hosts.get(smart_host)
    return (host.concurrency if host else None) or policy.site.relay.concurrency


def retry_of(policy: Policy, route: Route | None, forward_path: str, *, by_mx: bool) -> Retry:
    """When to try a recipient again that `route` led."""
    if route is not None and route.retry is not None:
        return route.retry
    found = destination_of(policy, domain_of(forward_path)) if by_mx else None
    return (found[1].retry if found else None) or policy.site.relay.retry


@dataclass(frozen=True, slots=True)
class _Domains:
    """Domain -> its place in the rules and its mapping's name; exact ones, and those that stand for all below."""

    written: Mapping[str, Destination]
    exact: Mapping[str, tuple[int, str]]
    above: Mapping[str, tuple[int, str]]

    def is_of(self, policy: Policy) -> bool:
        return self.written is policy.site.destinations

    @classmethod
    def prepare(cls, policy: Policy) -> Self:
        exact: dict[str, tuple[int, str]] = {}
        above: dict[str, tuple[int, str]] = {}
        for place, (name, destination) in enumerate(policy.site.destinations.items()):
            for pattern in map(str.lower, destination.domain):
                (above if pattern.startswith(".") else exact).setdefault(pattern.removeprefix("."), (place, name))
        return cls(policy.site.destinations, exact, above)

    def name_of(self, domain: str) -> str | None:
        found = [self.exact[domain]] if domain in self.exact else []
        rest = domain
        while rest := rest.partition(".")[2]:
            if rest in self.above:
                found.append(self.above[rest])
        return min(found)[1] if found else None
