"""The hosts that take a domain's mail by DNS, as peers to dial: MX, addresses, and ourselves among them noticed.

Contract
    DNS that cannot tell is transient; what relay.route decides from its answers stands.
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
from egressguard.relay.route import (
    AddressAnswer,
    Exchange,
    Host,
    MxAnswer,
    literal_address,
    order_exchanges,
    reachable_hosts,
)
from egressguard.smtp.dial import Peer


class Lookups(Protocol):
    """relay.dns.Resolver, as far as it is used here."""

    async def resolve_mx(self, domain: str) -> MxAnswer: ...

    async def resolve_addresses(self, host: str) -> AddressAnswer: ...


async def find_mx_hosts(
    domain: str, policy: Policy, resolver: Lookups, hostname: str, chance: Callable[[], float]
) -> Sequence[Peer] | Outcome:
    """The peers to try, in their order; `hostname` is our own name."""
    port = policy.site.relay.delivery_port
    found = await _mx_hosts(domain, resolver, chance, lambda text: is_ours(text, port, policy, hostname))
    if isinstance(found, Outcome):
        return found
    return [Peer(host.name, host.addresses, port) for host in found]


async def _mx_hosts(
    domain: str, resolver: Lookups, chance: Callable[[], float], is_ours: Callable[[str], bool]
) -> Sequence[Host] | Outcome:
    literal = literal_address(domain)
    exchanges: Sequence[Exchange] | Outcome = (Exchange(0, literal or domain),)
    if literal is None:
        exchanges = order_exchanges(domain, await resolver.resolve_mx(domain), chance)
    if isinstance(exchanges, Outcome):
        return exchanges
    hosts = [exchange.host for exchange in exchanges]
    answers = await asyncio.gather(*(resolver.resolve_addresses(host) for host in hosts))
    return reachable_hosts(domain, exchanges, dict(zip(hosts, answers, strict=True)), is_ours)


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
