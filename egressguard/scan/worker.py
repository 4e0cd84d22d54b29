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

from egressguard.policy.facts import ScanReport
from egressguard.policy.site import Scan
from egressguard.scan.clamd import ask_clamd
from egressguard.scan.examine import AskScanner, examine
from egressguard.scan.protocol import encode_report, receive_message

log = logging.getLogger(__name__)

MEMORY_OCTETS = 2 * 1024**3
MESSAGES_PER_WORKER = 2000
"""After so many messages a worker makes room for a fresh one: whatever leaked or was bent goes with it."""


def work(listener: socket.socket, settings: Scan, max_message_octets: int) -> None:
    """Serve clients of `listener` until told to end."""
    _limit()
    clamd = settings.clamd
    ask: AskScanner | None = (lambda content: ask_clamd(content, clamd)) if clamd is not None else None
    for _ in range(MESSAGES_PER_WORKER):
        client, _ = listener.accept()
        with client:
            client.settimeout(settings.timeout_seconds)
            signal.setitimer(signal.ITIMER_REAL, settings.timeout_seconds)  # its signal's default ends the process
            _serve(client, settings, ask, max_message_octets)
            signal.setitimer(signal.ITIMER_REAL, 0)


def _serve(client: socket.socket, settings: Scan, ask: AskScanner | None, max_message_octets: int) -> None:
    try:
        content = receive_message(client, max_message_octets)
    except (OSError, ValueError) as wrong:
        log.warning("not a scan request", extra={"fields": {"why": str(wrong)}})
        return
    try:
        report = examine(content, settings, ask)
    except Exception as wrong:  # one message's parser fault: its verdict is unknown, the next message is fine
        log.exception("a message could not be examined")
        report = ScanReport(None, (f"cannot be examined: {type(wrong).__name__}",))
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
