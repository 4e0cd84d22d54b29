"""DNS for delivery: dnspython on the event loop, with a cache and one question at a time per name.

Contract
    Answers are values (relay.route.Answer); a name server that does not answer is FAILED, never "nothing".
    Fifty messages for one new domain ask once (dnspython itself has no single-flight).
    Names are absolute: the machine's search list never turns a typo into somebody else's host.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from collections.abc import Sequence
from typing import Any

import dns.asyncresolver
import dns.exception
import dns.name
import dns.nameserver
import dns.resolver

from egressguard.policy.endpoint import parse_endpoint
from egressguard.relay.route import AddressAnswer, Answer, MxAnswer, interleaved

log = logging.getLogger(__name__)

LIFETIME_SECONDS = 15.0
CACHED_NAMES = 20_000
MAX_RECORDS = 100

_Records = tuple[Answer, tuple[Any, ...]]

_NO_SUCH_NAME = (
    dns.resolver.NXDOMAIN,
    dns.name.LabelTooLong,
    dns.name.NameTooLong,
    dns.name.EmptyLabel,
    dns.name.BadEscape,
    dns.name.IDNAException,
    UnicodeError,
)


class Resolver:
    """`endpoints` as in site.resolvers; empty = the system's."""

    def __init__(self, endpoints: Sequence[str] = (), *, lifetime_seconds: float = LIFETIME_SECONDS) -> None:
        self._resolver = _resolver(endpoints)
        self._resolver.lifetime = lifetime_seconds
        self._resolver.timeout = min(5.0, lifetime_seconds / 2)
        self._resolver.cache = dns.resolver.LRUCache(CACHED_NAMES)
        self._asking: dict[tuple[str, str], asyncio.Task[_Records]] = {}

    async def resolve_mx(self, domain: str) -> MxAnswer:
        """The MX records of `domain`, in any order."""
        answer, records = await self._once(domain, "MX")
        return MxAnswer(answer, tuple((r.preference, r.exchange.to_text(omit_final_dot=True)) for r in records))

    async def resolve_addresses(self, host: str) -> AddressAnswer:
        """The addresses of `host`; an address is its own answer, "localhost" is ourselves (RFC 6761 s6.3)."""
        if host.lower() == "localhost":
            return AddressAnswer(Answer.FOUND, ("127.0.0.1", "::1"))
        try:
            return AddressAnswer(Answer.FOUND, (str(ipaddress.ip_address(host)),))
        except ValueError:
            pass
        (said6, six), (said4, four) = await asyncio.gather(self._once(host, "AAAA"), self._once(host, "A"))
        found = interleaved([r.address for r in six], [r.address for r in four])
        if found:
            return AddressAnswer(Answer.FOUND, found)
        order = (Answer.FAILED, Answer.NOTHING, Answer.NO_SUCH_NAME)
        return AddressAnswer(next(answer for answer in order if answer in {said6, said4}))

    async def _once(self, name: str, kind: str) -> _Records:
        """All who ask the same at the same time share one question."""
        key = (name.lower(), kind)
        asking = self._asking.get(key)
        if asking is None:
            asking = self._asking[key] = asyncio.create_task(self._ask(name, kind))
            asking.add_done_callback(lambda _task: self._asking.pop(key, None))
        return await asyncio.shield(asking)

    async def _ask(self, name: str, kind: str) -> _Records:
        try:
            absolute = dns.name.from_text(name)
            answer = await self._resolver.resolve(absolute, kind, search=False, raise_on_no_answer=False)
        except _NO_SUCH_NAME:
            return Answer.NO_SUCH_NAME, ()
        except (dns.exception.DNSException, OSError, EOFError) as wrong:
            log.info("DNS failed", extra={"fields": {"name": name, "type": kind, "why": str(wrong)[:200]}})
            return Answer.FAILED, ()
        records = tuple(answer.rrset or ())[:MAX_RECORDS]
        return (Answer.FOUND if records else Answer.NOTHING), records


def _resolver(endpoints: Sequence[str]) -> dns.asyncresolver.Resolver:
    if endpoints:
        resolver = dns.asyncresolver.Resolver(configure=False)
        pairs = [parse_endpoint(text, 53) for text in endpoints]
        resolver.nameservers = [dns.nameserver.Do53Nameserver(address, port) for address, port in pairs]
        return resolver
    try:
        return dns.asyncresolver.Resolver()
    except dns.resolver.NoResolverConfiguration:
        log.warning("the system has no name servers; set site.resolvers")
        return dns.asyncresolver.Resolver(configure=False)
