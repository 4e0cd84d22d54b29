"""The kernel's counters as metrics: sums that neither a new table nor a strange counter bends."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from egressguard.firewall.metrics import GateMetrics
from egressguard.firewall.table import GUARD_RULE, OWN_ZONE, counter_name
from egressguard.policy.model import Policy

POLICY = Policy.model_validate(
    {
        "site": {"zones": {"lan": {"networks": "192.0.2.0/24"}}},
        "flows": [
            {"name": "own", "from": "lan", "action": "allow"},
            {"name": "thought", "from": "lan", "action": "allow", "decide": "queue"},
            {"name": "block", "from": "lan", "action": "drop"},
            {"name": "into-relay", "from": "lan", "action": "redirect"},
        ],
    }
)


def value(registry: CollectorRegistry, action: str, rule: str, zone: str = "lan") -> float | None:
    labels = {"action": action, "rule": rule, "zone": zone}
    return registry.get_sample_value("egressguard_firewall_flows_total", labels)


def test_each_counter_is_told_with_what_its_rule_does() -> None:
    registry = CollectorRegistry()
    metrics = GateMetrics(registry, POLICY)
    for number, rule in enumerate(POLICY.flows, 1):
        metrics.flows.update({counter_name(rule.name, "lan"): (number, 0)})
    metrics.flows.update({counter_name(GUARD_RULE, OWN_ZONE): (9, 0), "somebody-elses": (1000, 0)})

    assert value(registry, "allowed", "own") == 1
    assert value(registry, "queued", "thought") == 2
    assert value(registry, "blocked", "block") == 3
    assert value(registry, "redirected", "into-relay") == 4
    assert value(registry, "blocked", GUARD_RULE, OWN_ZONE) == 9


def test_sums_grow_over_tables_that_begin_at_zero() -> None:
    registry = CollectorRegistry()
    metrics = GateMetrics(registry, POLICY)
    counter = counter_name("block", "lan")
    for packets in (5, 7):
        metrics.flows.update({counter: (packets, 0)})
    metrics.flows.restarted()
    metrics.flows.update({counter: (7, 0)})
    metrics.flows.update({counter: (2, 0)})  # replaced behind our back

    assert value(registry, "blocked", "block") == 16


def test_what_is_not_counted_yet_is_zero_and_not_absent() -> None:
    registry = CollectorRegistry()
    GateMetrics(registry, POLICY)

    assert registry.get_sample_value("egressguard_enforcement_mode", {"mode": "enforcing"}) == 0
    assert registry.get_sample_value("egressguard_firewall_apply_total", {"result": "failed"}) == 0
    assert registry.get_sample_value("egressguard_nfqueue_packets_total", {"verdict": "reject"}) == 0
