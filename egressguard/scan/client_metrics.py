"""What scanning engines said, counted where their answers arrive."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from egressguard.policy.facts import EngineResult

ENGINES = frozenset({"clamd", "rspamd", "spamd", "yara"})
RESULTS = frozenset({"clean", "found", "unseen", "down"})
"""What else a worker says is not counted: labels stay these."""


class EngineMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self._up = Gauge(
            "egressguard_scan_engine_up",
            "1 when the engine (clamd, rspamd, spamd, yara) gave an answer the last time it was needed.",
            ["engine"],
            registry=registry,
        )
        self._results = Counter(
            "egressguard_scan_engine_results_total",
            "What an engine said of messages: clean, found, unseen (it could not look), down.",
            ["engine", "result"],
            registry=registry,
        )
        self._seconds = Histogram(
            "egressguard_scan_engine_duration_seconds", "Time of one engine's answer.", ["engine"], registry=registry
        )

    def note(self, results: Iterable[EngineResult]) -> None:
        for told in results:
            if told.engine not in ENGINES or told.result not in RESULTS:
                continue
            self._up.labels(told.engine).set(told.result != "down")
            self._results.labels(told.engine, told.result).inc()
            self._seconds.labels(told.engine).observe(max(told.seconds, 0.0))
