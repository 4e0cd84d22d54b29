"""One attempt at one way out: find the hosts, try them in order, collect an outcome for every recipient.

Contract
    Never raises for anything a peer or DNS does.
    The next host is tried only while no host has taken part in a transaction: what one of them said, stands.
    (One that has not what the message needs does not count: relay.unfit_hosts.)
    Trouble of our own (a smart host that DNS does not know, a password that cannot be read) is transient.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from egressguard.mail.outcome import Outcome, transient
from egressguard.net.flow import plain_address
from egressguard.policy.model import Policy
from egressguard.policy.next_hop import is_next_hop, parse_next_hop
from egressguard.policy.relaying import AddressFamily
from egressguard.policy.routes import LOCAL, MX, RouteFacts, unrouted, way_out
from egressguard.policy.verdict import Verdict
from egressguard.relay.mta_sts import MtaSts
from egressguard.relay.mx_hosts import Lookups, find_mx_hosts
from egressguard.relay.mx_tls import Judge, Told
from egressguard.relay.next_hosts import find_next_hosts
from egressguard.relay.pipe import Pipes
from egressguard.relay.route import of_family
from egressguard.relay.smart_hosts import find_smart_hosts
from egressguard.relay.unfit_hosts import summed_up, wants_another_host
from egressguard.smtp.client import Patience, Peer, Send, Sent, SmtpClient, Transaction
from egressguard.store.content import Content
from egressguard.store.interface import Claim, Due, NewMessage
from egressguard.values import value

__all__ = ["LOCAL", "MX", "LocalDelivery", "Means", "Way", "attempt", "facts_of", "ways_of"]


class LocalDelivery(Protocol):
    """The mailbox room: durable when it returns, idempotent per message and recipient. Never raises."""

    async def deliver(self, policy: Policy, claim: Claim, due: Due, content: Content) -> Outcome: ...


@value(frozen=True, slots=True)
class Way:
    """Recipients of one message that leave by the same hosts: they share a transaction.

    `via` is LOCAL, MX, or the smart hosts' names or the next hops in order; `domain` counts for MX only.
    """

    via: tuple[str, ...]
    domain: str
    forward_paths: tuple[str, ...]
    key: str = field(init=False, repr=False, compare=False)
    """What destinations are told apart by."""
    transport: str = field(init=False, repr=False, compare=False)
    """For metrics and the journal: local, mx, a smart host's name, or a next hop's protocol."""

    def __post_init__(self) -> None:  # both are asked for a dozen times on the way of one message
        first = self.via[0]
        key = f"{MX}:{self.domain}" if self.via == (MX,) else ",".join(self.via)
        object.__setattr__(self, "key", key)
        object.__setattr__(self, "transport", parse_next_hop(first).transport if is_next_hop(first) else first)


FinishNotice = Callable[[Policy, NewMessage], Awaitable[NewMessage]]


async def _unchanged(_policy: Policy, notice: NewMessage) -> NewMessage:
    return notice


@dataclass(frozen=True, slots=True)
class Means:
    """What attempts need from outside. `secrets` is the directory below which "file:NAME" passwords lie.

    `notice` makes of a notice what is stored: signed, back to who it is for. It never fails."""

    resolver: Lookups
    hostname: str
    secrets: Path
    local: LocalDelivery | None = None
    pipes: Pipes = field(default_factory=Pipes)
    send: Send = field(default_factory=lambda: SmtpClient().send)
    chance: Callable[[], float] = random.random
    notice: FinishNotice = _unchanged
    sts: MtaSts | None = None
    told: Told = lambda _peer, _trouble: None

    @property
    def judge(self) -> Judge:
        return Judge(self.resolver, self.sts, self.told)


def ways_of(policy: Policy, claim: Claim) -> list[Way]:
    """Group the claimed recipients by the way they leave."""
    groups: dict[tuple[tuple[str, ...], str], list[str]] = {}
    for due in claim.recipients:
        if policy.routes or due.via:
            way = way_out(policy, facts_of(claim, due), due.via)
        else:  # nobody asks for facts where there is nothing to choose: most mail
            way = unrouted(policy, due.forward_path)
        groups.setdefault((way.via, way.domain), []).append(due.forward_path)
    return [Way(via, domain, tuple(paths)) for (via, domain), paths in groups.items()]


def facts_of(claim: Claim, due: Due) -> RouteFacts:
    """What routes look at, of one claimed recipient."""
    return RouteFacts(
        claim.reverse_path,
        due.forward_path,
        claim.tags,
        plain_address(claim.client) if claim.client else None,
        claim.listener,
        claim.user,
        claim.size_octets,
        Verdict(claim.verdict) if claim.verdict else None,
    )


async def attempt(
    way: Way, claim: Claim, content: Content, policy: Policy, means: Means, send: Send | None = None
) -> Sent:
    """Try one way once; `send` in the place of that of `means`."""
    if way.via == (LOCAL,):
        return Sent(await _deliver_locally(way, claim, content, policy, means), begun=True)
    if way.transport == "pipe":
        return Sent(await means.pipes.deliver(way.via[0], way.forward_paths, claim, content, policy), begun=True)
    found = await _find_peers(way, policy, means, requiretls=claim.requiretls)
    if isinstance(found, Outcome):
        return Sent(dict.fromkeys(way.forward_paths, found), begun=True)
    patience = Patience.of(policy.site.relay.attempt_timeout_seconds)
    transaction = Transaction(
        claim.reverse_path,
        way.forward_paths,
        content,
        claim.smtputf8,
        claim.body_8bit,
        claim.binary,
        claim.requiretls,
        claim.ret,
        claim.envid,
        {due.forward_path: due.options for due in claim.recipients},
    )
    by_rule = way.via != (MX,)
    return await _try_in_order(transaction, found, means.hostname, patience, send or means.send, by_rule=by_rule)


async def _try_in_order(
    transaction: Transaction, peers: Sequence[Peer], hostname: str, patience: Patience, send: Send, *, by_rule: bool
) -> Sent:
    tried: list[Sent] = []
    for peer in peers:
        sent = await send(transaction, peer, hostname, patience)
        if tried and (before := tried[-1].dialogues):
            sent = replace(sent, dialogues=before + sent.dialogues)
        if not wants_another_host(sent):
            return sent
        tried.append(sent)
    if not tried:
        return Sent(dict.fromkeys(transaction.forward_paths, transient("4.4.1", "no host to try")), begun=False)
    return summed_up(tried, requiretls=transaction.requiretls, by_rule=by_rule)


async def _deliver_locally(
    way: Way, claim: Claim, content: Content, policy: Policy, means: Means
) -> Mapping[str, Outcome]:
    local = means.local
    if local is None:
        return dict.fromkeys(way.forward_paths, transient("4.3.5", "there are no local mailboxes here"))
    tried = [due for due in claim.recipients if due.forward_path in way.forward_paths]
    return {due.forward_path: await local.deliver(policy, claim, due, content) for due in tried}


async def _find_peers(way: Way, policy: Policy, means: Means, *, requiretls: bool) -> Sequence[Peer] | Outcome:
    found: Sequence[Peer] | Outcome
    if way.via == (MX,):
        found = await find_mx_hosts(
            way.domain, policy, means.resolver, means.hostname, means.chance, means.judge, requiretls=requiretls
        )
    elif is_next_hop(way.via[0]):
        found = await find_next_hosts(
            way.via, policy, means.resolver, means.hostname, means.judge, requiretls=requiretls
        )
    else:
        found = await find_smart_hosts(way.via, policy, means.resolver, means.secrets, means.judge)
    family = policy.site.relay.address_family
    return found if isinstance(found, Outcome) or family == "ipv6-first" else _of_family(found, family)


def _of_family(peers: Sequence[Peer], family: AddressFamily) -> Sequence[Peer] | Outcome:
    chosen = [dataclasses.replace(peer, addresses=of_family(peer.addresses, family)) for peer in peers]
    words = f"no host to try has an address that the rules let us dial ({family})"
    return [peer for peer in chosen if peer.addresses] or transient("4.4.4", words)
