"""The sender programs the route: who may, what may be asked for, and that nothing else is a route."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egressguard.policy.decision import MailAction
from egressguard.policy.document import Fault
from egressguard.policy.facts import MailFacts, ScanReport
from egressguard.policy.load import parse_rules
from egressguard.policy.mail import decide_mail, header_fields
from egressguard.policy.model import Policy
from egressguard.policy.routes import RouteFacts, way_out
from egressguard.policy.verdict import Verdict

RULES = """
mail:
  - name: users
    match: {authenticated: true}
    action: accept
    source_routes: [mx, provider, "[mx.partner.example]:2525"]
  - {name: own, match: {recipient_domain: "@local"}, action: accept}
  - {name: servers, match: {client: "@mail-servers"}, action: accept, route: backup}
routes:
  - {name: all, via: backup}
"""
USER = MailFacts(
    client=ip_address("192.168.1.7"),
    listener="submission",
    user="anna",
    reverse_path="anna@example.org",
    forward_path="b@far.example",
    headers={},
    scan=ScanReport(Verdict.CLEAN),
)
SERVER = replace(USER, client=ip_address("192.168.1.25"), user=None)


def asking(facts: MailFacts, *values: str) -> MailFacts:
    return replace(facts, headers={"x-egressguard-route": values})


def ways(policy: Policy, facts: MailFacts) -> tuple[str, ...]:
    decision = decide_mail(policy, facts)
    assert decision.action is MailAction.ACCEPT, decision
    return way_out(policy, RouteFacts.of(facts, ()), decision.effects.via).written


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (USER, ("backup",)),
        (asking(USER, "provider"), ("provider",)),
        (asking(USER, "mx"), ("mx",)),
        (asking(USER, "[mx.partner.example]:2525"), ("smtp:[mx.partner.example]:2525",)),
        (asking(USER, "smtp:[MX.Partner.example]:2525"), ("smtp:[mx.partner.example]:2525",)),
        (asking(SERVER, "provider"), ("backup",)),  # nobody lets it: the field is text
        (asking(replace(USER, forward_path="cleo@example.org"), "provider"), ("local",)),
    ],
)
def test_who_may_asks_for_what_the_rule_lists(
    facts: MailFacts, expected: tuple[str, ...], policy_of: Callable[[str], Policy]
) -> None:
    policy = policy_of(RULES)
    assert header_fields(policy) == {"x-egressguard-route"}
    assert ways(policy, facts) == expected


@pytest.mark.parametrize(
    "values",
    [
        ("backup",),  # a smart host of the site, but not for this
        ("[mx.partner.example]",),  # another port
        ("[127.0.0.1]:2525",),
        ("lmtp:unix:/run/lmtp",),
        ("pipe:uucp:b",),
        ("provider, mx",),
        ("provider", "mx"),
        ("provider", "provider"),
        ("",),
        ("pr\u00f6vider",),
        ("provider\x00",),
        ("@a.example,@b.example:c@d.example",),
    ],
)
def test_a_route_that_is_not_on_the_list_is_refused_and_never_another(
    values: tuple[str, ...], policy_of: Callable[[str], Policy]
) -> None:
    decision = decide_mail(policy_of(RULES), asking(USER, *values))
    assert (decision.action, decision.rule) == (MailAction.REJECT, "users")
    assert decision.text.startswith("X-EgressGuard-Route: found ") and decision.text.isascii()


@given(st.lists(st.text(max_size=30), min_size=1, max_size=3))
def test_whatever_a_field_says_leads_where_a_rule_lets_it(values: list[str]) -> None:
    decision = decide_mail(POLICY, asking(USER, *values))
    listed = {("mx",), ("provider",), ("smtp:[mx.partner.example]:2525",)}
    assert decision.action is MailAction.REJECT or decision.effects.via in listed


SITE = """
site:
  zones: {lan: {networks: 192.168.0.0/16}}
  domains: example.org
  sets: {mail-servers: 192.168.1.25}
  smart_hosts: {provider: {host: p.example}, backup: {host: b.example}}
"""
POLICY = parse_rules({"rules.yaml": (SITE + RULES).encode()}).policy or pytest.fail("the rules are bad")


def test_a_stranger_asks_in_vain(policy_of: Callable[[str], Policy]) -> None:
    stranger = replace(USER, client=ip_address("203.0.113.7"), user=None)
    for route in ("provider", "mx", "[mx.partner.example]:2525"):
        decision = decide_mail(policy_of(RULES), asking(stranger, route))
        assert (decision.action, decision.rule) == (MailAction.REJECT, "(none)")


@pytest.mark.parametrize(
    "path", ["b%far.example@example.org", "far.example!b@example.org", '"b@far.example"@example.org']
)
def test_a_local_part_is_no_route(path: str, policy_of: Callable[[str], Policy]) -> None:
    assert ways(policy_of(RULES), replace(USER, forward_path=path)) == ("local",)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ("match: {client: lan}, source_routes: mx", "anybody could ask for a route"),
        ("match: {authenticated: false}, source_routes: mx", "anybody could ask for a route"),
        ("match: {authenticated: true}, source_routes: bakup", "unknown smart host 'bakup'"),
        ("match: {user: anna}, source_routes: 'pipe:uucp'", "unknown pipe 'uucp'"),
        ("match: {user: anna}, source_routes: 'mx.example:25'", "expected mx, the name of a smart host"),
    ],
)
def test_who_may_is_somebody_known(keys: str, words: str, faults_of: Callable[[str], Sequence[Fault]]) -> None:
    (fault,) = faults_of(f"mail:\n- {{name: a, action: accept, {keys}}}\n")
    assert words in fault.message
