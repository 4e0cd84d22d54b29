"""Bind the listening sockets before privileges are given up, and say where they are."""

from __future__ import annotations

import errno
import ipaddress
import json
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from egressguard.net.flow import IPAddress
from egressguard.policy.model import Policy

BACKLOG = 1024
TARPIT = "tarpit"
"""The name of the tarpit's sockets beside those of the rules' listeners."""
HIGH_PORT_OFFSET = 10_000
"""An ordinary user's gateway listens on loopback, at the usual port plus this."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    name: str
    address: IPAddress
    port: int

    def __str__(self) -> str:
        host = f"[{self.address}]" if self.address.version == 6 else str(self.address)
        return f"{host}:{self.port}"


class CannotListen(Exception):
    """The message names the endpoint, the cause and a cure."""


def high_port(port: int) -> int:
    return port + HIGH_PORT_OFFSET if 0 < port < 1024 else port


EVERYWHERE: tuple[IPAddress, ...] = (ipaddress.IPv4Address(0), ipaddress.IPv6Address(0))


def relay_endpoints(policy: Policy, *, high_ports: bool) -> Iterator[Endpoint]:
    for name, listener in policy.site.relay.listeners.items():
        if high_ports:
            yield from (Endpoint(name, a, high_port(listener.port)) for a in loopback())
        else:
            yield from (Endpoint(name, address, listener.port) for address in listener.addresses)
    if (port := policy.site.relay.tarpit_port) is not None:
        yield from (Endpoint(TARPIT, a, port) for a in (loopback() if high_ports else EVERYWHERE))


def metrics_endpoint(policy: Policy) -> Endpoint:
    return Endpoint("metrics", policy.site.metrics.address, policy.site.metrics.port)


def loopback() -> tuple[IPAddress, ...]:
    return (ipaddress.IPv4Address("127.0.0.1"), ipaddress.IPv6Address("::1"))


def bind_all(endpoints: Iterable[Endpoint], patience_seconds: float = 5) -> dict[str, list[socket.socket]]:
    """Bind every endpoint. A machine without IPv6 loses only its IPv6 endpoints. Raises CannotListen.

    A port still held by the roles of a gateway that was just killed is tried again for `patience_seconds`.
    """
    deadline = time.monotonic() + patience_seconds
    bound: dict[str, list[socket.socket]] = {}
    ports: dict[str, int] = {}
    for endpoint in endpoints:
        port = endpoint.port or ports.get(endpoint.name, 0)
        sock = _bind_patiently(endpoint, port, deadline)
        if sock is not None:
            ports[endpoint.name] = sock.getsockname()[1]
            bound.setdefault(endpoint.name, []).append(sock)
    return bound


def _bind_patiently(endpoint: Endpoint, port: int, deadline: float) -> socket.socket | None:
    while True:
        try:
            return _bind(endpoint.address, port)
        except OSError as wrong:
            if endpoint.address.version == 6 and wrong.errno in {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL}:
                return None
            if wrong.errno != errno.EADDRINUSE or time.monotonic() > deadline:
                raise CannotListen(_explain(endpoint, wrong)) from wrong
            time.sleep(0.1)


def _bind(address: IPAddress, port: int) -> socket.socket:
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    # IPPROTO_TCP said aloud: asyncio sets TCP_NODELAY only on sockets that say so.
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC, socket.IPPROTO_TCP)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((str(address), port))
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


def _explain(endpoint: Endpoint, wrong: OSError) -> str:
    cures = {
        errno.EADDRINUSE: "another program (an MTA?) holds it: stop it, or give the listener another port",
        errno.EACCES: "ports below 1024 need root: run as root, or with --high-ports",
        errno.EADDRNOTAVAIL: "this machine has no such address: mend `addresses` in the rules",
    }
    cure = cures.get(wrong.errno or 0, "see the cause named")
    return f"cannot listen on {endpoint} ({endpoint.name}): {wrong.strerror}; {cure}"


def write_listening(path: Path, bound: Mapping[str, list[socket.socket]]) -> None:
    """Tell the CLI and tests where each listener really is (port 0 in the rules means: any)."""
    places = {name: [list(sock.getsockname()[:2]) for sock in sockets] for name, sockets in bound.items()}
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(places))
    temporary.replace(path)
