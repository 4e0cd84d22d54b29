"""A scan worker: its own process, one message at a time, limits set by the kernel.

Contract
    A message that takes too long or too much memory ends the worker, not the gateway: the client sees the
    connection close and the verdict is unknown. The server starts a new worker.
"""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import signal
import socket
from pathlib import Path

from egressguard.policy.site import Scan
from egressguard.scan.look import Look
from egressguard.scan.protocol import encode_report, received_message

log = logging.getLogger(__name__)

MEMORY_OCTETS = 2 * 1024**3
MESSAGES_PER_WORKER = 2000
"""After so many messages a worker makes room for a fresh one: whatever leaked or was bent goes with it."""


def work(listener: socket.socket, settings: Scan, rules: Path, max_message_octets: int) -> None:
    """Serve clients of `listener` until told to end. `rules` is the directory that a folder of YARA rules lies in."""
    _limit()
    look = Look(settings, rules, Path(listener.getsockname()))
    for _ in range(MESSAGES_PER_WORKER):
        client, _ = listener.accept()
        with client:
            client.settimeout(settings.timeout_seconds)
            signal.setitimer(signal.ITIMER_REAL, settings.timeout_seconds)  # its signal's default ends the process
            _serve(client, look, max_message_octets)
            signal.setitimer(signal.ITIMER_REAL, 0)


def _serve(client: socket.socket, look: Look, max_message_octets: int) -> None:
    try:
        with received_message(client, max_message_octets) as received:
            report = look(received.content, received.request, received.fd)
    except (OSError, ValueError) as wrong:
        log.warning("not a scan request", extra={"fields": {"why": str(wrong)}})
        return
    with contextlib.suppress(OSError):  # a client that went away asks again
        client.sendall(encode_report(report))


def _limit() -> None:
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_OCTETS, MEMORY_OCTETS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.umask(0o077)
