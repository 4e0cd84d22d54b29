"""The hosts that take a domain's mail by DNS, as peers to dial: MX, addresses, and ourselves among them noticed.

Contract
    DNS that cannot tell is transient; what relay.route decides from its answers, and relay.mx_tls of TLS, stands.
    A host that is one of our own listeners is never dialled (RFC 5321 s5.1: it would be a loop).
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Callable, Sequence
from typing import Protocol

from egressguard.mail.outcome import Outcome
from egressguard.net.flow import IPAddress
from egressguard.policy.model import Policy
from egressguard.relay.mx_tls import Judge, TlsaLookup
from egressguard.relay.route import (
    AddressAnswer,
    Answer,
    MxAnswer,
    literal_address,
    order_exchanges,
    reachable_hosts,
)
from egressguard.smtp.dial import Peer


class Lookups(TlsaLookup, Protocol):
    """relay.dns.Resolver, as far as it is used here."""

    async def resolve_mx(self, domain: str) -> MxAnswer: ...

    async def resolve_addresses(self, host: str) -> AddressAnswer: ...


async def find_mx_hosts(
    domain: str,
    policy: Policy,
    resolver: Lookups,
    hostname: str,
    chance: Callable[[], float],
    judge: Judge,
    *,
    requiretls: bool = False,
) -> Sequence[Peer] | Outcome:
    """The peers to try, in their order, with what is demanded of their TLS; `hostname` is our own name."""
    port, literal = policy.site.relay.delivery_port, literal_address(domain)
    mx = MxAnswer(Answer.NOTHING) if literal else await resolver.resolve_mx(domain)
    exchanges = order_exchanges(literal or domain, mx, chance, hostname)
    if isinstance(exchanges, Outcome):
        return exchanges
    names = [exchange.host for exchange in exchanges]
    found = await asyncio.gather(*(resolver.resolve_addresses(name) for name in names))
    answers = dict(zip(names, found, strict=True))
    hosts = reachable_hosts(domain, exchanges, answers, lambda text: is_ours(text, port, policy, hostname))
    if isinstance(hosts, Outcome):
        return hosts
    peers = [Peer(host.name, host.addresses, port) for host in hosts]
    certain = mx.secure and policy.site.dnssec
    return await judge.demands(domain, peers, policy, certain=certain, answers=answers, requiretls=requiretls)


def is_ours(text: str, port: int, policy: Policy, hostname: str) -> bool:
    """Whether dialling this host name or address on `port` would reach one of our own listeners."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return text == hostname.lower()
    if address.is_unspecified or address.is_multicast:
        return True  # nobody else's, whatever a zone says
    return port in {listener.port for listener in policy.site.relay.listeners.values()} and _is_here(address)


def _is_here(address: IPAddress) -> bool:
    """An address is this machine's if a socket can be bound to it."""
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((str(address), 0))
    except OSError:
        return False
    return True
