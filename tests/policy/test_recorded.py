"""What the journal says of decisions can be read back, and nothing that it says is believed blindly."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from egressguard.policy.facts import Attachment, Authentication, ScanReport
from egressguard.policy.recorded import recorded_flow, recorded_mail, told_headers, told_recipients, told_scan
from egressguard.policy.verdict import Verdict

ASKED = frozenset({"verdict", "score"})
MAIL: dict[str, Any] = {
    "client": "192.0.2.7",
    "listener": "lan",
    "helo": "printer",
    "tls": False,
    "user": None,
    "original_destination": None,
    "sender": "a@example.org",
    "recipients": ["b@example.net"],
    "recipient_count": 1,
    "size_octets": 100,
    "rule": "users",
    "decided_at": 5.0,
}
FLOW: dict[str, Any] = {
    "source": "192.0.2.7",
    "destination": "2001:db8::7",
    "port": 25,
    "protocol": "tcp",
    "action": "reject",
    "rule": "block",
    "count": 2,
    "first": 1.0,
    "last": 2.0,
}


@pytest.mark.parametrize(
    "report",
    [
        ScanReport(Verdict.CLEAN, (), ()),
        ScanReport(Verdict.CLEAN, (), (), score=3.5),
        ScanReport(None, ("down",), None, score=None),
        ScanReport(Verdict.DENIED, ("x",), (Attachment(("a.zip", "run.exe"), "application/x", 7, encrypted=True),)),
        ScanReport(Verdict.INFECTED, (), (Attachment(("a",), "text/html", 1, macro=True, active=True),)),
    ],
)
def test_what_scanning_said_comes_back(report: ScanReport) -> None:
    row = json.loads(json.dumps(MAIL | told_scan(report, ASKED) | {"findings": report.findings}))
    found = recorded_mail(6.0, "mail.accepted", row)
    assert found is not None
    assert (found.report, found.has_score, found.asked_engines, found.at) == (report, True, True, 5.0)


def test_most_messages_take_a_word() -> None:
    assert told_scan(ScanReport(Verdict.CLEAN, (), ()), frozenset({"verdict"})) == {"scan": "clean"}


def test_what_was_not_recorded_is_not_known() -> None:
    found = recorded_mail(6.0, "mail.accepted", {key: MAIL[key] for key in MAIL if key != "decided_at"})
    assert found is not None
    assert (found.report, found.authentication, found.lists, found.headers) == (None, None, None, {})
    assert (found.at, found.action) == (6.0, "accept")


def test_trouble_of_our_own_does_not_hide_what_was_decided() -> None:
    found = recorded_mail(6.0, "mail.deferred", MAIL | {"decided": "accept"})
    assert found is not None and found.action == "accept"


def test_everything_recorded_of_a_message_is_bounded() -> None:
    many = tuple(f"{number}@example.net" for number in range(1000))
    assert told_recipients(many, 5) == {}
    assert told_recipients(many[:8], 5) == {"more_recipients": list(many[5:8])}
    assert told_headers({"subject": ("x" * 10_000,)}, frozenset({"subject"})) == {}
    assert told_headers({}, frozenset({"subject"})) == {"headers": {"subject": []}}
    report = ScanReport(Verdict.CLEAN, (), (Attachment(("x" * 10_000,), "text/plain", 1),))
    assert told_scan(report, ASKED) == {"scan": {"verdict": "clean", "score": 0.0, "attachments": None}}


def test_facts_of_the_world_come_back() -> None:
    row = MAIL | {"authentication": {"spf": "pass"}, "block_lists": [], "headers": {"subject": ["x"]}}
    found = recorded_mail(6.0, "mail.accepted", row)
    assert found is not None
    assert found.authentication == Authentication(spf="pass")
    assert (found.lists, found.headers) == (frozenset(), {"subject": ("x",)})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(deadline=None)
@given(st.sampled_from([*MAIL, "scan", "authentication", "headers", "block_lists", "more_recipients", "stage"]), JSON)
def test_no_row_of_a_message_is_too_odd(key: str, value: object) -> None:
    recorded_mail(6.0, "mail.accepted", MAIL | {key: value})


@settings(deadline=None)
@given(st.sampled_from([*FLOW, "hosts", "inside", "speaks", "mac"]), JSON)
def test_no_row_of_a_flow_is_too_odd(key: str, value: object) -> None:
    found = recorded_flow(FLOW | {key: value})
    assert found is None or found.count >= 1


@pytest.mark.parametrize("key", FLOW)
def test_a_flow_without_what_it_needs_is_none(key: str) -> None:
    found = recorded_flow({name: value for name, value in FLOW.items() if name != key})
    assert (found is None) is (key not in {"port", "rule"})
