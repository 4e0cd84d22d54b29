"""What the outgoing side counts. `transport` is "mx", "local" or a smart host's name from the rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from egressguard.mail.outcome import Outcome, Result
from egressguard.observe.metrics import Children
from egressguard.store.interface import Depth

OUTCOMES = tuple(result.value for result in Result)
QUEUES = ("incoming", "deferred", "active", "held")
BOUNCES = ("refused", "expired", "nobody-to-tell")
NOTICES = ("told", "over-limit", "undeliverable")


class RelayMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self.smart_hosts = SmartHostMetrics(registry)
        self._messages = Gauge(
            "egressguard_queue_messages",
            "Messages with recipients never tried (incoming), waiting for a retry (deferred), tried (active), held.",
            ["queue"],
            registry=registry,
        )
        self._size = Gauge("egressguard_queue_size_bytes", "Octets of all queued messages.", registry=registry)
        self._oldest = Gauge(
            "egressguard_queue_oldest_message_age_seconds", "Age of the oldest queued message.", registry=registry
        )
        self._suspended = Gauge(
            "egressguard_queue_suspended_destinations", "Destinations that somebody suspended.", registry=registry
        )
        self._attempts = Children(
            Counter(
                "egressguard_delivery_attempts_total",
                "Attempts by way out and what they came to (delivered, transient, permanent, mixed).",
                ["transport", "result"],
                registry=registry,
            )
        )
        self._recipients = Children(
            Counter(
                "egressguard_delivery_recipients_total",
                "Recipients tried, by way out and outcome (delivered, transient, permanent).",
                ["transport", "outcome"],
                registry=registry,
            )
        )
        self._bounces = Counter(
            "egressguard_bounces_total",
            "Recipients that failed for good: refused, expired; nobody-to-tell: those of them without a sender.",
            ["kind"],
            registry=registry,
        )
        self._notices = Counter(
            "egressguard_dsns_total",
            "Notices to senders: told; over-limit: not sent, relay.dsn; undeliverable: failed themselves, dropped.",
            ["fate"],
            registry=registry,
        )
        self._suppressed = Gauge(
            "egressguard_suppression_entries", "Recipients on the suppression list.", registry=registry
        )
        self._duration = Histogram(
            "egressguard_delivery_attempt_duration_seconds",
            "Time of one attempt at one destination.",
            registry=registry,
            buckets=(0.01, 0.05, 0.2, 1, 5, 30, 120, 600),
        )
        self._start_at_zero()

    def _start_at_zero(self) -> None:
        for queue in QUEUES:
            self._messages.labels(queue)
        for kind in BOUNCES:
            self._bounces.labels(kind)
        for fate in NOTICES:
            self._notices.labels(fate)
        for transport in ("mx", "local"):
            for result in (*OUTCOMES, "mixed"):
                self._attempts.of(transport, result)
            for outcome in OUTCOMES:
                self._recipients.of(transport, outcome)

    def measured(self, depth: Depth, suspended: int, now: float) -> None:
        self._suspended.set(suspended)
        for queue, count in zip(QUEUES, (depth.incoming, depth.deferred, depth.active, depth.held), strict=True):
            self._messages.labels(queue).set(count)
        self._size.set(depth.size_octets)
        self._oldest.set(0 if depth.oldest_received_at is None else max(now - depth.oldest_received_at, 0))

    def attempted(self, transport: str, outcomes: Mapping[str, Outcome], seconds: float) -> None:
        self._duration.observe(max(seconds, 0))
        results = [outcome.result.value for outcome in outcomes.values()]
        self._attempts.of(transport, results[0] if len(set(results)) == 1 else "mixed").inc()
        for result in results:
            self._recipients.of(transport, result).inc()

    def watch_suppressed(self, entries: Callable[[], int]) -> None:
        """`entries` is asked at each look at the metrics."""
        self._suppressed.set_function(entries)

    def noticed(self, fate: str) -> None:
        """`fate`: one of NOTICES."""
        self._notices.labels(fate).inc()

    def bounced(self, *, refused: int, expired: int, told: bool) -> None:
        self._bounces.labels("refused").inc(refused)
        self._bounces.labels("expired").inc(expired)
        if not told:
            self._bounces.labels("nobody-to-tell").inc(refused + expired)


class SmartHostMetrics:
    """By name in the rules: that bounds them."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._up = Gauge(
            "egressguard_transport_up",
            "1: the smart host is used; 0: it failed, and is left alone for a while.",
            ["transport"],
            registry=registry,
        )
        self._transactions = Children(
            Counter(
                "egressguard_transport_transactions_total",
                "Messages offered to a smart host: answered, or failed (not to be reached, no login, connection lost).",
                ["transport", "result"],
                registry=registry,
            )
        )
        self._logins = Counter(
            "egressguard_transport_logins_refused_total",
            "Logins that a smart host refused: the password in secrets/ is wrong.",
            ["transport"],
            registry=registry,
        )

    def known(self, name: str, *, up: bool) -> None:
        self._up.labels(name).set(up)
        for result in ("answered", "failed"):
            self._transactions.of(name, result)
        self._logins.labels(name)

    def forget(self, name: str) -> None:
        self._up.remove(name)

    def heard(self, name: str, *, answered: bool) -> None:
        self._transactions.of(name, "answered" if answered else "failed").inc()

    def login_refused(self, name: str) -> None:
        self._logins.labels(name).inc()
