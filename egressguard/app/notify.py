"""sd_notify(3) and socket passing (sd_listen_fds(3)), for systemd and for our own supervisor alike.

Our supervisor passes sockets by number (EGRESSGUARD_SOCKETS="name=fd,name=fd") because a child's file
descriptors keep their numbers there; systemd passes them from 3 on (LISTEN_FDS, LISTEN_FDNAMES, LISTEN_PID).
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Mapping

FIRST_SYSTEMD_FD = 3


def notify(message: str) -> None:
    """Send `message` ("READY=1", "STATUS=...") to whoever supervises us; nobody listening is fine."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    target = "\0" + address[1:] if address.startswith("@") else address
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        try:
            sock.sendto(message.encode(), target)
        except OSError:
            return  # a supervisor that went away is noticed through the lifeline, not here


def inherited_sockets(environment: Mapping[str, str] = os.environ) -> dict[str, list[socket.socket]]:
    """The listening sockets handed to this process, by name."""
    sockets: dict[str, list[socket.socket]] = {}
    for name, fd in _passed(environment):
        sock = socket.socket(fileno=fd)
        sock.setblocking(False)
        os.set_inheritable(fd, False)
        sockets.setdefault(name, []).append(sock)
    return sockets


def _passed(environment: Mapping[str, str]) -> list[tuple[str, int]]:
    if ours := environment.get("EGRESSGUARD_SOCKETS"):
        pairs = (item.rpartition("=") for item in ours.split(","))
        return [(name, int(fd)) for name, _, fd in pairs]
    if environment.get("LISTEN_PID") == str(os.getpid()):
        count = int(environment.get("LISTEN_FDS", "0"))
        names = environment.get("LISTEN_FDNAMES", "").split(":")
        names += ["unknown"] * (count - len(names))
        return [(names[i], FIRST_SYSTEMD_FD + i) for i in range(count)]
    return []


async def feed_watchdog() -> None:
    """Tell the supervisor every half period that the loop still turns; returns at once where nobody asked."""
    period = int(os.environ.get("WATCHDOG_USEC", "0")) / 1e6
    while period:
        notify("WATCHDOG=1")
        await asyncio.sleep(period / 2)


def watch_lifeline(loop: asyncio.AbstractEventLoop, gone: Callable[[], None]) -> None:
    """Call `gone` when our supervisor dies: its end of the pipe EGRESSGUARD_LIFELINE closes."""
    text = os.environ.get("EGRESSGUARD_LIFELINE")
    if not text:
        return
    fd = int(text)
    os.set_inheritable(fd, False)

    def readable() -> None:
        if not os.read(fd, 1):
            loop.remove_reader(fd)
            gone()

    loop.add_reader(fd, readable)
