"""DNS for delivery: dnspython on the event loop, with a cache and one question at a time per name.

Contract
    Answers are values (relay.route.Answer); a name server that does not answer is FAILED, never "nothing".
    Fifty messages for one new domain ask once (dnspython itself has no single-flight).
    Names are absolute: the machine's search list never turns a typo into somebody else's host.
    DNSSEC is the name servers' work: `secure` is what they say (AD), believed only if all of them are on this machine.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import dns.asyncresolver
import dns.exception
import dns.flags
import dns.name
import dns.nameserver
import dns.rdtypes.tlsabase
import dns.resolver

from egressguard.policy.endpoint import is_loopback, parse_endpoint
from egressguard.relay.route import AddressAnswer, Answer, MxAnswer, interleaved
from egressguard.smtp.dane import Tlsa

log = logging.getLogger(__name__)

LIFETIME_SECONDS = 15.0
CACHED_NAMES = 20_000
MAX_RECORDS = 100

# dnspython refuses a whole answer when one digest in it has another length than its matching type says. Such a record
# cannot be used (smtp.dane); the others count (RFC 7672 s3.1).
dns.rdtypes.tlsabase.TLSABase._cert_length_by_mtype = {}


@dataclass(frozen=True, slots=True)
class Records:
    """`values` are dnspython's; `name` is where they were found, at the end of all aliases."""

    answer: Answer
    values: tuple[Any, ...] = ()
    secure: bool = False
    name: str = ""


@dataclass(frozen=True, slots=True)
class TlsaAnswer:
    """`records` of an answer that is not secure are left out: they prove nothing (RFC 7672 s2.1.1)."""

    answer: Answer
    records: tuple[Tlsa, ...] = ()


@dataclass(frozen=True, slots=True)
class TextAnswer:
    """`texts`: the strings of each TXT record, joined."""

    answer: Answer
    texts: tuple[bytes, ...] = ()


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
    """`endpoints` as in site.resolvers; empty = the system's. `is_trusted`: what they say of DNSSEC is believed."""

    def __init__(self, endpoints: Sequence[str] = (), *, lifetime_seconds: float = LIFETIME_SECONDS) -> None:
        self._resolver = _resolver(endpoints)
        self._resolver.lifetime = lifetime_seconds
        self._resolver.timeout = min(5.0, lifetime_seconds / 2)
        self._resolver.cache = dns.resolver.LRUCache(CACHED_NAMES)
        self._resolver.flags = dns.flags.RD | dns.flags.AD  # RFC 6840 s5.7: AD is welcome in the answer
        self.is_trusted = all(is_loopback(server) for server in _addresses(self._resolver))
        self._asking: dict[tuple[str, str], asyncio.Task[Records]] = {}

    async def resolve_mx(self, domain: str) -> MxAnswer:
        """The MX records of `domain`, in any order."""
        found = await self._once(domain, "MX")
        hosts = tuple((r.preference, r.exchange.to_text(omit_final_dot=True)) for r in found.values)
        return MxAnswer(found.answer, hosts, found.secure)

    async def resolve_addresses(self, host: str) -> AddressAnswer:
        """The addresses of `host`; an address is its own answer, "localhost" is ourselves (RFC 6761 s6.3)."""
        if (known := _without_asking(host)) is not None:
            return known
        both = six, four = await asyncio.gather(self._once(host, "AAAA"), self._once(host, "A"))
        found = interleaved([r.address for r in six.values], [r.address for r in four.values])
        if not found:
            order = (Answer.FAILED, Answer.NOTHING, Answer.NO_SUCH_NAME)
            return AddressAnswer(next(answer for answer in order if answer in {each.answer for each in both}))
        secure = all(each.secure for each in both if each.values)
        names = {each.name for each in both if each.values and each.name != _plain(host)}
        return AddressAnswer(Answer.FOUND, found, secure, names.pop() if len(names) == 1 else "")

    async def resolve_tlsa(self, host: str, port: int) -> TlsaAnswer:
        """The TLSA records of an SMTP service (RFC 7672 s2.2)."""
        found = await self._once(f"_{port}._tcp.{host}", "TLSA")
        if found.answer is Answer.FOUND and not found.secure:
            return TlsaAnswer(Answer.NOTHING)
        return TlsaAnswer(found.answer, tuple(Tlsa(r.usage, r.selector, r.mtype, r.cert) for r in found.values))

    async def is_secure_alias(self, host: str) -> bool:
        """Whether it is certain that `host` is an alias, whatever is known of what it is an alias of."""
        found = await self._once(host, "CNAME")
        return found.answer is Answer.FOUND and found.secure

    async def resolve_text(self, name: str) -> TextAnswer:
        """The TXT records under `name`."""
        found = await self._once(name, "TXT")
        return TextAnswer(found.answer, tuple(b"".join(r.strings) for r in found.values))

    async def _once(self, name: str, kind: str) -> Records:
        """All who ask the same at the same time share one question."""
        key = (name.lower(), kind)
        asking = self._asking.get(key)
        if asking is None:
            asking = self._asking[key] = asyncio.create_task(self._ask(name, kind))
            asking.add_done_callback(lambda _task: self._asking.pop(key, None))
        return await asyncio.shield(asking)

    async def _ask(self, name: str, kind: str) -> Records:
        try:
            absolute = dns.name.from_text(name)
            answer = await self._resolver.resolve(absolute, kind, search=False, raise_on_no_answer=False)
        except _NO_SUCH_NAME:
            return Records(Answer.NO_SUCH_NAME)
        except (dns.exception.DNSException, OSError, EOFError) as wrong:
            log.info("DNS failed", extra={"fields": {"name": name, "type": kind, "why": str(wrong)[:200]}})
            return Records(Answer.FAILED)
        values = tuple(answer.rrset or ())[:MAX_RECORDS]
        secure = self.is_trusted and bool(answer.response.flags & dns.flags.AD)
        name = answer.canonical_name.to_text(omit_final_dot=True).lower()
        return Records(Answer.FOUND if values else Answer.NOTHING, values, secure, name)


@lru_cache(1000)
def _without_asking(host: str) -> AddressAnswer | None:
    if host.lower() == "localhost":
        return AddressAnswer(Answer.FOUND, ("127.0.0.1", "::1"))
    try:
        return AddressAnswer(Answer.FOUND, (str(ipaddress.ip_address(host)),))
    except ValueError:
        return None


def _plain(name: str) -> str:
    return name.rstrip(".").lower()


def _addresses(resolver: dns.asyncresolver.Resolver) -> list[str]:
    return [server if isinstance(server, str) else server.answer_nameserver() for server in resolver.nameservers]


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
