"""Truth tables of message rules: each matcher, three-valued logic, before and after the content is known."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import replace
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egressguard.policy.decision import MailAction, MailDecision
from egressguard.policy.facts import Attachment, MailFacts, ScanReport
from egressguard.policy.load import parse_rules
from egressguard.policy.mail import asks_of_engines, decide_envelope, decide_mail, strictest
from egressguard.policy.matchers import answers, device_of, matches
from egressguard.policy.model import Policy
from egressguard.policy.verdict import Verdict

PolicyOf = Callable[[str], Policy]

DEVICES = """
devices:
  - {name: printer, addresses: [192.168.1.70, "fd00::70"], senders: p@example.org, recipients: "*@example.org"}
  - {name: nas, addresses: 192.168.1.71, senders: ["<>", nas@example.org]}
"""
CLEAN = ScanReport(Verdict.CLEAN, attachments=())
INFECTED = ScanReport(Verdict.INFECTED, ("eicar",), ())
UNKNOWN = ScanReport(None, ("clamd does not answer",))
MAIL = MailFacts(
    client=ip_address("192.168.1.9"),
    listener="lan",
    reverse_path="anna@example.org",
    forward_path="bob@far.example",
    size_octets=1000,
    scan=CLEAN,
)


def with_attachment(*path: str, media_type: str = "text/plain") -> MailFacts:
    return replace(MAIL, scan=ScanReport(Verdict.CLEAN, (), (Attachment(path, media_type, 5),)))


def client(address: str) -> MailFacts:
    return replace(MAIL, client=ip_address(address))


@pytest.mark.parametrize(
    ("match", "facts", "answer"),
    [
        ("{}", MAIL, True),
        ("{client: lan}", MAIL, True),
        ("{client: lan}", client("::ffff:192.168.1.9"), True),
        ("{client: lan}", client("198.51.100.1"), False),
        ("{client: [lan, dmz]}", client("198.51.100.1"), True),
        ("{client: 192.168.1.8/31}", MAIL, True),
        ("{client: 192.168.1.9}", client("192.168.1.8"), False),
        ('{client: "@mail-servers"}', client("fd00::25"), True),
        ('{client: "@mail-servers"}', MAIL, False),
        ('{client: "@nobody"}', MAIL, False),
        ('{client: ["@nobody", lan]}', MAIL, True),
        ("{listener: submission}", MAIL, False),
        ("{listener: [submission, lan]}", MAIL, True),
        ("{redirected: true}", MAIL, False),
        ("{redirected: false}", MAIL, True),
        ("{redirected: true}", replace(MAIL, redirected=True), True),
        ("{authenticated: true}", MAIL, False),
        ("{authenticated: true}", replace(MAIL, user="anna"), True),
        ("{authenticated: false}", replace(MAIL, user="anna"), False),
        ("{user: anna}", MAIL, False),
        ("{user: [anna, bob]}", replace(MAIL, user="bob"), True),
        ("{user: anna}", replace(MAIL, user="Anna"), False),
        ("{tls: true}", MAIL, False),
        ("{tls: true}", replace(MAIL, tls=True), True),
        ("{tls: false}", MAIL, True),
        ("{sender: anna@example.org}", MAIL, True),
        ('{sender: "<>"}', MAIL, False),
        ('{sender: "<>"}', replace(MAIL, reverse_path=""), True),
        ('{sender_domain: "@local"}', MAIL, True),
        ('{sender_domain: "@local"}', replace(MAIL, reverse_path=""), False),
        ("{recipient: '*@far.example'}", MAIL, True),
        ("{recipient_domain: .far.example}", MAIL, False),
        ("{recipient_domain: [x.example, far.example]}", MAIL, True),
        ('{recipient_domain: "@local"}', MAIL, False),
        ('{recipient_domain: "@local"}', replace(MAIL, forward_path="bob@mail.EXAMPLE.org"), True),
        ('{recipient_domain: "@local"}', replace(MAIL, forward_path="postmaster"), True),
        ("{recipient_domain: far.example}", replace(MAIL, forward_path="postmaster"), False),
        ("{larger_than_octets: 999}", MAIL, True),
        ("{larger_than_octets: 1000}", MAIL, False),
        ("{larger_than_octets: 0}", replace(MAIL, size_octets=None), None),
        ('{attachment_name: "*.exe"}', MAIL, False),
        ('{attachment_name: "*.exe"}', with_attachment("a.zip", "RUN.EXE"), True),
        ('{attachment_name: "*.zip"}', with_attachment("a.zip", "run.exe"), True),
        ('{attachment_name: "*.exe"}', with_attachment("exe.txt"), False),
        ('{attachment_name: "*"}', replace(MAIL, scan=None), None),
        ('{attachment_name: "*"}', replace(MAIL, scan=UNKNOWN), None),
        ('{attachment_type: "application/*"}', with_attachment("a", media_type="application/x-dosexec"), True),
        ('{attachment_type: "application/*"}', with_attachment("a.exe"), False),
        ('{attachment_type: "Text/Plain"}', with_attachment("a"), True),
        ("{attachment_type: x/y}", replace(MAIL, scan=UNKNOWN), None),
        ("{verdict: infected}", MAIL, False),
        ("{verdict: [infected, clean]}", MAIL, True),
        ("{verdict: infected}", replace(MAIL, scan=INFECTED), True),
        ("{verdict: infected}", replace(MAIL, scan=UNKNOWN), None),
        ("{verdict: infected}", replace(MAIL, scan=None), None),
        ("{verdict: infected, client: lan}", replace(MAIL, scan=None), None),
        ("{verdict: infected, client: dmz}", replace(MAIL, scan=None), False),  # a certain no beats "cannot tell"
        ("{client: dmz, larger_than_octets: 1}", replace(MAIL, size_octets=None), False),
        ("{client: lan, tls: true}", MAIL, False),
        ("{client: lan, tls: false}", MAIL, True),
    ],
)
def test_a_matcher_says_yes_no_or_cannot_tell(
    match: str, facts: MailFacts, answer: bool | None, policy_of: PolicyOf
) -> None:
    policy = policy_of(f"mail:\n- {{name: m, match: {match}, action: accept}}\n{DEVICES}")
    assert matches(policy, policy.mail[0].match, facts) is answer


@pytest.mark.parametrize(
    ("device", "address", "sender", "recipient", "answer"),
    [
        ("printer", "192.168.1.70", "p@example.org", "bob@example.org", True),
        ("printer", "fd00::70", "P@Example.org", "bob@example.org", True),
        ("printer", "::ffff:192.168.1.70", "p@example.org", "bob@example.org", True),
        ("printer", "192.168.1.71", "p@example.org", "bob@example.org", False),  # somebody else's address
        ("printer", "192.168.1.70", "boss@example.org", "bob@example.org", False),  # somebody else's sender
        ("printer", "192.168.1.70", "", "bob@example.org", False),
        ("printer", "192.168.1.70", "p@example.org", "bob@far.example", False),  # not among its recipients
        ("nas", "192.168.1.71", "", "bob@far.example", True),
        ("nas", "192.168.1.70", "p@example.org", "bob@example.org", False),
        ("@any", "192.168.1.70", "p@example.org", "bob@example.org", True),
        ("@any", "192.168.1.71", "nas@example.org", "bob@far.example", True),
        ("@any", "192.168.1.71", "p@example.org", "bob@example.org", False),  # one's address, the other's sender
        ("@any", "192.168.1.72", "p@example.org", "bob@example.org", False),
    ],
)
def test_a_device_is_pinned_to_its_address_sender_and_recipients(
    device: str, address: str, sender: str, recipient: str, answer: bool, policy_of: PolicyOf
) -> None:
    policy = policy_of(f'mail:\n- {{name: m, match: {{device: "{device}"}}, action: accept}}\n{DEVICES}')
    facts = replace(client(address), reverse_path=sender, forward_path=recipient)
    assert matches(policy, policy.mail[0].match, facts) is answer


def test_no_device_is_any_device_where_none_is_listed(policy_of: PolicyOf) -> None:
    policy = policy_of('mail: [{name: m, match: {device: "@any"}, action: accept}]')
    assert decide_mail(policy, MAIL).action is MailAction.REJECT


def test_a_device_is_found_by_its_address(policy_of: PolicyOf) -> None:
    policy = policy_of(DEVICES)
    assert getattr(device_of(policy, ip_address("::ffff:192.168.1.71")), "name", None) == "nas"
    assert device_of(policy, ip_address("192.168.1.72")) is None


def test_answers_name_each_key_for_explanations(policy_of: PolicyOf) -> None:
    policy = policy_of("mail: [{name: m, match: {tls: true, client: lan, verdict: infected}, action: accept}]")
    asked = dict(answers(policy, policy.mail[0].match, replace(MAIL, scan=None)))
    assert asked == {"client": True, "tls": False, "verdict": None}


ORDER = """
mail:
  - {name: malware, match: {verdict: infected}, action: quarantine, folder: Infected}
  - {name: large, match: {larger_than_octets: 5000}, action: reject, text: too large}
  - {name: spammer, match: {client: dmz}, action: reject, text: go away}
  - {name: later, match: {sender: slow@example.org}, action: defer, text: come back}
  - {name: odd, match: {sender: odd@example.org}, action: quarantine}
  - {name: clean-only, match: {sender: careful@example.org, verdict: clean}, action: accept}
  - {name: users, match: {authenticated: true}, action: accept}
"""
USER = replace(MAIL, user="anna")


@pytest.mark.parametrize(
    ("facts", "action", "rule"),
    [
        (USER, MailAction.ACCEPT, "users"),
        (replace(USER, scan=INFECTED), MailAction.QUARANTINE, "malware"),
        (replace(USER, scan=UNKNOWN), MailAction.DEFER, "malware"),
        (replace(USER, scan=None), MailAction.DEFER, "malware"),
        (replace(USER, size_octets=5001), MailAction.REJECT, "large"),
        (replace(USER, size_octets=None), MailAction.DEFER, "large"),
        (replace(USER, client=ip_address("198.51.100.1")), MailAction.REJECT, "spammer"),
        (replace(USER, reverse_path="slow@example.org"), MailAction.DEFER, "later"),
        (replace(USER, reverse_path="odd@example.org"), MailAction.QUARANTINE, "odd"),
        (replace(MAIL, reverse_path="careful@example.org"), MailAction.ACCEPT, "clean-only"),
        (MAIL, MailAction.REJECT, "(none)"),
    ],
)
def test_the_first_rule_that_matches_decides_the_message(
    facts: MailFacts, action: MailAction, rule: str, policy_of: PolicyOf
) -> None:
    decision = decide_mail(policy_of(ORDER), facts)
    assert (decision.action, decision.rule) == (action, rule)


def test_a_decision_carries_the_rules_words(policy_of: PolicyOf) -> None:
    policy = policy_of(ORDER)
    held = decide_mail(policy, replace(USER, scan=INFECTED))
    assert (held.folder, held.reason) == ("Infected", "matched at rules.yaml:3:5")
    refused = decide_mail(policy, replace(USER, size_octets=9999))
    assert (refused.folder, refused.text) == ("", "too large")
    assert decide_mail(policy, MAIL).text == "relaying denied"
    assert "clamd does not answer" in decide_mail(policy, replace(USER, scan=UNKNOWN)).reason


@pytest.mark.parametrize(
    ("facts", "action", "rule"),
    [
        (MAIL, MailAction.REJECT, "(none)"),  # a stranger: not even the content is taken
        (USER, None, ""),
        (client("198.51.100.1"), MailAction.REJECT, "spammer"),
        (replace(USER, reverse_path="slow@example.org"), MailAction.DEFER, "later"),
        (replace(USER, reverse_path="odd@example.org"), None, ""),  # is to be held: the content is needed
        (replace(MAIL, reverse_path="careful@example.org"), None, ""),  # accepted if clean
    ],
)
def test_only_the_hopeless_are_refused_before_data(
    facts: MailFacts, action: MailAction | None, rule: str, policy_of: PolicyOf
) -> None:
    decision = decide_envelope(policy_of(ORDER), replace(facts, size_octets=None, scan=None))
    assert (decision and (decision.action, decision.rule)) == (action and (action, rule))


def test_a_policy_without_rules_relays_nothing(policy_of: PolicyOf) -> None:
    assert decide_mail(policy_of(""), USER).action is MailAction.REJECT
    early = decide_envelope(policy_of(""), USER)
    assert early is not None and early.action is MailAction.REJECT


MATCHES = ["{}", "{client: lan}", "{client: dmz}", "{verdict: infected}", "{verdict: clean}", "{larger_than_octets: 9}"]
MATCHES += ["{authenticated: true}", "{authenticated: true, verdict: clean}", '{attachment_name: "*.exe"}']
RULES = st.lists(st.tuples(st.sampled_from(MATCHES), st.sampled_from(["accept", "reject", "defer", "quarantine"])))
CONTENTS = [
    {"size_octets": size, "scan": scan}
    for size, scan in itertools.product(
        (1, 99), (CLEAN, INFECTED, UNKNOWN, ScanReport(Verdict.DENIED, (), (Attachment(("a.exe",), "x/y", 1),)))
    )
]


def policy_from(rules: Iterable[tuple[str, str]]) -> Policy:
    lines = [f"- {{name: r{i}, match: {match}, action: {action}}}" for i, (match, action) in enumerate(rules)]
    site = "site: {zones: {lan: {networks: 192.168.0.0/16}, dmz: {networks: 198.51.100.0/24}}}\n"
    loaded = parse_rules({"f.yaml": (site + "mail:\n" + "\n".join(lines)).encode()})
    assert loaded.policy is not None
    return loaded.policy


@given(RULES, st.sampled_from([MAIL, USER, client("198.51.100.1")]))
def test_no_content_gets_a_recipient_accepted_who_was_refused_before_data(
    rules: list[tuple[str, str]], facts: MailFacts
) -> None:
    policy = policy_from(rules)
    early = decide_envelope(policy, replace(facts, size_octets=None, scan=None))
    whole = [decide_mail(policy, replace(facts, **content)) for content in CONTENTS]  # type: ignore[arg-type]
    if early is not None:
        assert early.action in {MailAction.REJECT, MailAction.DEFER}
        assert all(decision.action is not MailAction.ACCEPT for decision in whole)


@given(RULES)
def test_what_cannot_be_known_never_leads_to_an_accept_that_knowing_would_refuse(rules: list[tuple[str, str]]) -> None:
    policy = policy_from(rules)
    blind = decide_mail(policy, replace(USER, size_octets=None, scan=UNKNOWN))
    if blind.action is MailAction.ACCEPT:
        known = [decide_mail(policy, replace(USER, **content)) for content in CONTENTS]  # type: ignore[arg-type]
        assert {decision.action for decision in known} == {MailAction.ACCEPT}


def test_the_strictest_decision_speaks_for_all_recipients() -> None:
    order = [MailAction.DEFER, MailAction.REJECT, MailAction.QUARANTINE, MailAction.ACCEPT]
    decisions = [MailDecision(action, f"r{index}", "") for index, action in enumerate(order)]
    for first, second in itertools.product(decisions, repeat=2):
        assert strictest([first, second]).action is order[min(decisions.index(first), decisions.index(second))]
    assert strictest(reversed(decisions)).rule == "r0"


def test_of_equally_strict_decisions_the_first_speaks() -> None:
    one, two = MailDecision(MailAction.REJECT, "one", ""), MailDecision(MailAction.REJECT, "two", "")
    assert strictest([one, two]) == one


def test_no_decision_at_all_is_a_refusal() -> None:
    assert strictest([]).action is MailAction.REJECT


@pytest.mark.parametrize(
    ("matches", "asked"),
    [
        ([{"authenticated": True}], set()),
        ([{"attachment_macro": True}], set()),
        ([{"verdict": "infected"}], {"verdict"}),
        ([{"score_at_least": 5}], {"score"}),
        ([{"verdict": "infected"}, {"score_at_least": 5}], {"verdict", "score"}),
    ],
)
def test_engines_are_asked_for_what_rules_look_at(matches: list[dict[str, object]], asked: set[str]) -> None:
    mail = [{"name": f"r{n}", "match": match, "action": "reject"} for n, match in enumerate(matches)]
    policy = Policy.model_validate({"site": {"zones": {}}, "mail": mail})

    assert asks_of_engines(policy) == asked
