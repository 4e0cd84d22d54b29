"""Ask the scan role, from the relay's event loop. No answer is never "clean".

Contract
    `scan` never raises: whatever goes wrong is a report with verdict None and the reason among its findings.
    A worker that ends without an answer may have died of the message: it is asked about once more (scan.alone).
    At most `concurrency` messages are under way; the others wait their turn, each at most `timeout_seconds`.
    Which engines were asked, and what became of it, is counted here: workers come and go.
"""

from __future__ import annotations

import asyncio
import socket
import time
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from egressguard.policy.facts import ScanReport, ScanRequest
from egressguard.scan.client_metrics import EngineMetrics
from egressguard.scan.protocol import REPORT_OCTETS, decode_report, second_tries, send_message
from egressguard.store.content import Content

_NOTHING_SAID = ScanRequest()
RESULTS = ("clean", "infected", "denied", "ambiguous", "unknown")


class ScanClient:
    def __init__(
        self, path: Path, *, timeout_seconds: float, registry: CollectorRegistry, concurrency: int = 4
    ) -> None:
        self._path = path
        self.reload(timeout_seconds, concurrency)
        self._results = Counter(
            "egressguard_scan_results_total",
            "Messages scanned, by result (clean, infected, denied, ambiguous, unknown).",
            ["result"],
            registry=registry,
        )
        self._duration = Histogram(
            "egressguard_scan_duration_seconds", "Time of one scan, waiting included.", registry=registry
        )
        self._up = Gauge("egressguard_scanner_up", "1 when the last scan was answered.", registry=registry)
        for result in RESULTS:
            self._results.labels(result)
        self._engines = EngineMetrics(registry)

    def reload(self, timeout_seconds: float, concurrency: int) -> None:
        """For the next messages; those under way keep their places."""
        self.timeout_seconds = timeout_seconds
        self._places = asyncio.Semaphore(concurrency)

    async def scan(self, content: Content, request: ScanRequest = _NOTHING_SAID) -> ScanReport:
        started = time.monotonic()
        async with self._places:
            report = await asyncio.to_thread(self._scan, content, request)
        self._duration.observe(time.monotonic() - started)
        self._results.labels(report.verdict.value if report.verdict else "unknown").inc()
        self._up.set(report.verdict is not None)
        self._engines.note(report.engines)
        return report

    def _scan(self, content: Content, request: ScanRequest) -> ScanReport:
        try:
            try:
                return self._ask(self._path, content, request)
            except _Ended:
                return self._ask(second_tries(self._path), content, request)
        except (OSError, ValueError) as wrong:
            return ScanReport(None, (f"the scanner did not answer: {wrong}",), score=None)

    def _ask(self, path: Path, content: Content, request: ScanRequest) -> ScanReport:
        """Raises OSError, ValueError."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as sock:
            sock.settimeout(self.timeout_seconds)
            sock.connect(str(path))
            try:
                send_message(sock, content, request)
                line = _read_line(sock)
            except ConnectionError as wrong:
                raise _Ended(str(wrong)) from wrong
            return decode_report(line)


class _Ended(ValueError):
    """Whoever had the message is gone and has said nothing, or not all."""


def _read_line(sock: socket.socket) -> bytes:
    line = bytearray()
    while not line.endswith(b"\n"):
        chunk = sock.recv(65536)
        if not chunk:
            raise _Ended("no answer, or not all of it")
        if len(line) > REPORT_OCTETS:
            raise ValueError("an answer without end")
        line += chunk
    return bytes(line)
