"""What must still work after a policy was applied; what does not vetoes it.

Contract
    A probe asks only what the site's `apply` section names, in bounded time, and says in words what failed.
    DNS vetoes only where it answered before: a site without the Internet is not locked out of its own changes.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import dns.asyncresolver
import dns.exception
import dns.resolver

from egressguard.net.flow import Flow
from egressguard.observe.clock import local_moment
from egressguard.policy.decision import FlowAction
from egressguard.policy.endpoint import parse_endpoint
from egressguard.policy.flows import Surroundings, decide_flow
from egressguard.policy.model import Policy

RELAY_SECONDS = 5.0
DNS_SECONDS = 3.0
_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 -- compared with, not bound to


def management_faults(policy: Policy, inside: frozenset[str], now: float) -> Iterator[str]:
    """The flows of administrators that this policy would not let through. Asked before anything is loaded."""
    around = Surroundings(inside, moment=lambda: local_moment(now))
    for wanted in policy.site.apply.management:
        flow = Flow(wanted.source, wanted.destination, wanted.port, wanted.interface)
        decision = decide_flow(policy, flow, around)
        if decision.action is not FlowAction.ALLOW:
            words = "cannot be decided" if decision.action is None else f"meets {decision.action.value}"
            yield (
                f"the management flow {wanted.source} -> {wanted.destination} port {wanted.port} {words}, by rule "
                + (f"'{decision.rule}'" if decision.rule else "none")
            )


async def relay_fault(policy: Policy, listening: Path) -> str:
    """Why a listener of the relay does not greet; "" when all do. `listening` is where the supervisor wrote them down.

    Where systemd holds the sockets, they are where the rules say."""
    try:
        places = json.loads(listening.read_text())
    except (OSError, ValueError):
        listeners = policy.site.relay.listeners.items()
        places = {name: [[str(address), one.port] for address in one.addresses] for name, one in listeners}
    for name, listener in policy.site.relay.listeners.items():
        for address, port in places.get(name, ()):
            if fault := await _no_greeting(
                _WILDCARDS.get(address, address), port, talks=listener.kind != "submissions"
            ):
                return f"listener {name} ({address} port {port}) does not answer: {fault}"
    return ""


async def _no_greeting(address: str, port: int, *, talks: bool) -> str:
    try:
        async with asyncio.timeout(RELAY_SECONDS):
            reader, writer = await asyncio.open_connection(address, port)
            try:
                greeting = await reader.readline() if talks else b"220"
            finally:
                writer.close()
    except (OSError, TimeoutError) as wrong:
        return str(wrong) or f"silent for {RELAY_SECONDS:.0f} s"
    return "" if greeting.startswith(b"220") else f"it says {greeting[:60]!r}"


async def dns_answers(policy: Policy) -> bool:
    """Whether the site's resolvers answer at all; what they say does not matter."""
    try:
        resolver = dns.asyncresolver.Resolver(configure=not policy.site.resolvers)
        if policy.site.resolvers:
            pairs = [parse_endpoint(text, 53) for text in policy.site.resolvers]
            resolver.nameservers = [host for host, _ in pairs]
            resolver.nameserver_ports = dict(pairs)
        resolver.lifetime = DNS_SECONDS
        await resolver.resolve(".", "NS", search=False)
    except (dns.resolver.NoAnswer, dns.resolver.NXDOMAIN, dns.resolver.YXDOMAIN):
        return True
    except dns.resolver.NoNameservers:  # all of them answered, with trouble
        return True
    except (dns.exception.DNSException, OSError):
        return False
    return True
