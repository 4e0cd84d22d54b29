"""The second try: a message that a worker ended on is looked at alone, in a fresh process whose end is watched.

Contract
    Whoever asks gets that process's answer. One that dies of its message (it crashed, or took too much memory or too
    much of the processor) is a fact about the message: DENIED. One that was kept waiting, could not begin, or was
    ended by us says nothing: the verdict is unknown.
    One message at a time, each at most the time that the rules give; who has hung up is not looked at.
    This process reads nothing of any message.
"""

from __future__ import annotations

import contextlib
import logging
import select
import signal
import socket
import threading
from collections.abc import Callable
from multiprocessing.context import ForkProcess
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter

from egressguard.scan.limits import TOO_COSTLY
from egressguard.scan.protocol import encode_report
from egressguard.scan.worker import deadly

log = logging.getLogger(__name__)

BACKLOG = 64
GRACE_SECONDS = 5
PAUSE_SECONDS = 0.1
_NOT_ITS_DOING = (-signal.SIGALRM, -signal.SIGTERM)
"""A busy machine; somebody who ends the gateway."""

Begin = Callable[[socket.socket], ForkProcess]
"""Start a process that looks at the one message that this client hands over."""


class SecondTries:
    """`seconds` a process has; it may change at any time."""

    def __init__(self, path: Path, begin: Begin, seconds: float, registry: CollectorRegistry) -> None:
        self.seconds = seconds
        self._path = path
        self._begin = begin
        self._deadly = Counter(
            "egressguard_scan_deadly_messages_total",
            "Messages that a scan process died of twice, the second time alone in it: they are denied.",
            registry=registry,
        )
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._process: ForkProcess | None = None
        self._thread = threading.Thread(target=self._serve, name="scan-alone", daemon=True)

    def start(self) -> None:
        self._path.unlink(missing_ok=True)
        self._listener.bind(str(self._path))
        self._path.chmod(0o660)
        self._listener.listen(BACKLOG)
        self._thread.start()

    def stop(self) -> None:
        with self._lock:
            self._stopping.set()
            if self._process is not None:
                self._process.kill()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # its accept ends
        if self._thread.is_alive():
            self._thread.join()
        self._listener.close()
        self._path.unlink(missing_ok=True)

    def _serve(self) -> None:
        while not self._stopping.is_set():
            try:
                client, _ = self._listener.accept()
                with client:
                    if not _has_hung_up(client):
                        self._try(client)
                    client.shutdown(socket.SHUT_RDWR)  # a worker that was started meanwhile may have it open, too
            except OSError as wrong:
                if not self._stopping.wait(PAUSE_SECONDS):
                    log.warning("no second try", extra={"fields": {"why": str(wrong)}})

    def _try(self, client: socket.socket) -> None:
        """Raises OSError: it cannot begin, or the client went away, who asks again."""
        with self._lock:
            if self._stopping.is_set():
                return
            self._process = process = self._begin(client)
        exit_code = _end_of(process, self.seconds)
        with self._lock:
            self._process = None
            why = None if self._stopping.is_set() else how_it_died(exit_code)
        if why is None:
            return
        self._deadly.inc()
        log.warning("a scan process died twice of one message, which is denied", extra={"fields": {"why": why}})
        client.sendall(encode_report(deadly(why)))


def how_it_died(exit_code: int) -> str | None:
    """In words; None: not of its message."""
    if exit_code >= 0 or exit_code in _NOT_ITS_DOING:
        return None
    if exit_code == -signal.SIGVTALRM:
        return TOO_COSTLY
    if exit_code == -signal.SIGKILL:
        return "its reader was killed, as those are that take too much memory"
    return f"its reader crashed ({_name(-exit_code)})"


def _end_of(process: ForkProcess, seconds: float) -> int:
    """Its timers end it; this does if it never got as far as to set them, which is no end of its own: 0."""
    process.join(seconds + GRACE_SECONDS)
    if process.exitcode is not None:
        return process.exitcode
    process.kill()
    process.join()
    return 0


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _has_hung_up(client: socket.socket) -> bool:
    poll = select.poll()
    poll.register(client, select.POLLHUP)
    return bool(poll.poll(0))
