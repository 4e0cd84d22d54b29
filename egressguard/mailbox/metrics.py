"""What delivery into mailboxes counts."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter

from egressguard.mail.outcome import Result

TARGETS = ("maildir", "mbox", "lmtp", "alias", "forward")
STAGES = ("rcpt", "delivery")


class MailboxMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self._deliveries = Counter(
            "egressguard_mailbox_deliveries_total",
            "Recipients of our own domains by where their message went (a store; alias, forward: sent on) and outcome.",
            ["target", "outcome"],  # TARGETS; delivered, transient, permanent
            registry=registry,
        )
        self._over_quota = over_quota_counter(registry)
        self._broken = Counter(
            "egressguard_mailbox_rules_broken_total",
            "Files of accounts' own rules with faults, each time one was read.",
            registry=registry,
        )
        for target in TARGETS:
            for result in Result:
                self._deliveries.labels(target, result.value)

    def delivered(self, target: str, result: Result) -> None:
        self._deliveries.labels(target, result.value).inc()

    def over_quota(self) -> None:
        self._over_quota.labels("delivery").inc()

    def broken_rules(self) -> None:
        self._broken.inc()


def over_quota_counter(registry: CollectorRegistry) -> Counter:
    """Of smtpd, which refuses at RCPT, and of the relay."""
    counter = Counter(
        "egressguard_mailbox_over_quota_total",
        "Messages that a full account did not get: put off at RCPT, or waiting in the queue (delivery).",
        ["stage"],
        registry=registry,
    )
    for stage in STAGES:
        counter.labels(stage)
    return counter
