"""DNS block lists (RFC 5782): is this client listed?

Contract
    `listed` never raises and takes `deadline_seconds` at most; a list that does not answer lists nobody.
    Only answers in 127.0.0.0/8 count, of those only the codes that a zone is said to give, and never 127.255.255.x:
    that is a list's operator saying that our question was refused. It is logged once for each zone.
    Addresses that mean something only in here (private, loopback, link-local) are never told to anybody.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from egressguard.net.flow import IPAddress, is_of_inside, plain_address
from egressguard.senderauth.resolver import Resolver
from egressguard.senderauth.verdict import plain

log = logging.getLogger(__name__)

DEADLINE_SECONDS = 8.0
MOST_ZONES = 16

_LISTED = ipaddress.IPv4Network("127.0.0.0/8")
_REFUSED = ipaddress.IPv4Network("127.255.255.0/24")


@dataclass(frozen=True, slots=True)
class DnsblZone:
    """`codes` are the answers that count ("127.0.0.2"); empty = all of 127.0.0.0/8. `reasons`: ask for the TXT too."""

    name: str
    codes: frozenset[str] = frozenset()
    reasons: bool = True


@dataclass(frozen=True, slots=True)
class Listing:
    """`codes` in order; `reason` is what the list says to people, "" = nothing."""

    zone: str
    codes: tuple[str, ...]
    reason: str = ""


class BlockLists:
    def __init__(self, resolver: Resolver, *, deadline_seconds: float = DEADLINE_SECONDS) -> None:
        self._resolver = resolver
        self._deadline_seconds = deadline_seconds
        self._complained: set[str] = set()

    async def listed(self, client: IPAddress, zones: Sequence[DnsblZone]) -> tuple[Listing, ...]:
        """Those of the first MOST_ZONES zones that list the client, in their order."""
        address = plain_address(str(client))
        if is_of_inside(address):
            return ()
        found = await asyncio.gather(*(self._ask_in_time(address, zone) for zone in zones[:MOST_ZONES]))
        return tuple(listing for listing in found if listing)

    async def _ask_in_time(self, address: IPAddress, zone: DnsblZone) -> Listing | None:
        try:
            async with asyncio.timeout(self._deadline_seconds):
                return await self._ask(address, zone)
        except TimeoutError:
            return None

    async def _ask(self, address: IPAddress, zone: DnsblZone) -> Listing | None:
        name = query_name(address, zone.name)
        answers = (await self._resolver.ask(name, "A")).values
        if any(ipaddress.IPv4Address(answer) in _REFUSED for answer in answers):
            self._complain(zone.name, answers)
            return None
        codes = tuple(sorted(answer for answer in answers if _counts(answer, zone)))
        if not codes:
            return None
        return Listing(zone.name, codes, await self._reason(name) if zone.reasons else "")

    async def _reason(self, name: str) -> str:
        texts = (await self._resolver.ask(name, "TXT")).values
        return plain(min(texts).decode("utf-8", "replace")) if texts else ""

    def _complain(self, zone: str, answers: Sequence[str]) -> None:
        if zone not in self._complained and len(self._complained) < 1000:
            self._complained.add(zone)
            log.warning("a block list refuses our questions", extra={"fields": {"zone": zone, "answers": answers[:5]}})


def query_name(address: IPAddress, zone: str) -> str:
    """What to ask a zone about an address: octets (s2.1) or nibbles (s2.4) backwards, the zone behind."""
    return f"{address.reverse_pointer.removesuffix('.in-addr.arpa').removesuffix('.ip6.arpa')}.{zone.strip('.')}"


def _counts(answer: str, zone: DnsblZone) -> bool:
    return answer in zone.codes if zone.codes else ipaddress.IPv4Address(answer) in _LISTED
