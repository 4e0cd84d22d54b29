"""Which ports and addresses the kernel lets us have.

Dovecot takes port 0 as "off", so a free port is picked here, before a model is made. Between picking and Dovecot's
bind another program may take it: the start then fails, is logged, and is tried again.
"""

from __future__ import annotations

import contextlib
import socket

from egressguard.access.model import Ports

_TRIES = 20
_SERVICES = ("imap", "imaps", "pop3", "pop3s")


def choose_ports(wanted: Ports, addresses: tuple[str, ...], current: Ports | None = None) -> Ports:
    """Replace each 0 in `wanted` by `current`'s port, or else by one free on all `addresses`. Raises OSError."""
    chosen: dict[str, int] = {service: port for service, port in wanted.items() if port}
    before = dict(current.items()) if current else {}
    for service, port in wanted.items():
        if port == 0:
            chosen[service] = before.get(service) or _free_port(addresses, set(chosen.values()))
    return Ports(*(chosen.get(service) for service in _SERVICES))


def usable_addresses(addresses: tuple[str, ...]) -> tuple[str, ...]:
    """Those whose family this kernel has: Dovecot refuses to start for one that it cannot open."""
    return tuple(address for address in addresses if _has_family(address))


def _has_family(address: str) -> bool:
    try:
        with _bound(address, 0):
            return True
    except OSError:
        return ":" not in address  # an IPv4 address that is not there is a fault to be seen


def _free_port(addresses: tuple[str, ...], taken: set[int]) -> int:
    wrong: OSError | None = None
    for _ in range(_TRIES):
        with _bound(addresses[0], 0) as first:
            port = int(first.getsockname()[1])
        try:
            with contextlib.ExitStack() as stack:
                for address in addresses:
                    stack.enter_context(_bound(address, port))
        except OSError as in_use:
            wrong = in_use
            continue
        if port not in taken:
            return port
    raise wrong or OSError("no free port")


def _bound(address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind(("0.0.0.0" if address == "*" else address, port))  # noqa: S104 -- as the model says
    except OSError:
        bound.close()
        raise
    return bound
