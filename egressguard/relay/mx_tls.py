"""The mail hosts of a domain with the demands on their TLS: asks DNS and MTA-STS as far as the rules make it matter.

Contract
    Where nothing can demand anything (no `tls` rule, no DANE, no MTA-STS) nothing is asked, the hosts stay as they are.
    TLSA records are asked for only where DNSSEC vouches for the MX records and for the host's addresses: the name
    servers of others get no chance to break what they do not know (RFC 7672 s2.1.3).
    A host that cannot be dialled is left out; when it is all of them the outcome is transient if it is so for one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import dns.exception
import dns.name

from egressguard.mail.outcome import Outcome, Result
from egressguard.policy.model import Policy, TlsRule
from egressguard.policy.tls import DANE_ONLY, LOOKS_FOR_DANE, choose_tls
from egressguard.relay.dns import TlsaAnswer
from egressguard.relay.mta_sts import MtaSts, Sts
from egressguard.relay.route import AddressAnswer, Answer
from egressguard.relay.tls_demands import Known, Refused, demand
from egressguard.smtp.dial import Peer
from egressguard.values import value

Told = Callable[[Peer, str], None]
"""Hears of each host that is not dialled, and why in the words of RFC 8460."""


class TlsaLookup(Protocol):
    async def resolve_tlsa(self, host: str, port: int) -> TlsaAnswer: ...

    async def is_secure_alias(self, host: str) -> bool: ...


@value(frozen=True, slots=True)
class Judge:
    """What demands are made with. `sts` None: MTA-STS is nobody's business here."""

    lookups: TlsaLookup
    sts: MtaSts | None = None
    told: Told = lambda _peer, _trouble: None

    async def demands(
        self,
        domain: str,
        hosts: Sequence[Peer],
        policy: Policy,
        *,
        certain: bool,
        answers: Mapping[str, AddressAnswer],
        requiretls: bool,
    ) -> Sequence[Peer] | Outcome:
        """`hosts` that can be dialled, as TLS is demanded of them; else the outcome. `answers` by the hosts' names.

        `certain`: DNSSEC or a rule says that they are the domain's; `domain` "" = they are next hops of a rule."""
        if not (requiretls or _matters(policy)):
            return hosts
        domain = _in_ascii(domain)
        rules = {host.name: choose_tls(policy, domain, host.name) for host in hosts}
        sts = await self._sts(domain, policy, rules.values(), requiretls=requiretls)

        async def judged(host: Peer) -> Peer | Refused:
            rule, answer = rules[host.name], answers.get(host.name, AddressAnswer(Answer.NOTHING))
            asks = certain and policy.site.dnssec and rule.level in LOOKS_FOR_DANE
            tlsa, base = await self._tlsa(host, answer) if asks else (TlsaAnswer(Answer.NOTHING), "")
            ca_file = policy.site.relay.mta_sts_ca_file
            known = Known(domain or host.name, certain, tlsa.answer, tlsa.records, base, sts.policy, sts.fault, ca_file)
            found = demand(host, rule, known, requiretls=requiretls)
            return found if domain else _nobodys(found)

        return self._kept(await asyncio.gather(*(judged(host) for host in hosts)))

    async def by_tlsa(self, host: Peer, answer: AddressAnswer) -> Peer | Outcome:
        """A smart host that has to match TLSA records."""
        tlsa, base = await self._tlsa(host, answer)
        known = Known(host.name, certain=True, tlsa=tlsa.answer, records=tlsa.records, base=base)
        found = self._kept([_nobodys(demand(host, DANE_ONLY, known, requiretls=False))])
        return found if isinstance(found, Outcome) else found[0]

    def _kept(self, judged: Sequence[Peer | Refused]) -> Sequence[Peer] | Outcome:
        refused = [each for each in judged if isinstance(each, Refused)]
        for each in refused:
            self.told(each.peer, each.trouble)
        if len(refused) < len(judged):
            return [each for each in judged if isinstance(each, Peer)]
        outcomes = [each.outcome for each in refused]
        return next((outcome for outcome in outcomes if outcome.result is Result.TRANSIENT), outcomes[0])

    async def _sts(self, domain: str, policy: Policy, rules: Iterable[TlsRule], *, requiretls: bool) -> Sts:
        wanted = requiretls or any(rule.level == "published" for rule in rules)
        if self.sts is None or not wanted or not _asks_for_sts(policy) or not _is_name(domain):
            return Sts()
        return await self.sts.policy_for(domain, policy.site.relay.mta_sts_ca_file)

    async def _tlsa(self, host: Peer, answer: AddressAnswer) -> tuple[TlsaAnswer, str]:
        """The TLSA records of the host, and the name that has them."""
        for base in await self._bases(host.name, answer):
            tlsa = await self.lookups.resolve_tlsa(base, host.port)
            if tlsa.records or tlsa.answer is Answer.FAILED:
                return tlsa, base
        return TlsaAnswer(Answer.NOTHING), ""

    async def _bases(self, name: str, answer: AddressAnswer) -> Sequence[str]:
        """RFC 7672 s2.2.3, RFC 7671 s7: what the host is an alias of comes first, then its own name."""
        if answer.secure:
            return (answer.alias_of, name) if answer.alias_of else (name,)
        return (name,) if answer.alias_of and await self.lookups.is_secure_alias(name) else ()


def _nobodys(found: Peer | Refused) -> Peer | Refused:
    """A host that a rule names: no domain is to be told of it."""
    peer = found if isinstance(found, Peer) else found.peer
    peer = replace(peer, terms=replace(peer.terms, domain="") if peer.terms else None)
    return peer if isinstance(found, Peer) else replace(found, peer=peer)


def _matters(policy: Policy) -> bool:
    """Whether anything can be demanded, or is to be told."""
    site = policy.site
    return bool(policy.tls) or site.dnssec or site.relay.mta_sts or site.relay.tlsrpt_socket is not None


def _asks_for_sts(policy: Policy) -> bool:
    return policy.site.relay.mta_sts


def _is_name(domain: str) -> bool:
    return bool(domain) and not domain.startswith("[")


def _in_ascii(domain: str) -> str:
    """As certificates, policies and other people's name servers have it."""
    if domain.isascii():
        return domain.lower()
    try:
        return dns.name.from_text(domain).to_text(omit_final_dot=True).lower()
    except (dns.exception.DNSException, UnicodeError):
        return domain
