"""Host names in flow rules -> addresses: resolved in the background, asked without waiting.

Contract
    `addresses_of` answers at once: the known addresses, or None while nothing is known (TCP will ask again).
    An answer is kept for its TTL (MIN_SECONDS to MAX_SECONDS); after that the old one serves while a new one is
    fetched, but no longer than STALE_SECONDS. Nothing to ask (no resolver configured) is not known, never a fault.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address

import dns.asyncresolver
import dns.exception
import dns.resolver

from egressguard.net.flow import IPAddress
from egressguard.policy.endpoint import parse_endpoint

log = logging.getLogger(__name__)

MIN_SECONDS = 30
MAX_SECONDS = 3600
STALE_SECONDS = 3600
LIFETIME_SECONDS = 5
MAX_NAMES = 1000


@dataclass(slots=True)
class _Known:
    addresses: frozenset[IPAddress] | None = None
    fresh_until: float = 0.0
    usable_until: float = 0.0
    asking: asyncio.Task[None] | None = None


class Names:
    """Made per policy; `close()` ends the questions under way."""

    def __init__(self, endpoints: Sequence[str], clock: Callable[[], float] = time.monotonic) -> None:
        self._resolver = _resolver(endpoints)
        self._clock = clock
        self._known: dict[str, _Known] = {}

    def addresses_of(self, name: str) -> frozenset[IPAddress] | None:
        now = self._clock()
        known = self._known.get(name)
        if known is None:
            if len(self._known) >= MAX_NAMES:
                return None
            known = self._known[name] = _Known()
        if now >= known.fresh_until and known.asking is None:
            known.asking = asyncio.get_running_loop().create_task(self._ask(name, known))
        return known.addresses if now < known.usable_until else None

    def close(self) -> None:
        for known in self._known.values():
            if known.asking is not None:
                known.asking.cancel()

    async def _ask(self, name: str, known: _Known) -> None:
        try:
            answers = await asyncio.gather(self._one(name, "A"), self._one(name, "AAAA"))
        except (dns.exception.DNSException, OSError):
            known.fresh_until = self._clock() + 1  # not at once again, but soon: somebody waits
            return
        finally:
            known.asking = None
        now = self._clock()
        known.addresses = frozenset(address for addresses, _ in answers for address in addresses)
        ttl_seconds = min(ttl for _, ttl in answers)
        known.fresh_until = now + min(max(MIN_SECONDS, ttl_seconds), MAX_SECONDS)
        known.usable_until = known.fresh_until + STALE_SECONDS

    async def _one(self, name: str, kind: str) -> tuple[frozenset[IPAddress], float]:
        """Addresses and TTL; a name without such records is an answer, silence is an exception."""
        try:
            answer = await self._resolver.resolve(name, kind, search=False)
        except (dns.resolver.NoAnswer, dns.resolver.NXDOMAIN):
            return frozenset(), MIN_SECONDS
        ttl = answer.rrset.ttl if answer.rrset is not None else MIN_SECONDS
        return frozenset(ip_address(record.address) for record in answer), float(ttl)


def _resolver(endpoints: Sequence[str]) -> dns.asyncresolver.Resolver:
    try:
        resolver = dns.asyncresolver.Resolver(configure=not endpoints)
    except dns.resolver.NoResolverConfiguration as wrong:  # no /etc/resolv.conf: every question stays open
        log.warning("flow rules with host names cannot be decided", extra={"fields": {"why": str(wrong)}})
        resolver = dns.asyncresolver.Resolver(configure=False)
    if endpoints:
        pairs = [parse_endpoint(text, 53) for text in endpoints]
        resolver.nameservers = [host for host, _ in pairs]
        resolver.nameserver_ports = dict(pairs)
    resolver.lifetime = LIFETIME_SECONDS
    return resolver
