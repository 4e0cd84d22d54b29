"""A scan worker: its own process, one message at a time, limits set by the kernel.

Contract
    A message that takes more of the processor than its share is denied, and the worker makes room for another.
    One that takes too long or too much memory ends the worker, not the gateway: the client sees the connection close,
    and asks for a second try (scan.alone). The server starts a new worker.
    A reader that stumbles over a message gives no answer, either; the worker goes on.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

from egressguard.policy.facts import ScanReport
from egressguard.policy.site import Scan
from egressguard.policy.verdict import Verdict
from egressguard.scan.limits import TOO_COSTLY, TooCostly, keep_to_limits
from egressguard.scan.look import Look
from egressguard.scan.protocol import encode_report, received_message

log = logging.getLogger(__name__)

MESSAGES_PER_WORKER = 2000
"""After so many messages a worker makes room for a fresh one: whatever leaked or was bent goes with it."""


def work(listener: socket.socket, settings: Scan, rules: Path, max_message_octets: int) -> None:
    """Serve clients of `listener` until told to end. `rules` is the directory that a folder of YARA rules lies in."""
    keep_to_limits()
    look = Look(settings, rules, Path(listener.getsockname()))
    for _ in range(MESSAGES_PER_WORKER):
        client, _ = listener.accept()
        with client, _in_time(client, settings.timeout_seconds):
            try:
                if not _serve(client, look, max_message_octets):
                    return
            except MemoryError:  # what is left of it is not worth much
                log.exception("a message took too much memory")
                return
            except Exception:  # the next message is fine
                log.exception("a message could not be examined")


def work_alone(client: socket.socket, settings: Scan, rules: Path, places: Path, max_message_octets: int) -> None:
    """One message, the only one of this process: what its reader stumbles over now is the message's doing."""
    keep_to_limits()
    look = Look(settings, rules, places)
    with _in_time(client, settings.timeout_seconds):
        try:
            _serve(client, look, max_message_octets)
        except Exception as wrong:
            log.exception("a message cannot be examined")
            client.sendall(encode_report(deadly(f"its reader gave up: {type(wrong).__name__}")))


def deadly(why: str) -> ScanReport:
    """Of a message that nothing here can read: for a person to look at. What else rules ask is not known."""
    return ScanReport(Verdict.DENIED, (f"cannot be examined: {why}",), score=None)


@contextlib.contextmanager
def _in_time(client: socket.socket, seconds: float) -> Iterator[None]:
    """The default of the timer's signal ends the process."""
    client.settimeout(seconds)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)


def _serve(client: socket.socket, look: Look, max_message_octets: int) -> bool:
    """False: the reader was stopped somewhere, and is of no more use. Raises whatever it stumbles over."""
    is_sound = True
    with contextlib.ExitStack() as stack:
        try:
            received = stack.enter_context(received_message(client, max_message_octets))
        except (OSError, ValueError) as wrong:
            log.warning("not a scan request", extra={"fields": {"why": str(wrong)}})
            return True
        try:
            report = look(received.content, received.request, received.fd)
        except TooCostly:
            log.warning("a message takes too much of the processor's time, and is denied")
            report, is_sound = deadly(TOO_COSTLY), False
    with contextlib.suppress(OSError):  # a client that went away asks again
        client.sendall(encode_report(report))
    return is_sound
