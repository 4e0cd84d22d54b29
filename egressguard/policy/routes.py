"""Which way a message leaves: as its rule said, to a mailbox here, by the first route that matches, else by MX. Pure.

Contract
    Every message has a way out: a matcher whose fact is not known (no verdict, no client) does not match.
    A staged route is never taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Self

from egressguard.mail.address import domain_of
from egressguard.net.flow import IPAddress
from egressguard.policy.facts import MailFacts
from egressguard.policy.index import prepared
from egressguard.policy.match import RouteMatch
from egressguard.policy.matchers import is_asked
from egressguard.policy.model import Policy, Route
from egressguard.policy.networks import within, zones_of
from egressguard.policy.next_hop import canonical, is_next_hop, parse_next_hop
from egressguard.policy.patterns import domain_matches, path_matches
from egressguard.policy.verdict import Verdict
from egressguard.values import value

LOCAL = "local"
MX = "mx"
UNREADABLE = "(unreadable)"
"""No smart host has this name."""


@value(frozen=True, slots=True)
class RouteFacts:
    """One recipient of a message that was taken. `client` None: nobody's, as a DSN; `verdict` None: not known."""

    reverse_path: str
    forward_path: str
    tags: tuple[str, ...] = ()
    client: IPAddress | None = None
    listener: str = ""
    user: str | None = None
    size_octets: int = 0
    verdict: Verdict | None = None

    @classmethod
    def of(cls, facts: MailFacts, tags: tuple[str, ...]) -> Self:
        """Those of a message that is being judged, with the tags that it gets."""
        verdict = facts.scan.verdict if facts.scan else None
        size = facts.size_octets or 0
        return cls(
            facts.reverse_path, facts.forward_path, tags, facts.client, facts.listener, facts.user, size, verdict
        )


@value(frozen=True, slots=True)
class WayOut:
    """`via` is (LOCAL,), (MX,) with the `domain` whose hosts take it, or what is tried in this order: names of smart
    hosts or next hops. `route` is the route that said so ("" = none did), `written` how a rule writes it."""

    via: tuple[str, ...]
    domain: str = ""
    route: str = ""
    written: tuple[str, ...] = (MX,)


def way_out(policy: Policy, facts: RouteFacts, via: tuple[str, ...] = ()) -> WayOut:
    """`via` is what the message rule said; () = nothing."""
    route = ""
    if not via and is_local(policy, facts.forward_path):
        return _INTO_MAILBOXES
    if not via and (chosen := choose_route(policy, facts)) is not None:
        via, route = chosen.via, chosen.name
    if not via or via[0] == MX:
        return WayOut((MX,), domain_of(facts.forward_path), route)
    return _over(via, route)


@lru_cache(1000)
def _over(via: tuple[str, ...], route: str) -> WayOut:
    """By what is named there, whoever it is for."""
    try:
        via = tuple(map(canonical, via))
    except ValueError:  # it was written down by another release: mail waits for somebody who knows
        return WayOut((UNREADABLE,), "", route, via)
    if is_next_hop(via[0]) and (hop := parse_next_hop(via[0])).transport == "mx":
        return WayOut((MX,), hop.host, route, via)
    return WayOut(via, "", route, via)


def unrouted(policy: Policy, forward_path: str) -> WayOut:
    """The way out where no rule and no route says one."""
    if is_local(policy, forward_path):
        return _INTO_MAILBOXES
    return WayOut((MX,), domain_of(forward_path))


_INTO_MAILBOXES = WayOut((LOCAL,), written=(LOCAL,))


def choose_route(policy: Policy, facts: RouteFacts) -> Route | None:
    """The route of one recipient, or None for delivery by MX look-up."""
    for route, asked in prepared(policy, _Asked).of_routes:
        if all(holds(policy, wanted, facts) for holds, wanted in asked):
            return route
    return None


@dataclass(frozen=True, slots=True)
class _Asked:
    """Of each route that is in force what it asks, for most ask little of what they could."""

    routes: tuple[Route, ...]
    of_routes: tuple[tuple[Route, tuple[tuple[Matcher, Any], ...]], ...]

    def is_of(self, policy: Policy) -> bool:
        return self.routes is policy.routes

    @classmethod
    def prepare(cls, policy: Policy) -> Self:
        in_force = [route for route in policy.routes if not route.staged]
        return cls(policy.routes, tuple((route, tuple(_asked(route.match))) for route in in_force))


def _asked(match: RouteMatch) -> Iterator[tuple[Matcher, Any]]:
    for key, holds in MATCHERS.items():
        if is_asked(wanted := getattr(match, key)):
            yield holds, wanted


def mismatch(policy: Policy, match: RouteMatch, facts: RouteFacts) -> str | None:
    """The first key that does not match, in the schema's order; None: all do."""
    for key, holds in MATCHERS.items():
        if is_asked(wanted := getattr(match, key)) and not holds(policy, wanted, facts):
            return key
    return None


def _is_client(policy: Policy, wanted: tuple[str, ...], client: IPAddress | None) -> bool:
    if client is None:
        return False
    if not zones_of(policy, client, "", frozenset()).isdisjoint(wanted):
        return True
    others = tuple(text for text in wanted if text not in policy.site.zones)
    return bool(others) and within(policy, client, others)


Matcher = Callable[[Policy, Any, RouteFacts], bool]

MATCHERS: dict[str, Matcher] = {
    "client": lambda policy, wanted, facts: _is_client(policy, wanted, facts.client),
    "listener": lambda _policy, wanted, facts: facts.listener in wanted,
    "user": lambda _policy, wanted, facts: facts.user is not None and facts.user in wanted,
    "sender": lambda _policy, wanted, facts: path_matches(wanted, facts.reverse_path),
    "sender_domain": lambda policy, wanted, facts: domain_matches(wanted, facts.reverse_path, policy.site.domains),
    "recipient": lambda _policy, wanted, facts: path_matches(wanted, facts.forward_path),
    "recipient_domain": lambda policy, wanted, facts: domain_matches(wanted, facts.forward_path, policy.site.domains),
    "larger_than_octets": lambda _policy, wanted, facts: facts.size_octets > wanted,
    "smaller_than_octets": lambda _policy, wanted, facts: facts.size_octets < wanted,
    "verdict": lambda _policy, wanted, facts: facts.verdict in wanted,
    "tag": lambda _policy, wanted, facts: not set(wanted).isdisjoint(facts.tags),
}
"""Every key of RouteMatch, in its order."""


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
