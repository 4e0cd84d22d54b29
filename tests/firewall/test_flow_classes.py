"""Decisions on flows are summed up: none is counted twice, what cannot be kept is counted, all can be decided again."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from egressguard.firewall.flow_classes import SLOT_SECONDS, FlowClasses, Seen
from egressguard.net.flow import Flow, Protocol
from egressguard.policy.recorded import FlowFacts, recorded_flow


def seen(host: int = 1, action: str = "reject", rule: str = "block") -> Seen:
    return Seen(ip_address(f"192.0.2.{host}"), ip_address("198.51.100.7"), 25, "tcp", "lan0", "", "", action, rule)


def facts(each: Seen) -> FlowFacts:
    flow = Flow(each.source, each.destination, each.port, each.interface, Protocol(each.protocol))
    return FlowFacts(flow, each.action, each.rule, is_inside=True, hosts={"mx.example": False})


class Rows(list[Mapping[str, Any]]):
    def record(self, kind: str, fields: Mapping[str, object]) -> None:
        assert kind == "flow.decided"
        self.append(fields)

    @property
    def counted(self) -> int:
        return sum(row["count"] for row in self)


STEPS = st.lists(st.tuples(st.sampled_from(["see", "wait", "flush"]), st.integers(0, 400)), max_size=100)


@settings(deadline=None)
@given(STEPS, st.integers(1, 5), st.integers(1, 5))
def test_every_decision_is_in_one_row_or_counted_as_lost(
    steps: list[tuple[str, int]], max_classes: int, rows_per_second: int
) -> None:
    rows, now, count = Rows(), 1000.0, 0
    classes = FlowClasses(rows.record, max_classes=max_classes, rows_per_second=rows_per_second)
    for what, number in steps:
        if what == "see":
            count += 1
            classes.see(now, seen(number % 9), facts)
        elif what == "wait":
            now += number
        else:
            classes.flush(now)
    classes.close(now)
    assert rows.counted + classes.lost == count


def test_the_first_is_told_at_once_and_repetitions_when_the_slot_is_over() -> None:
    rows = Rows()
    classes = FlowClasses(rows.record)
    for at in range(5):
        classes.see(at, seen(), facts)
    assert [(row["count"], row["first"], row["last"]) for row in rows] == [(1, 0, 0)]
    classes.flush(SLOT_SECONDS - 1)
    assert len(rows) == 1
    classes.flush(SLOT_SECONDS)
    assert [(row["count"], row["last"]) for row in rows[1:]] == [(4, 4)]
    classes.flush(3 * SLOT_SECONDS)
    classes.close(3 * SLOT_SECONDS)
    assert rows.counted == 5


def test_another_decision_is_another_class() -> None:
    rows = Rows()
    classes = FlowClasses(rows.record)
    classes.see(1, seen(), facts)
    classes.see(2, seen(action="allow", rule=""), facts)
    assert [(row["action"], row.get("rule", "")) for row in rows] == [("reject", "block"), ("allow", "")]


def test_a_row_can_be_read_back() -> None:
    rows = Rows()
    FlowClasses(rows.record).see(7.5, seen(), facts, 3)
    found = recorded_flow(rows[0])
    assert found is not None
    assert (found.facts, found.count, found.first, found.last) == (facts(seen()), 3, 7.5, 7.5)


def test_a_flood_of_sources_takes_little() -> None:
    rows = Rows()
    classes = FlowClasses(rows.record, max_classes=100, rows_per_second=5)
    for host in range(250):
        classes.see(1.0, seen(host), facts)
    assert len(rows) == 10
    assert classes.lost == 250 - 100 - 10
