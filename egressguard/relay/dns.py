"""DNS for delivery: dnspython on the event loop, with a cache and one question at a time per name.

Contract
    Answers are values (relay.route.Answer); a name server that does not answer is FAILED, never "nothing".
    Fifty messages for one new domain ask once (dnspython itself has no single-flight).
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import dns.asyncresolver
import dns.exception
import dns.name
import dns.rdatatype
import dns.resolver

from egressguard.policy.crosscheck import parse_endpoint
from egressguard.relay.route import Answer, MxAnswer

LIFETIME_SECONDS = 15
CACHED_NAMES = 20_000
MAX_ADDRESSES = 10

T = TypeVar("T")


class Resolver:
    """`endpoints` as in site.resolvers; empty = the system's."""

    def __init__(self, endpoints: Sequence[str] = ()) -> None:
        self._resolver = dns.asyncresolver.Resolver(configure=not endpoints)
        if endpoints:
            pairs = [parse_endpoint(text, 53) for text in endpoints]
            self._resolver.nameservers = [host for host, _ in pairs]
            self._resolver.nameserver_ports = dict(pairs)
        self._resolver.lifetime = LIFETIME_SECONDS
        self._resolver.cache = dns.resolver.LRUCache(CACHED_NAMES)
        self._asking: dict[tuple[str, str], asyncio.Future[Any]] = {}

    async def resolve_mx(self, domain: str) -> MxAnswer:
        """MX records of `domain`, unsorted."""
        answer, records = await self._once(domain, "MX")
        return MxAnswer(answer, tuple((r.preference, r.exchange.to_text(omit_final_dot=True)) for r in records))

    async def resolve_addresses(self, host: str) -> tuple[Answer, tuple[str, ...]]:
        """IPv6 and IPv4 addresses of `host`, at most MAX_ADDRESSES; an address is its own answer."""
        try:
            return Answer.FOUND, (str(ipaddress.ip_address(host)),)
        except ValueError:
            pass
        (a6, six), (a4, four) = await asyncio.gather(self._once(host, "AAAA"), self._once(host, "A"))
        found = tuple(r.address for r in (*six, *four))[:MAX_ADDRESSES]
        if found:
            return Answer.FOUND, found
        for worst in (Answer.FAILED, Answer.NOTHING):
            if worst in (a6, a4):
                return worst, ()
        return Answer.NO_SUCH_NAME, ()

    async def _once(self, name: str, kind: str) -> tuple[Answer, tuple[Any, ...]]:
        return await self._single_flight((name.lower(), kind), lambda: self._ask(name, kind))

    async def _single_flight(self, key: tuple[str, str], ask: Callable[[], Awaitable[T]]) -> T:
        waiting = self._asking.get(key)
        if waiting is None:
            waiting = asyncio.ensure_future(ask())
            self._asking[key] = waiting
            waiting.add_done_callback(lambda _done: self._asking.pop(key, None))
        result: T = await asyncio.shield(waiting)
        return result

    async def _ask(self, name: str, kind: str) -> tuple[Answer, tuple[Any, ...]]:
        try:
            absolute = dns.name.from_text(name.encode("idna").decode() if not name.isascii() else name)
            answer = await self._resolver.resolve(absolute, kind, search=False)
        except (dns.resolver.NXDOMAIN, dns.name.LabelTooLong, dns.name.EmptyLabel, dns.name.NameTooLong, UnicodeError):
            return Answer.NO_SUCH_NAME, ()
        except dns.resolver.NoAnswer:
            return Answer.NOTHING, ()
        except (dns.exception.DNSException, OSError):
            return Answer.FAILED, ()
        return Answer.FOUND, tuple(answer)
