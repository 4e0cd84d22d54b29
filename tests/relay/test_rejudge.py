"""Backtest equals reality, for messages: a recorded day judged again is what the day is under those rules, live."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from egressguard.policy.backtest import GOES_ON, UNKNOWN, Change, Outcome, Tally
from egressguard.policy.facts import Attachment, Authentication, ScanReport
from egressguard.policy.recorded import RecordedMail
from egressguard.policy.site import Scan
from egressguard.policy.verdict import Verdict
from egressguard.relay.rejudge import MailJudge, scan_again, tally_mail
from tests.relay.past_day import (
    Played,
    first,
    play,
    policy_of,
    rules,
    set_limit,
    set_rule,
    set_site,
    without,
)

CHANGES: dict[str, list[Callable[[dict[str, Any]], object]]] = {
    "malware-refused": [set_rule("malware", action="reject", folder=None)],
    "denied-let-through": [without("mail", "denied")],
    "more-names-denied": [set_site("scan", "denied_names", to=["*.exe", "*.iso"])],
    "no-names-denied": [set_site("scan", "denied_names", to=["*.bat"])],
    "users-closed": [without("mail", "users")],
    "users-over-tls-in-the-morning": [set_rule("users", match={"authenticated": True, "hours": "00:00-12:00"})],
    "one-user-closed": [first({"name": "no-bert", "match": {"user": "bert"}, "action": "reject"})],
    "printer-anybody": [lambda given: given["devices"][0].update(senders=["*@site.example"])],
    "printer-gone": [without("mail", "printer")],
    "guests-closed": [without("mail", "guests")],
    "guests-unlimited": [set_rule("guests", limit=None)],
    "guests-one-domain": [set_limit("new", new_destinations_per_day=1)],
    "guests-deferred": [set_limit("new", new_destinations_per_day=1, above="defer")],
    "relay-for-the-lan": [first({"name": "lan", "match": {"client": "lan"}, "action": "accept"})],
    "open-relay": [lambda given: given["mail"].append({"name": "all", "match": {}, "action": "accept"})],
    "tight-limit": [set_limit("per-user", recipients_per_hour=3)],
    "limit-contains": [set_limit("per-user", recipients_per_hour=5, above="contain", contain_seconds=3600)],
    "large-mail": [first({"name": "large", "match": {"larger_than_octets": 10_000}, "action": "defer"})],
    "many-recipients": [first({"name": "many", "match": {"more_than_recipients": 1}, "action": "hold"})],
    "one-partner": [first({"name": "partner", "match": {"recipient": "*@partner.example"}, "action": "quarantine"})],
    "invoices-through": [without("mail", "invoices")],
    "servers-elsewhere": [set_site("sets", "servers", to=["192.0.2.26"])],
    "another-field": [first({"name": "shop", "match": {"header": {"X-Mailer": "Shop*"}}, "action": "hold"})],
    "other-domain-ours": [set_site("domains", to=["site.example", "mx.example"])],
    "names-and-order-only": [set_rule("users", name="people"), set_rule("own", name="ours")],
}

EVERY = 1 if os.environ.get("EGRESSGUARD_CHANGES") == "all" else 5
"""Each of them, or (a day takes a second) every fifth."""


@pytest.fixture(scope="module")
def past(tmp_path_factory: pytest.TempPathFactory) -> Played:
    return play(rules(), tmp_path_factory.mktemp("past"))


def predicted(past: Played, judge: MailJudge) -> Iterator[tuple[int, Counter[str]]]:
    """For each message of the past, in order: what the backtest says of its recipients."""
    for number, rows in past.rows.items():
        found = Counter[str]()
        for row in rows:
            for outcome, recipients in judge.outcomes(row).items():
                found[outcome.action] += recipients
        yield number, found


def test_the_same_rules_give_no_difference(past: Played) -> None:
    tally, judge = Tally(), MailJudge(rules())
    for rows in past.rows.values():
        for row in rows:
            tally_mail(tally, row, judge)
    assert tally.is_same and tally.judged["message"] == sum(map(len, past.rows.values()))
    assert {action for found in past.actions.values() for action in found} == {
        "accept",
        "reject",
        "quarantine",
        "hold",
    }, "a day on which little happens proves little"


@pytest.mark.parametrize("name", list(CHANGES)[::EVERY])
def test_other_rules_give_the_differences_of_a_live_day(past: Played, tmp_path: Path, name: str) -> None:
    changed = rules(*CHANGES[name])
    live = play(changed, tmp_path / "live")

    wrong, differences = {}, 0
    for number, found in predicted(past, MailJudge(changed)):
        goes_on = found.pop(GOES_ON, 0)
        if goes_on:  # its content was never seen: what is known is that RCPT takes it
            ok = live.at_rcpt[number]["goes on"] >= goes_on and live.at_rcpt[number] - Counter(
                {"goes on": goes_on}
            ) >= Counter({action: n for action, n in found.items() if past.at_rcpt[number][action]})
        else:
            ok = found == live.actions[number]
        if not ok:
            wrong[number] = (found, goes_on, live.actions[number], live.at_rcpt[number])
        differences += found != past.actions[number]
    assert wrong == {}
    assert (differences > 0) is (name not in {"names-and-order-only"})


FACTS = RecordedMail(
    at=1_795_593_600.0,
    client=ip_address("192.0.2.7"),
    listener="lan",
    helo="x",
    tls=False,
    user=None,
    is_redirected=False,
    reverse_path="a@site.example",
    forward_paths=("b@mx.example",),
    recipient_count=1,
    size_octets=100,
    is_whole=True,
    action="accept",
    rule="all",
    report=ScanReport(Verdict.CLEAN, (), ()),
)
WORLD = replace(FACTS, client=ip_address("203.0.113.9"))
ALL = {"name": "all", "match": {}, "action": "accept"}


@pytest.mark.parametrize(
    ("recorded", "rule", "action"),
    [
        (FACTS, {"match": {"header": {"Subject": "*"}}, "action": "reject"}, UNKNOWN),
        (
            replace(FACTS, headers={"subject": ()}),
            {"match": {"header": {"Subject": "*"}}, "action": "reject"},
            "accept",
        ),
        (replace(FACTS, has_all_headers=True), {"match": {"header": {"Subject": "*"}}, "action": "reject"}, "accept"),
        (FACTS, {"match": {"header": {"Subject": "*"}, "user": "anna"}, "action": "reject"}, "accept"),
        (replace(FACTS, report=None), {"match": {"verdict": "infected"}, "action": "reject"}, UNKNOWN),
        (replace(FACTS, report=None), {"match": {"tls": True}, "action": "reject"}, "accept"),
        (WORLD, {"match": {"spf": "fail"}, "action": "reject"}, UNKNOWN),
        (replace(WORLD, authentication=Authentication()), {"match": {"spf": "fail"}, "action": "reject"}, "accept"),
        (FACTS, {"match": {"spf": "fail"}, "action": "reject"}, "accept"),
        (WORLD, {"match": {"block_list": ["zen"]}, "action": "reject"}, UNKNOWN),
        (replace(WORLD, lists=frozenset({"zen"})), {"match": {"block_list": ["zen"]}, "action": "reject"}, "reject"),
        (replace(FACTS, recipient_count=9), {"match": {"tls": True}, "action": "reject"}, UNKNOWN),
    ],
)
def test_what_was_not_recorded_is_never_guessed(recorded: RecordedMail, rule: dict[str, Any], action: str) -> None:
    given = {
        "site": {
            "zones": {"lan": {"networks": "192.0.2.0/24"}},
            "relay": {"listeners": {"lan": {"kind": "smtp", "port": 25}}},
            "block_lists": {"zen": {"zone": "zen.dnsbl.example"}},
        },
        "mail": [{"name": "new"} | rule, ALL],
    }
    assert [outcome.action for outcome in MailJudge(policy_of(given)).outcomes(recorded)] == [action]


def test_a_scanner_that_was_down_is_a_fact() -> None:
    """It was deferred then, and would be now: no difference, and nothing unknown."""
    given = {
        "site": {"zones": {"lan": {"networks": "192.0.2.0/24"}}},
        "mail": [{"name": "malware", "match": {"verdict": "infected"}, "action": "reject"}, ALL],
    }
    down = replace(FACTS, report=ScanReport(None, ("down",), None, score=None), action="defer", rule="malware")
    tally = Tally()
    tally_mail(tally, down, MailJudge(policy_of(given)))
    assert tally.is_same


EXE = (Attachment(("run.exe",), "application/x-dosexec", 7),)
BY_NAME, BROKEN = ("denied name: run.exe",), ("broken archive",)


@pytest.mark.parametrize(
    ("verdict", "findings", "denied", "expected"),
    [
        (Verdict.CLEAN, (), ["*.exe"], Verdict.DENIED),
        (Verdict.CLEAN, (), ["*.bat"], Verdict.CLEAN),
        (Verdict.AMBIGUOUS, ("x",), ["*.exe"], Verdict.DENIED),
        (Verdict.DENIED, BY_NAME, ["*.bat"], Verdict.CLEAN),
        (Verdict.DENIED, BROKEN, ["*.bat"], Verdict.DENIED),
        (Verdict.DENIED, BY_NAME + BROKEN, ["*.bat"], None),
        (Verdict.INFECTED, BY_NAME, ["*.bat"], Verdict.INFECTED),
    ],
)
def test_names_are_denied_by_the_new_settings(
    verdict: Verdict, findings: tuple[str, ...], denied: list[str], expected: Verdict | None
) -> None:
    recorded = replace(FACTS, report=ScanReport(verdict, findings, EXE))
    assert scan_again(recorded, Scan(denied_names=denied)).verdict is expected


def test_a_message_that_splits_is_told_once_for_each_new_end() -> None:
    given = {
        "site": {"zones": {"lan": {"networks": "192.0.2.0/24"}}},
        "mail": [{"name": "no-b", "match": {"recipient": "b@mx.example"}, "action": "reject"}, ALL],
    }
    tally = Tally()
    both = replace(FACTS, forward_paths=("b@mx.example", "c@mx.example"), recipient_count=2)
    tally_mail(tally, both, MailJudge(policy_of(given)))
    (line,) = tally.lines
    assert (line.before, line.after) == (Outcome("accept", "all"), Outcome("reject", "no-b"))
    assert tally.changes == {Change.STOPPED: 1}
