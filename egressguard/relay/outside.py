"""Mail from the world: who gave it to us, who lists that host, and does the sender stand by it?

Contract
    A client is of the world when it did not log in, was not redirected, and is in none of the site's zones.
    What a relay service hands on (relay.relay_services) is judged by who gave it to the service, as the service's own
    Received fields say; nobody else's are believed.
    Nothing here raises for what DNS or a message does: what nobody knows is "temperror", and on no list.
"""

from __future__ import annotations

import asyncio
from dataclasses import asdict, dataclass, replace

from prometheus_client import CollectorRegistry, Counter

from egressguard.mail.envelope import NO_OPTIONS, Envelope
from egressguard.mail.header import find_fields
from egressguard.mail.trace import received_from
from egressguard.net.flow import IPAddress, is_of_inside
from egressguard.policy.facts import Authentication
from egressguard.policy.mail import asks_for_block_lists
from egressguard.policy.model import Policy
from egressguard.policy.networks import zones_of
from egressguard.relay.facts import SenderFacts
from egressguard.relay.mapped import octets_of
from egressguard.senderauth.blocklists import BlockLists, DnsblZone
from egressguard.senderauth.check import Checker
from egressguard.senderauth.message import Octets
from egressguard.senderauth.resolver import Resolver
from egressguard.senderauth.results_field import authentication_results, forged_results
from egressguard.senderauth.verdict import SenderAuthentication
from egressguard.smtp.hooks import SessionFacts
from egressguard.store.content import Content

SERVICE_HOPS = 10
"""So many hops a relay service may have inside."""

_HIDDEN = b"X-Forged-Authen-Result"
"""As long as the name it takes the place of: a message need not be copied."""


@dataclass(frozen=True, slots=True)
class Source:
    """Who gave the mail to us, or to the relay service; `client` None: the service does not say."""

    client: IPAddress | None
    helo: str


@dataclass(frozen=True, slots=True)
class Checked:
    """`field`: Authentication-Results, with its CRLF; `forged`: where in the content names stand that claim to be ours.

    `vouched`: the reverse-path may be told of a failure; nobody else would have asked for it (no backscatter)."""

    facts: SenderFacts
    field: bytes
    forged: tuple[int, ...]
    vouched: bool

    async def as_taken(self, content: Content, envelope: Envelope) -> tuple[Content, Envelope]:
        """Without results in our name (RFC 8601 s5), and nobody to tell who did not send it. Raises OSError."""
        if self.forged:
            content = await asyncio.to_thread(content.overwritten, self.forged, _HIDDEN)
        if not self.vouched:
            options = {path: envelope.recipients.get(path, NO_OPTIONS) for path in envelope.forward_paths}
            silent = {path: replace(each, notify=("NEVER",)) for path, each in options.items()}
            envelope = replace(envelope, recipients=silent)
        return content, envelope

    @property
    def arc(self) -> str:
        """What the check of the ARC chain came to."""
        return self.facts.authentication.arc if self.facts.authentication else "temperror"

    @property
    def told(self) -> dict[str, object]:
        """For the journal."""
        facts = self.facts
        fields: dict[str, object] = {"authentication": asdict(facts.authentication)} if facts.authentication else {}
        return fields | ({"block_lists": sorted(facts.listed)} if facts.listed else {})


def is_of_the_world(policy: Policy, session: SessionFacts) -> bool:
    if session.kind != "smtp" or session.user is not None or session.redirected:
        return False
    return not zones_of(policy, session.client, "", frozenset()) and not session.client.is_loopback


class Outside:
    """`close` ends its threads."""

    def __init__(self, resolver: Resolver, registry: CollectorRegistry) -> None:
        self._listed = Counter(
            "egressguard_blocklist_hits_total",
            "Questions about clients of the world that a block list (site.block_lists) answered with yes.",
            ["list"],
            registry=registry,
        )
        self._lists = BlockLists(resolver)
        self._checker = Checker(resolver, registry=registry)

    def close(self) -> None:
        self._checker.close()

    async def at_rcpt(self, policy: Policy, session: SessionFacts) -> SenderFacts:
        """What is known before the content: whether the client is listed, unless it speaks for others."""
        if _is_service(policy, session.client):
            return SenderFacts(authentication=None, listed=None)
        return SenderFacts(authentication=None, listed=await self._ask_lists(policy, session.client))

    async def check(
        self,
        policy: Policy,
        session: SessionFacts,
        envelope: Envelope,
        content: Content,
        section: bytes,
        hostname: str,
    ) -> Checked:
        """`hostname` is our authserv-id. `content` is as it came: nothing of ours is in front of it."""
        source = source_of(policy, session, section)
        try:
            octets: Octets | None = octets_of(content)
        except OSError:
            octets = None
        listed, result = await asyncio.gather(
            self._ask_lists(policy, source.client),
            self._checker.check(source.client, source.helo, envelope.reverse_path, octets, section),
        )
        return Checked(
            facts=SenderFacts(_words(result), listed),
            field=authentication_results(hostname, result),
            forged=forged_results(section, hostname),
            vouched="pass" in {result.spf.result, result.dmarc.result},
        )

    async def _ask_lists(self, policy: Policy, client: IPAddress | None) -> frozenset[str]:
        if client is None or not asks_for_block_lists(policy):
            return frozenset()
        zones = {
            name: DnsblZone(each.zone, frozenset(each.answers), reasons=False)
            for name, each in policy.site.block_lists.items()
        }
        found = {listing.zone for listing in await self._lists.listed(client, tuple(zones.values()))}
        names = frozenset(name for name, zone in zones.items() if zone.name in found)
        for name in names:
            self._listed.labels(name).inc()
        return names


def source_of(policy: Policy, session: SessionFacts, section: bytes) -> Source:
    """Down the Received fields, as long as they are a relay service's."""
    client, helo = session.client, session.helo
    if not _is_service(policy, client):
        return Source(client, helo)
    for value in find_fields(section, "Received", limit=SERVICE_HOPS):
        found = received_from(value)
        if found is None:
            break
        helo, client = found
        if not _is_service(policy, client) and not is_of_inside(client):
            return Source(client, helo)
    return Source(None, "")


def _is_service(policy: Policy, client: IPAddress) -> bool:
    return any(client in network for network in policy.site.relay.relay_services if network.version == client.version)


def _words(result: SenderAuthentication) -> Authentication:
    summary = result.summary
    return Authentication(summary.spf, summary.dkim, summary.dmarc, result.arc.result, result.disposition)
