"""An explanation tells the same as the decision, and says of each earlier rule what failed first."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from egressguard.net.flow import Flow, Protocol
from egressguard.policy.decision import FlowAction
from egressguard.policy.explain import BUILT_IN, explain_flow, explain_mail
from egressguard.policy.facts import Attachment, Excess, MailFacts, Moment, ScanReport
from egressguard.policy.flows import Surroundings, decide_flow
from egressguard.policy.load import parse_rules
from egressguard.policy.mail import decide_mail
from egressguard.policy.matchers import MATCHERS
from egressguard.policy.mismatch import WORDS
from egressguard.policy.model import Policy
from egressguard.policy.verdict import Verdict

SITE = b"""
site:
  zones: {lan: {interfaces: eth1, networks: [192.0.2.0/25, "2001:db8:1::/64"]}, guest: {networks: 192.0.2.128/25}}
  sets: {servers: [192.0.2.8/29, "2001:db8:1::8/125"], none: []}
  mac_sets: {cards: ["00:53:00:00:00:01", "00:53:00:00:00:02"]}
  domains: [site.example]
  relay: {listeners: {lan: {kind: smtp, port: 25}, submission: {kind: submission, port: 587}}, redirect_to: lan}
  smart_hosts: {provider: {host: smtp.provider.example}}
devices:
  - {name: printer, addresses: 192.0.2.70, senders: printer@site.example, recipients: "*@site.example"}
limits:
  - {name: few, per: host, messages_per_hour: 3}
  - {name: soft, per: host, messages_per_hour: 2, staged: true}
flows:
  - {name: nobody, source: "@none", action: drop}
  - {name: servers, from: lan, source: "@servers", port: [25, 587], action: allow}
  - {name: by-name, port: 25, destination_host: mx.partner.example, decide: queue, action: allow}
  - {name: soon, from: guest, action: reject, staged: true}
  - {name: wired, from: lan, port: 80, source_mac: "@cards", hours: "22:00-06:00", action: drop}
  - {name: disguised, from: lan, speaks: smtp, action: reject}
  - {name: guests, from: guest, port: 25, action: redirect}
  - {name: udp, protocol: udp, destination: 198.51.100.0/24, action: drop}
  - {name: block, from: [lan, guest], port: 25, action: reject}
mail:
  - {name: marks, match: {client: lan}, action: continue, tag: inside, limit: soft, add_header: {X-A: b}}
  - {name: bad, match: {verdict: infected, authenticated: true}, action: quarantine}
  - {name: try, match: {sender_domain: "@local"}, action: reject, staged: true}
  - {name: night, match: {hours: "22:00-06:00", weekdays: mon-fri}, action: hold}
  - {name: locked, match: {attachment_encrypted: true, attachment_name: "*.zip"}, action: quarantine}
  - {name: large, match: {larger_than_octets: 1000, more_than_recipients: 2}, action: reject}
  - {name: subject, match: {header: {Subject: "*!!!*"}, helo: "*.dyn.example"}, action: defer}
  - {name: score, match: {score_at_least: 6}, action: reject}
  - {name: users, match: {authenticated: true, tls: true}, action: accept, limit: few, route: [provider]}
  - {name: devices, match: {device: "@any"}, action: accept}
  - {name: own, match: {recipient_domain: "@local"}, action: accept}
"""


def policy_of() -> Policy:
    loaded = parse_rules({"a.yaml": SITE})
    assert loaded.policy is not None, loaded.faults
    return loaded.policy


POLICY = policy_of()
ADDRESSES = [
    *("192.0.2.7", "192.0.2.8", "192.0.2.15", "192.0.2.16", "192.0.2.70", "192.0.2.200", "203.0.113.1"),
    *("2001:db8:1::8", "2001:db8:2::8", "::ffff:192.0.2.9"),
]
addresses = st.sampled_from(ADDRESSES).map(ip_address)
flows = st.builds(
    Flow,
    addresses,
    st.sampled_from(["198.51.100.25", "203.0.113.9", "2001:db8:9::9"]).map(ip_address),
    st.sampled_from([25, 80, 587]),
    st.sampled_from(["", "eth1", "wan0"]),
    st.sampled_from(Protocol),
    source_mac=st.sampled_from(["", "00:53:00:00:00:02", "00:53:00:00:00:03"]),
    speaks=st.sampled_from(["", "smtp"]),
)
moments = st.sampled_from([None, Moment(0, 60), Moment(6, 60), Moment(2, 720)])
reports = st.builds(
    ScanReport,
    st.sampled_from([None, *Verdict]),
    st.just(("a finding",)),
    st.sampled_from([None, (), (Attachment(("a.zip", "b"), "x/y", 1, encrypted=True),)]),
    st.sampled_from([0.0, 6.0, None]),
)
facts = st.builds(
    MailFacts,
    client=addresses,
    listener=st.sampled_from(["lan", "submission"]),
    helo=st.sampled_from(["", "pc.dyn.example"]),
    tls=st.booleans(),
    user=st.sampled_from([None, "anna"]),
    reverse_path=st.sampled_from(["", "anna@site.example", "printer@site.example", "x@y.example"]),
    forward_path=st.sampled_from(["bert@far.example", "eva@site.example", "postmaster"]),
    moment=moments,
    exceeded=st.sampled_from([{}, {"few": Excess("k", "u", 3, 4)}, {"soft": Excess("k", "u", 2, 3)}]),
    recipient_count=st.sampled_from([None, 1, 3]),
    size_octets=st.sampled_from([None, 1000, 1001]),
    headers=st.sampled_from([None, {}, {"subject": ("now!!!",)}]),
    scan=st.one_of(st.none(), reports),
)
names = st.sampled_from([None, frozenset(), frozenset({ip_address("198.51.100.25")})])


@settings(max_examples=400, deadline=None)
@given(flows, names, moments)
def test_a_flow_is_explained_as_it_is_decided(
    flow: Flow, known: frozenset[object] | None, moment: Moment | None
) -> None:
    around = Surroundings(frozenset(), lambda _name: known, lambda: moment)  # type: ignore[arg-type,return-value]
    decision = decide_flow(POLICY, flow, around)
    told = explain_flow(POLICY, flow, around)
    assert told.decision == decision
    last = told.steps[-1]
    if decision.rule:
        assert last.rule == decision.rule and last.outcome == ("unknown" if decision.action is None else "decides")
    else:
        assert last.outcome in {"failed", "would"} and decision.action is FlowAction.ALLOW
    asked = [step.rule for step in told.steps if step.at != BUILT_IN]
    assert asked + list(told.later) == [rule.name for rule in POLICY.flows]
    assert [w.rule for w in decision.would] == [step.rule for step in told.steps if step.outcome == "would"]


@settings(max_examples=600, deadline=None)
@given(facts)
def test_a_message_is_explained_as_it_is_decided(message: MailFacts) -> None:
    decision = decide_mail(POLICY, message)
    told = explain_mail(POLICY, message)
    assert told.decision == decision
    last = told.steps[-1]
    if decision.rule == "(none)":
        assert last.outcome == "failed" and told.later == ()
    else:
        assert last.rule == decision.rule and last.outcome in {"decides", "unknown"}
    assert [step.rule for step in told.steps] + list(told.later) == [rule.name for rule in POLICY.mail]
    assert all(step.words for step in told.steps)


def words_of(**given: object) -> dict[str, str]:
    usual = {"client": ip_address("192.0.2.7"), "listener": "lan", "scan": ScanReport(Verdict.CLEAN, (), ())}
    usual |= {"moment": Moment(2, 720), "size_octets": 5, "recipient_count": 1, "headers": {}}
    told = explain_mail(POLICY, MailFacts(**(usual | given)))  # type: ignore[arg-type]
    return {step.rule: step.words for step in told.steps}


@pytest.mark.parametrize(
    ("given_", "rule", "words"),
    [
        ({}, "marks", "goes on, adds header X-A; tag inside; limit soft"),
        ({"client": ip_address("203.0.113.9")}, "marks", "client: 203.0.113.9 is not in lan"),
        ({}, "bad", "authenticated: no, the rule wants yes"),
        ({"user": "anna"}, "bad", "verdict: clean is not infected"),
        (
            {"user": "anna", "scan": ScanReport(None, ("clamd is down",))},
            "bad",
            "verdict: not known, a scanner did not answer (clamd is down)",
        ),
        ({}, "night", "hours: 12:00 is not in 22:00-06:00"),
        ({"moment": Moment(5, 60)}, "night", "weekdays: sat is not one of mon, tue, wed, thu, fri"),
        ({"reverse_path": "a@site.example"}, "try", "staged: would reject"),
        ({"reverse_path": "a@b\x1bx.example"}, "try", "sender_domain: "),
        (
            {"headers": {"subject": ("hello",)}, "helo": "x.dyn.example"},
            "subject",
            "header: Subject: hello is not *!!!*",
        ),
        ({"user": "anna"}, "users", "tls: no, the rule wants yes"),
        ({"client": ip_address("192.0.2.70")}, "devices", "device: printer may not send as <>"),
        ({"forward_path": "x@site.example"}, "own", "accept"),
    ],
)
def test_what_failed_first_is_said(given_: dict[str, object], rule: str, words: str) -> None:
    told = words_of(**given_)[rule]
    assert told.startswith(words) and told.isprintable()


def test_a_limit_that_decides_is_named() -> None:
    told = words_of(user="anna", tls=True, exceeded={"few": Excess("host 192.0.2.7", "messages_per_hour", 3, 4)})
    assert told["users"].startswith("above limit few (a.yaml:12:5): 4 messages_per_hour for host 192.0.2.7")


def test_every_matcher_has_its_words() -> None:
    assert WORDS.keys() == MATCHERS.keys()
