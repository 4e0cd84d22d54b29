"""A connection to a scanning engine: a Unix socket or TCP, blocking, with one deadline for all that is said on it.

Contract
    However slowly the other side dribbles, no call lasts past the deadline: TimeoutError, which is an OSError.
"""

from __future__ import annotations

import socket
import time
from typing import Any


class Link(socket.socket):
    """A socket whose calls share one deadline (time.monotonic)."""

    deadline: float = 0.0

    def _arm(self) -> None:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("it took too long")
        self.settimeout(left)

    def recv(self, *args: Any) -> bytes:
        self._arm()
        return super().recv(*args)

    def recv_into(self, *args: Any) -> int:
        self._arm()
        return super().recv_into(*args)

    def sendall(self, *args: Any) -> None:
        self._arm()
        return super().sendall(*args)

    def sendmsg(self, *args: Any) -> int:
        self._arm()
        return super().sendmsg(*args)


def connect(address: str, seconds: float) -> Link:
    """`address` as the rules have it: "unix:/path" or "host:port". Raises OSError."""
    deadline = time.monotonic() + seconds
    if address.startswith("unix:"):
        return _connected(socket.AF_UNIX, address.removeprefix("unix:"), deadline)
    host, _, port = address.rpartition(":")
    failed: OSError = OSError(0, "no address")
    for family, _, _, _, place in socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM):
        try:
            return _connected(family, place, deadline)
        except OSError as wrong:
            failed = wrong
    raise failed


def _connected(family: int, place: Any, deadline: float) -> Link:
    link = Link(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    link.deadline = deadline
    try:
        link._arm()
        link.connect(place)
    except BaseException:
        link.close()
        raise
    return link


def read_all(link: Link, most: int) -> bytes:
    """What comes until the other side closes, or `most` octets and no more."""
    answer = bytearray()
    while len(answer) < most and (chunk := link.recv(min(65536, most - len(answer)))):
        answer += chunk
    return bytes(answer)
