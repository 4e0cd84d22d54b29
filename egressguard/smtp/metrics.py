"""What the inward side counts. `listener` is a name from the rules; the other labels' values stand beside them."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from egressguard.observe.metrics import Children
from egressguard.smtp.hooks import STAGES, Stage
from egressguard.smtp.replies import REASONS
from egressguard.smtp.settings import LIMITS

MECHANISMS = ("PLAIN", "LOGIN", "SCRAM-SHA-256")
AUTH_RESULTS = ("ok", "wrong", "limited", "cannot_tell")
_SIZES = tuple(4**k * 1024 for k in range(9))  # 1 KiB ... 64 MiB


class SmtpMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self._connections = Children(
            Counter(
                "egressguard_smtpd_connections_total",
                "Connections, by listener and result (accepted, refused).",
                ["listener", "result"],
                registry=registry,
            )
        )
        self.active = Gauge("egressguard_smtpd_active_connections", "Connections open now.", registry=registry)
        self._rejects = Counter(
            "egressguard_smtpd_rejects_total",
            "Negative replies, by stage and reason.",
            ["stage", "reason"],
            registry=registry,
        )
        self._auth = Counter(
            "egressguard_smtpd_auth_attempts_total",
            "AUTH attempts, by mechanism and result (ok, wrong, limited, cannot_tell).",
            ["mechanism", "result"],
            registry=registry,
        )
        self._handshakes = Counter(
            "egressguard_smtpd_tls_handshakes_total",
            "TLS handshakes, by version (none when it failed) and result (ok, failed).",
            ["version", "result"],
            registry=registry,
        )
        self._limits = Gauge(
            "egressguard_smtpd_limit",
            "The limits in force, by the names they have in the rules.",
            ["limit"],
            registry=registry,
        )
        self._limited = Counter(
            "egressguard_smtpd_limit_hits_total",
            "Clients stopped by a limit, by its name in the rules.",
            ["limit"],
            registry=registry,
        )
        self._early = Counter(
            "egressguard_smtpd_early_talkers_total",
            "Clients that spoke before the greeting, by listener and result (refused, heard).",
            ["listener", "result"],
            registry=registry,
        )
        self.size = Histogram(
            "egressguard_smtpd_message_size_bytes", "Messages received whole.", buckets=_SIZES, registry=registry
        )
        for stage, reason in (("rcpt", "policy"), ("data", "policy"), ("connect", "limit"), ("auth", "credentials")):
            self._rejects.labels(stage, reason)
        for mechanism in MECHANISMS:
            for result in AUTH_RESULTS:
                self._auth.labels(mechanism, result)

    def listening(self, listener: str) -> None:
        for result in ("accepted", "refused"):
            self._connections.of(listener, result)
        for result in ("refused", "heard"):
            self._early.labels(listener, result)

    def limits(self, limits: Mapping[str, float]) -> None:
        for name, value in limits.items():
            self._limits.labels(name).set(value)
            self._limited.labels(name)

    def limited(self, limit: str) -> None:
        assert limit in LIMITS
        self._limited.labels(limit).inc()

    def spoke_early(self, listener: str, *, refused: bool) -> None:
        self._early.labels(listener, "refused" if refused else "heard").inc()

    def connected(self, listener: str, *, accepted: bool) -> None:
        self._connections.of(listener, "accepted" if accepted else "refused").inc()

    def rejected(self, stage: Stage, reason: str) -> None:
        assert stage in STAGES and reason in REASONS
        self._rejects.labels(stage, reason).inc()

    def authenticated(self, mechanism: str, result: str) -> None:
        self._auth.labels(mechanism, result).inc()

    def handshake(self, version: str | None) -> None:
        self._handshakes.labels(version or "none", "ok" if version else "failed").inc()
