"""One attempt at one message: group its recipients by way, try each way's hosts in order, collect outcomes.

Contract
    Returns an outcome for every recipient of the claim; never raises for anything a peer or DNS does.
    The next host is tried only for recipients whose outcome is transient, and only on the same way.
"""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from egressguard.mail.address import domain_of
from egressguard.mail.outcome import Outcome, Result, permanent, transient
from egressguard.policy.model import Policy
from egressguard.policy.routes import choose_route
from egressguard.relay.dns import Resolver
from egressguard.relay.route import Answer, Credentials, NextHop, hops_by_mx
from egressguard.smtp.client import Peer, Transaction, send
from egressguard.store.interface import Claim

LOCAL = "local"

Send = Callable[[Transaction, Peer, str, float], Awaitable[Mapping[str, Outcome]]]


class LocalDelivery(Protocol):
    """The mailbox room: durable when it returns, idempotent per (queue_id, forward_path)."""

    async def deliver(self, queue_id: str, forward_path: str, reverse_path: str, content: bytes) -> Outcome: ...


@dataclass(frozen=True, slots=True)
class Way:
    """`key` is what destinations are counted by: "local", "mx:DOMAIN" or "smart:A,B"."""

    key: str
    transport: str
    forward_paths: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Means:
    """What an attempt needs from outside; `secrets` is the directory of "file:NAME" passwords."""

    resolver: Resolver
    hostname: str
    secrets: Path
    local: LocalDelivery | None
    send: Send = send
    chance: Callable[[], float] = random.random


def ways_of(policy: Policy, claim: Claim) -> list[Way]:
    """Recipients that leave by the same hosts go in one transaction."""
    groups: dict[tuple[str, str], list[str]] = {}
    for path in claim.forward_paths:
        groups.setdefault(_way_key(policy, claim.reverse_path, path), []).append(path)
    return [Way(key, transport, tuple(paths)) for (key, transport), paths in groups.items()]


def _way_key(policy: Policy, reverse_path: str, path: str) -> tuple[str, str]:
    domain = domain_of(path)
    if not domain or domain in {d.lower() for d in policy.site.domains}:
        return LOCAL, LOCAL
    route = choose_route(policy, reverse_path, path)
    if route is None or route.via == ("mx",):
        return f"mx:{domain}", "mx"
    return f"smart:{','.join(route.via)}", route.via[0]


async def attempt(way: Way, claim: Claim, content: bytes, policy: Policy, means: Means) -> Mapping[str, Outcome]:
    """Try one way once."""
    if way.key == LOCAL:
        return await _deliver_locally(way, claim, content, means)
    hops = await _hops(way, policy, means)
    if isinstance(hops, Outcome):
        return dict.fromkeys(way.forward_paths, hops)
    outcomes: dict[str, Outcome] = {}
    waiting = way.forward_paths
    for hop in hops:
        outcomes |= await _try(hop, waiting, claim, content, policy, means)
        waiting = tuple(p for p in waiting if outcomes[p].result is Result.TRANSIENT)
        if not waiting:
            break
    return outcomes


async def _deliver_locally(way: Way, claim: Claim, content: bytes, means: Means) -> Mapping[str, Outcome]:
    local = means.local
    if local is None:
        return dict.fromkeys(way.forward_paths, transient("4.3.5", "local mailboxes are not set up"))
    return {path: await local.deliver(claim.queue_id, path, claim.reverse_path, content) for path in way.forward_paths}


async def _hops(way: Way, policy: Policy, means: Means) -> Sequence[NextHop] | Outcome:
    kind, _, rest = way.key.partition(":")
    if kind == "smart":
        return await asyncio.to_thread(_smart_hosts, rest.split(","), policy, means.secrets)
    mx = await means.resolver.resolve_mx(rest)
    ourselves = {means.hostname.lower(), socket.gethostname().lower()}
    port = policy.site.relay.delivery_port
    return hops_by_mx(rest, mx, port, lambda host: host.rstrip(".").lower() in ourselves, means.chance)


def _smart_hosts(names: Sequence[str], policy: Policy, secrets: Path) -> Sequence[NextHop] | Outcome:
    hops = []
    for name in names:
        host = policy.site.smart_hosts.get(name)
        if host is None:
            return transient("4.3.5", f"smart host {name} is no longer in the rules")
        credentials = None
        if host.auth is not None:
            try:
                password = (secrets / host.auth.secret.removeprefix("file:")).read_text().strip("\r\n")
            except OSError as wrong:
                return transient("4.3.5", f"the password of smart host {name} cannot be read: {wrong.strerror}")
            credentials = Credentials(host.auth.user, password)
        hops.append(NextHop(host.host, host.port, host.tls, name, host.ca_file, credentials))
    return hops


def _no_address(hop: NextHop, paths: tuple[str, ...], answer: Answer) -> Outcome:
    """A domain with neither MX nor address takes no mail; a named host without one is somebody's mistake of today."""
    words = f"no address for {hop.host} ({answer.value})"
    if answer is Answer.FAILED:
        return transient("4.4.3", words)
    return permanent("5.4.4", words) if hop.host == domain_of(paths[0]) else transient("4.4.4", words)


async def _try(
    hop: NextHop, paths: tuple[str, ...], claim: Claim, content: bytes, policy: Policy, means: Means
) -> Mapping[str, Outcome]:
    answer, addresses = await means.resolver.resolve_addresses(hop.host)
    if not addresses:
        return dict.fromkeys(paths, _no_address(hop, paths, answer))
    user = hop.credentials.user if hop.credentials else None
    password = hop.credentials.password if hop.credentials else None
    peer = Peer(hop.host, addresses, hop.port, hop.tls, hop.ca_file, user, password)
    transaction = Transaction(claim.reverse_path, paths, content, claim.smtputf8, claim.body_8bit)
    return await means.send(transaction, peer, means.hostname, policy.site.relay.attempt_timeout_seconds)
