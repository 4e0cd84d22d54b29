"""What the outgoing side counts. Labels: transport = "mx", "local" or a smart host's name from the rules."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

RESULTS = ("delivered", "transient", "permanent")


class RelayMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self.messages = Gauge("egressguard_queue_messages", "Messages that wait for delivery.", registry=registry)
        self.size = Gauge("egressguard_queue_size_bytes", "Octets of the messages that wait.", registry=registry)
        self.oldest = Gauge(
            "egressguard_queue_oldest_message_age_seconds", "Age of the oldest queued message.", registry=registry
        )
        self.recipients = Counter(
            "egressguard_delivery_recipients_total",
            "Recipients tried, by way out and result (delivered, transient, permanent).",
            ["transport", "outcome"],
            registry=registry,
        )
        self.bounces = Counter(
            "egressguard_bounces_total",
            "Recipients given up, by cause (refused, expired).",
            ["kind"],
            registry=registry,
        )
        self.duration = Histogram(
            "egressguard_delivery_attempt_duration_seconds",
            "Time of one attempt at one way.",
            registry=registry,
            buckets=(0.01, 0.05, 0.2, 1, 5, 30, 120, 600),
        )
        for transport in ("mx", "local"):
            for result in RESULTS:
                self.recipients.labels(transport, result)
        for kind in ("refused", "expired"):
            self.bounces.labels(kind)
