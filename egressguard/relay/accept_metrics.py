"""What the accepting side counts: messages by decision, what staged rules would have done, limits that were hit."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter

from egressguard.observe.metrics import Children
from egressguard.policy.decision import MailDecision
from egressguard.policy.model import Policy

DECISIONS = ("accepted", "held", "quarantined", "refused", "deferred")


class AcceptMetrics:
    def __init__(self, registry: CollectorRegistry, policy: Policy) -> None:
        self._messages = Children(
            Counter(
                "egressguard_smtpd_messages_total",
                "Messages answered after DATA, by decision: accepted, held, quarantined, refused, deferred.",
                ["listener", "decision"],
                registry=registry,
            )
        )
        self._staged = Counter(
            "egressguard_policy_staged_matches_total",
            "Messages that a staged rule or limit would have decided, by its name and action.",
            ["rule", "action"],
            registry=registry,
        )
        self._limits = Counter(
            "egressguard_relay_limit_hits_total",
            "Recipients and messages that were above a limit, by its name and what it does (its key `above`).",
            ["limit", "action"],
            registry=registry,
        )
        for listener in policy.site.relay.listeners:
            for decision in DECISIONS:
                self._messages.of(listener, decision)
        for limit in policy.limits:
            self._limits.labels(limit.name, limit.above)

    def answered(self, listener: str, counted: str, decision: MailDecision) -> None:
        self._messages.of(listener, counted).inc()
        for staged in decision.would:
            self._staged.labels(staged.rule, staged.action).inc()
        self.limited(decision)

    def limited(self, decision: MailDecision | None) -> None:
        if decision is not None and decision.limit:
            action = "contain" if decision.contain_seconds else decision.action.value
            self._limits.labels(decision.limit, action).inc()
