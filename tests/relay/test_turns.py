"""Whose turn it is: time as an argument, sending as a value."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from egressguard.mail.outcome import Outcome, delivered, permanent, transient
from egressguard.relay.attempt import Way
from egressguard.relay.metrics import SmartHostMetrics
from egressguard.relay.turns import AVOIDED_MESSAGES, Turn, Turns
from egressguard.smtp.client import Patience, Peer, Sent, Transaction
from egressguard.store.content import Content
from tests.relay.setting import policy_of

WAY = Way(("a", "b"), "", ("x@one.example",))
OK = (delivered("ok", "a.test"), True)
REFUSED = (transient("4.4.1", "refused", "a.test"), False)
LOST = (transient("4.4.2", "lost", "a.test"), True)
NO_LOGIN = (transient("4.7.8", "the login was refused", "a.test"), False)
LATER = (transient("4.2.1", "greylisted", "a.test"), True)


class Here:
    """Two smart hosts; `now` is the clock."""

    def __init__(self, **hosts: dict[str, Any]) -> None:
        self.now = 1000.0
        self.events: list[str] = []
        self.returned = 0
        self.suspended: set[str] = set()
        self.policy = policy_of(
            smart_hosts={name: {"host": f"{name}.test", "tls": "none", **hosts.get(name, {})} for name in "ab"}
        )
        self.registry = CollectorRegistry()
        self.turns = Turns(
            self.policy,
            lambda kind, _fields: self.events.append(kind),
            SmartHostMetrics(self.registry),
            self.suspended,
            self._count,
            lambda: self.now,
        )

    def _count(self) -> None:
        self.returned += 1

    def turn(self, way: Way = WAY, queue_id: str = "Q") -> Turn | float:
        return self.turns.turn(way, queue_id, self.policy, lambda: 0.5)

    def order(self, way: Way = WAY, queue_id: str = "Q") -> tuple[str, ...]:
        """The order of a turn that nobody takes."""
        turn = self.turn(way, queue_id)
        assert isinstance(turn, Turn)
        turn.cut_off()
        return turn.way.via

    def attempt(self, *answers: tuple[Outcome, bool], way: Way = WAY, queue_id: str = "Q") -> bool:
        """Have the hosts of a turn answer one after the other. True: worth another attempt soon."""
        turn = self.turn(way, queue_id)
        assert isinstance(turn, Turn)
        left = list(answers)

        async def send(transaction: Transaction, peer: Peer, ehlo_name: str, patience: Patience) -> Sent:
            outcome, begun = left.pop(0)
            return Sent(dict.fromkeys(transaction.forward_paths, outcome), begun)

        sent = Sent(dict.fromkeys(WAY.forward_paths, transient("4.4.3", "no address")), begun=True)
        transaction = Transaction("", WAY.forward_paths, Content.of(b""))
        for name in turn.way.via[: len(answers)]:
            peer = Peer(f"{name}.test", ("192.0.2.1",), 25, smart_host=name)
            sent = asyncio.run(turn.watching(send)(transaction, peer, "gw", Patience()))
            if sent.begun:
                break
        return turn.ended(sent)

    def up(self, name: str) -> float | None:
        return self.registry.get_sample_value("egressguard_transport_up", {"transport": name})


def test_the_first_is_left_alone_and_one_message_at_a_time_looks() -> None:
    here = Here()
    for _ in range(3):
        assert here.order() == ("a", "b")
        here.attempt(REFUSED, OK)
    assert (here.order(), here.up("a"), here.up("b")) == (("b",), 0.0, 1.0)
    here.now = 1030.0
    probe = here.turn()
    assert isinstance(probe, Turn) and probe.way.via == ("a", "b")
    assert here.order() == ("b",)  # while it looks, the others pass on
    probe.cut_off()
    here.attempt(REFUSED, OK)
    assert here.order() == ("b",)
    here.now = 1089.0
    assert here.order() == ("b",)
    here.now = 1090.0
    here.attempt(OK)
    assert (here.order(), here.up("a"), here.returned) == (("a", "b"), 1.0, 1)
    assert here.events == ["smart_host.left_alone", "smart_host.back"]


def test_where_all_are_left_alone_there_is_no_turn_until_one_may_look() -> None:
    here = Here(a={"breaker": {"failures": 1}}, b={"breaker": {"failures": 1, "rest_first_seconds": 60}})
    here.attempt(REFUSED, REFUSED)
    assert here.turn() == 1030.0
    here.now = 1030.0
    assert here.order() == ("a",)


def test_a_refused_login_is_enough_and_counted_each_time() -> None:
    here = Here()
    here.attempt(NO_LOGIN, OK)
    assert (here.order(), here.up("a")) == (("b",), 0.0)
    labels = {"transport": "a"}
    assert here.registry.get_sample_value("egressguard_transport_logins_refused_total", labels) == 1
    assert "the login was refused" in here.turns.troubles()[0]


@pytest.mark.parametrize(
    ("answer", "soon"), [(LOST, True), (LATER, False), (OK, False), ((permanent("5.1.1", "no", "a.test"), True), False)]
)
def test_a_message_that_was_lost_goes_to_the_next_one_soon(answer: tuple[Outcome, bool], soon: bool) -> None:
    here = Here()
    assert here.attempt(answer, queue_id="LOST") is soon
    assert here.order(queue_id="OTHER") == ("a", "b")
    assert here.order(queue_id="LOST") == (("b", "a") if soon else ("a", "b"))
    assert here.order(queue_id="LOST") == ("a", "b")  # once


def test_what_was_lost_waits_for_its_time_where_there_is_no_other() -> None:
    here = Here(b={"breaker": {"failures": 1}})
    assert here.attempt(LOST, way=Way(("a",), "", ("x@one.example",))) is False
    here.attempt(LATER, way=Way(("b",), "", ("x@one.example",)))
    here.attempt(REFUSED, way=Way(("b",), "", ("x@one.example",)))
    assert here.attempt(LOST) is False


def test_the_memory_of_lost_messages_is_bounded() -> None:
    here = Here(a={"breaker": {"failures": 10**6}})
    for number in range(AVOIDED_MESSAGES + 10):
        here.attempt(LOST, queue_id=f"Q{number}")
    assert len(here.turns._avoid) == AVOIDED_MESSAGES


def test_the_breaker_is_shared_by_all_ways() -> None:
    here = Here(a={"breaker": {"failures": 1}})
    here.attempt(REFUSED, OK)
    assert here.turn(Way(("a",), "", ("x@one.example",))) == 1030.0
    assert here.order(Way(("b", "a"), "", ("x@one.example",))) == ("b",)


def test_one_that_cannot_be_found_is_left_alone_like_one_that_is_silent() -> None:
    here = Here(a={"breaker": {"failures": 1}, "rate": {"messages_per_minute": 1}}, b={"breaker": {"failures": 1}})
    here.attempt()  # DNS knows neither
    assert here.turn() == 1030.0
    here.now = 1030.0
    here.attempt(OK)
    assert here.turn() != 1030.0  # nothing was counted for the attempt that never was


def test_what_was_refused_a_connection_is_not_counted() -> None:
    here = Here(a={"rate": {"messages_per_minute": 1}}, b={"rate": {"messages_per_minute": 1}})
    here.attempt(REFUSED, OK)
    assert here.turn(Way(("b",), "", ("x@one.example",))) == 1065.0  # b has had its one
    here.attempt(OK)  # and a none
    assert here.turn() == 1065.0


def test_rules_that_change_keep_what_is_known() -> None:
    here = Here(a={"breaker": {"failures": 1}})
    here.attempt(REFUSED, OK)
    here.turns.take_policy(here.policy)
    assert here.order() == ("b",)
    here.turns.take_policy(policy_of(smart_hosts={"b": {"host": "b.test", "tls": "none"}}))
    assert here.up("a") is None
    assert [row["smart_host"] for row in here.turns.rows()] == ["b"]


def test_a_suspended_one_is_passed_over() -> None:
    here = Here()
    here.suspended.add("a")
    assert here.order() == ("b",)
    here.suspended.add("b")
    assert here.turn() == 1010.0
