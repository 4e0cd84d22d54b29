"""What the packet plane counts. Flow counters live in the kernel; the gate reads them every few seconds."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.metrics_core import CounterMetricFamily

from egressguard.firewall.table import BUILT_IN_RULES, is_queued, parse_counter_name
from egressguard.policy.model import Policy

OUTCOME = {
    "allow": "allowed",
    "reject": "blocked",
    "drop": "blocked",
    "redirect": "redirected",
    "tarpit": "tarpitted",
}
VERDICTS = (*OUTCOME, "unknown")
MODES = ("enforcing", "plan")


class FlowCollector:
    """egressguard_firewall_flows_total{action,zone,rule}: packets that opened, or tried to open, a flow.

    `update` takes what the kernel says; a table that was replaced starts at 0 again, so sums are kept here.
    """

    def __init__(self, policy: Policy) -> None:
        self._lock = threading.Lock()
        self._last: dict[tuple[str, str], int] = {}
        self._sums: dict[tuple[str, str], int] = {}
        self.policy = policy

    def update(self, counters: Mapping[str, tuple[int, int]]) -> None:
        with self._lock:
            for name, (packets, _octets) in counters.items():
                if (key := parse_counter_name(name)) is None:
                    continue
                before = self._last.get(key, 0)
                grown = packets - before if packets >= before else packets
                self._sums[key] = self._sums.get(key, 0) + grown
                self._last[key] = packets

    def restarted(self) -> None:
        """The table was replaced: the kernel counts from 0."""
        with self._lock:
            self._last.clear()

    def collect(self) -> Iterator[CounterMetricFamily]:
        family = CounterMetricFamily(
            "egressguard_firewall_flows",
            "Flows by action (allowed, blocked, redirected, tarpitted, queued, would), zone, and rule.",
            labels=["action", "zone", "rule"],
        )
        with self._lock:
            for (rule, zone), packets in sorted(self._sums.items()):
                family.add_metric([self._action(rule), zone, rule], packets)
        yield family

    def _action(self, rule_name: str) -> str:
        if rule_name in BUILT_IN_RULES:
            return OUTCOME[BUILT_IN_RULES[rule_name]]
        for rule in self.policy.flows:
            if rule.name == rule_name and rule.staged:
                return "would"
            if rule.name == rule_name:
                return "queued" if is_queued(rule) else OUTCOME[rule.action]
        return "blocked"


class GateMetrics:
    def __init__(self, registry: CollectorRegistry, policy: Policy) -> None:
        self.flows = FlowCollector(policy)
        registry.register(self.flows)
        self.applied = Counter(
            "egressguard_firewall_apply_total",
            "Loads of the ruleset into the kernel, by result (ok, failed).",
            ["result"],
            registry=registry,
        )
        verdicts = Counter(
            "egressguard_nfqueue_packets_total",
            "Packets decided by the daemon, by verdict (allow, reject, drop, redirect, tarpit, unknown).",
            ["verdict"],
            registry=registry,
        )
        self.lost = Gauge(
            "egressguard_nflog_overflows",
            "How often the kernel had to drop observations since the gate started.",
            registry=registry,
        )
        self.lost_classes = Gauge(
            "egressguard_firewall_unrecorded_flows",
            "Decisions on flows that were seen, but were too many to be journaled, since the gate started.",
            registry=registry,
        )
        self.mx_questions = Counter(
            "egressguard_mx_questions_total",
            "DNS questions of hosts for mail servers, sampled, by zone: who asks them and is no mail server is a bot.",
            ["zone"],
            registry=registry,
        )
        self.drifts = Counter(
            "egressguard_firewall_drifts_total",
            "How often somebody else had changed or removed the table.",
            registry=registry,
        )
        self.drifted = Gauge(
            "egressguard_firewall_drifted", "1 while the table is not as it was loaded.", registry=registry
        )
        self.mode = Gauge(
            "egressguard_enforcement_mode", "1 for the mode in force (enforcing, plan).", ["mode"], registry=registry
        )
        for result in ("ok", "failed"):
            self.applied.labels(result)
        self._verdicts = {name: verdicts.labels(name) for name in VERDICTS}
        for mode in MODES:
            self.mode.labels(mode).set(0)

    def verdict(self, name: str) -> None:
        """One packet that the daemon decided: on the way of each, so its counters are at hand."""
        self._verdicts[name].inc()
