from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egressguard.mail.outcome import Outcome, Result
from egressguard.policy.relaying import AddressFamily
from egressguard.relay.route import (
    MAX_HOSTS,
    AddressAnswer,
    Answer,
    Exchange,
    MxAnswer,
    interleaved,
    literal_address,
    of_family,
    order_exchanges,
    reachable_hosts,
)

D = "example.net"


def mx(*hosts: tuple[int, str]) -> MxAnswer:
    return MxAnswer(Answer.FOUND, hosts)


def never(_text: str) -> bool:
    return False


def hosts(answer: Sequence[Exchange] | Outcome) -> list[str]:
    assert not isinstance(answer, Outcome), answer
    return [exchange.host for exchange in answer]


def said(answer: object) -> tuple[Result, str]:
    assert isinstance(answer, Outcome)
    return answer.result, answer.status


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (MxAnswer(Answer.NO_SUCH_NAME), (Result.PERMANENT, "5.1.2")),
        (MxAnswer(Answer.FAILED), (Result.TRANSIENT, "4.4.3")),
        (mx((0, "")), (Result.PERMANENT, "5.1.10")),
        (mx((0, ".")), (Result.PERMANENT, "5.1.10")),
        (mx((10, ".")), (Result.PERMANENT, "5.1.10")),  # RFC 7505 s3 wants preference 0; a sender need not care
        (mx((0, "."), (0, "")), (Result.PERMANENT, "5.1.10")),
    ],
)
def test_dns_dictates(answer: MxAnswer, expected: tuple[Result, str]) -> None:
    assert said(order_exchanges(D, answer, lambda: 0.5)) == expected


@pytest.mark.parametrize("answer", [MxAnswer(Answer.NOTHING), MxAnswer(Answer.FOUND)])
def test_without_mx_the_domain_itself_takes_the_mail(answer: MxAnswer) -> None:
    assert hosts(order_exchanges(D, answer, lambda: 0.5)) == [D]


def test_a_host_that_stands_twice_is_tried_once_at_its_best() -> None:
    records = mx((30, "A.example.net."), (10, "b.example.net"), (20, "a.example.net"))
    assert order_exchanges(D, records, lambda: 0.5) == (Exchange(10, "b.example.net"), Exchange(20, "a.example.net"))


def test_mx_hosts_without_addresses_do_not_bring_the_domain_itself_back() -> None:
    """RFC 5321 s5.1: where there are MX records, the domain's own addresses are not to be used."""
    found = reachable_hosts(D, (Exchange(10, "a"),), {"a": AddressAnswer(Answer.NO_SUCH_NAME)}, never)
    assert said(found) == (Result.PERMANENT, "5.4.4")


def test_a_null_mx_beside_real_ones_does_not_count() -> None:
    assert hosts(order_exchanges(D, mx((0, "."), (10, "mx.example.net.")), lambda: 0.5)) == ["mx.example.net"]


EXCHANGES = st.lists(
    st.tuples(st.integers(0, 3), st.sampled_from([f"mx{n}.example.net" for n in range(30)])), min_size=1
)


@given(EXCHANGES, st.randoms(use_true_random=False))
def test_the_better_preference_is_always_tried_first(records: list[tuple[int, str]], random: object) -> None:
    ordered = order_exchanges(D, mx(*records), random.random)  # type: ignore[attr-defined]
    assert not isinstance(ordered, Outcome)
    preferences = [exchange.preference for exchange in ordered]
    assert preferences == sorted(preferences)
    best = {host: min(p for p, other in records if other == host) for _, host in records}
    assert len(ordered) == min(len(best), MAX_HOSTS)
    assert all(exchange.preference == best[exchange.host] for exchange in ordered)


@pytest.mark.parametrize(("preference", "better"), [(5, 0), (10, 0), (20, MAX_HOSTS)])
def test_we_are_found_among_more_hosts_than_are_looked_at(preference: int, better: int) -> None:
    records = mx(*((10, f"mx{n:02}.example.net") for n in range(30)), (preference, "Zz.Gateway.example."))
    ordered = order_exchanges(D, records, lambda: 0.5, "zz.gateway.example")
    answers = {host: AddressAnswer(Answer.FOUND, ("192.0.2.1",)) for host in hosts(ordered)}
    assert not isinstance(ordered, Outcome)
    found = reachable_hosts(D, ordered, answers, lambda text: text == "zz.gateway.example")
    if better:
        assert len(found) == better  # type: ignore[arg-type]
    else:
        assert said(found) == (Result.PERMANENT, "5.4.6")


def test_equal_preferences_share_the_load_by_chance() -> None:
    records = mx((10, "a.example.net"), (10, "b.example.net"))
    one, other = iter([0.1, 0.9]), iter([0.9, 0.1])
    assert hosts(order_exchanges(D, records, lambda: next(one))) == ["a.example.net", "b.example.net"]
    assert hosts(order_exchanges(D, records, lambda: next(other))) == ["b.example.net", "a.example.net"]


THREE = (Exchange(10, "a"), Exchange(20, "b"), Exchange(20, "c"), Exchange(30, "d"))
ANSWERS = {name: AddressAnswer(Answer.FOUND, (f"192.0.2.{n}",)) for n, name in enumerate("abcd", 1)}


@pytest.mark.parametrize(
    ("ours", "kept"),
    [((), "abcd"), (("b",), "a"), (("192.0.2.3",), "a"), (("d",), "abc"), (("192.0.2.4", "b"), "a")],
)
def test_ourselves_and_all_that_is_no_better_are_left_out(ours: tuple[str, ...], kept: str) -> None:
    found = reachable_hosts(D, THREE, ANSWERS, lambda text: text in ours)
    assert not isinstance(found, Outcome)
    assert "".join(host.name for host in found) == kept


def test_when_we_are_the_best_it_is_a_loop() -> None:
    assert said(reachable_hosts(D, THREE, ANSWERS, lambda text: text == "a")) == (Result.PERMANENT, "5.4.6")


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (Answer.NOTHING, Answer.NO_SUCH_NAME, (Result.PERMANENT, "5.4.4")),
        (Answer.NOTHING, Answer.FAILED, (Result.TRANSIENT, "4.4.3")),
    ],
)
def test_hosts_without_addresses(a: Answer, b: Answer, expected: tuple[Result, str]) -> None:
    answers = {"a": AddressAnswer(a), "b": AddressAnswer(b)}
    assert said(reachable_hosts(D, THREE[:2], answers, never)) == expected


def test_a_host_without_an_address_is_passed_over() -> None:
    answers = ANSWERS | {"a": AddressAnswer(Answer.FAILED)}
    found = reachable_hosts(D, THREE, answers, never)
    assert not isinstance(found, Outcome)
    assert [host.name for host in found] == ["b", "c", "d"]


@pytest.mark.parametrize(
    ("domain", "address"),
    [("[192.0.2.1]", "192.0.2.1"), ("[ipv6:2001:db8::1]", "2001:db8::1"), ("example.net", None)],
)
def test_address_literals(domain: str, address: str | None) -> None:
    assert literal_address(domain) == address


def test_a_broken_ipv6_costs_one_address_only() -> None:
    assert interleaved(["6a", "6b", "6c"], ["4a"]) == ("6a", "4a", "6b", "6c")
    assert interleaved([], ["4a", "4b"]) == ("4a", "4b")


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        ("ipv6-first", ("6:a", "4a", "6:b", "4b", "6:c")),
        ("ipv4-first", ("4a", "6:a", "4b", "6:b", "6:c")),
        ("ipv6-only", ("6:a", "6:b", "6:c")),
        ("ipv4-only", ("4a", "4b")),
    ],
)
def test_the_rules_say_which_family_comes_first(family: AddressFamily, expected: tuple[str, ...]) -> None:
    assert of_family(("6:a", "4a", "6:b", "4b", "6:c"), family) == expected
