"""DNS for checks: dnspython on the event loop, with a cache, one question at a time per name, and a bound per check.

Contract
    An answer is a value; a name server that does not answer is `failed`, never "nothing".
    All who ask the same at the same time share one question. Names are absolute: no search list.
    Whoever asks on behalf of a message has a number of questions, and not one more.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import dns.asyncresolver
import dns.exception
import dns.name
import dns.nameserver
import dns.resolver

from egressguard.policy.endpoint import parse_endpoint

log = logging.getLogger(__name__)

LIFETIME_SECONDS = 8.0
CACHED_NAMES = 20_000
MOST_RECORDS = 200
"""More of one type under one name is trouble, not an answer: to use some of them would be to guess."""

_NO_NAME = (dns.name.LabelTooLong, dns.name.NameTooLong, dns.name.EmptyLabel, UnicodeError)


@dataclass(frozen=True, slots=True)
class Records:
    """`values`: A, AAAA: address; MX: (preference, host); PTR: host; TXT: octets, the strings of a record joined.

    Hosts are without their final dot. No values and not `failed`: the name or the type does not exist."""

    values: tuple[Any, ...] = ()
    failed: bool = False


NOTHING, FAILED = Records(), Records(failed=True)


class Resolver:
    """`endpoints` as in site.resolvers; empty = the system's."""

    def __init__(self, endpoints: Sequence[str] = (), *, lifetime_seconds: float = LIFETIME_SECONDS) -> None:
        self._resolver = _resolver(endpoints)
        self._resolver.lifetime = lifetime_seconds
        self._resolver.timeout = min(3.0, lifetime_seconds / 2)
        self._resolver.cache = dns.resolver.LRUCache(CACHED_NAMES)
        self._asking: dict[tuple[str, str], asyncio.Task[Records]] = {}

    async def ask(self, name: str, kind: str) -> Records:
        """The records of type `kind` ("A", "AAAA", "MX", "PTR" or "TXT") under `name`. Never raises."""
        key = (name.lower(), kind)
        asking = self._asking.get(key)
        if asking is None:
            asking = self._asking[key] = asyncio.create_task(self._ask(*key))
            asking.add_done_callback(lambda _task: self._asking.pop(key, None))
        return await asyncio.shield(asking)

    async def _ask(self, name: str, kind: str) -> Records:
        try:
            answer = await self._resolver.resolve(_absolute(name), kind, search=False, raise_on_no_answer=False)
        except (dns.resolver.NXDOMAIN, *_NO_NAME):
            return NOTHING
        except (dns.exception.DNSException, OSError, EOFError) as wrong:
            log.info("DNS failed", extra={"fields": {"name": name[:300], "type": kind, "why": str(wrong)[:200]}})
            return FAILED
        records = tuple(answer.rrset or ())
        return FAILED if len(records) > MOST_RECORDS else Records(tuple(_value(record, kind) for record in records))


class Questions:
    """What one check may ask: at most `most` questions. Beyond that `ask` raises TooManyQuestions."""

    def __init__(self, resolver: Resolver, most: int) -> None:
        self._resolver = resolver
        self._left = most

    async def ask(self, name: str, kind: str) -> Records:
        if self._left <= 0:
            raise TooManyQuestions
        self._left -= 1
        return await self._resolver.ask(name, kind)


class TooManyQuestions(Exception):
    """A check wanted to ask DNS more than it may."""


def _absolute(name: str) -> dns.name.Name:
    """Octet by octet: what others wrote has no escapes and no IDNA forms here."""
    return dns.name.Name([*(label.encode() for label in name.removesuffix(".").split(".")), b""])


def _value(record: Any, kind: str) -> Any:
    if kind == "TXT":
        return b"".join(record.strings)
    if kind == "MX":
        return record.preference, record.exchange.to_text(omit_final_dot=True)
    return record.target.to_text(omit_final_dot=True) if kind == "PTR" else record.address


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
