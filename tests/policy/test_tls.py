"""Which rule of `tls` holds for a host, and what is no such rule."""

from __future__ import annotations

import pytest

from egressguard.policy.expect import ExpectFile, parse_expectations
from egressguard.policy.facts import ScanReport
from egressguard.policy.load import parse_rules
from egressguard.policy.model import Policy
from egressguard.policy.mutate import mutate
from egressguard.policy.tls import choose_tls
from egressguard.policy.trial import Trial, run_trials, trials

RULES = """
site:
  zones: {}
  domains: [own.example]
tls:
  - {name: staged, staged: true, level: none}
  - {name: off, enabled: false, level: none}
  - {name: partner, match: {recipient_domain: partner.example}, level: secure, names: [mx.provider.example]}
  - {name: below, match: {recipient_domain: .partner.example}, level: verify, ca_file: /etc/ssl/ca.pem}
  - {name: both, match: {recipient_domain: [a.example, b.example], next_hop: .old.example}, level: none}
  - {name: hop, match: {next_hop: [mx.hop.example, .old.example]}, level: encrypt}
  - {name: own, match: {recipient_domain: "@local"}, level: opportunistic}
"""


@pytest.fixture(scope="module")
def policy() -> Policy:
    loaded = parse_rules({"f.yaml": RULES.encode()})
    assert loaded.policy is not None, loaded.faults
    return loaded.policy


@pytest.mark.parametrize(
    ("domain", "host", "name"),
    [
        ("partner.example", "mx.x.example", "partner"),
        ("PARTNER.example", "mx.x.example", "partner"),
        ("a.partner.example", "mx.x.example", "below"),
        ("notpartner.example", "mx.x.example", "published"),
        ("a.example", "mx.old.example", "both"),
        ("a.example", "mx.x.example", "published"),
        ("c.example", "mx.old.example", "hop"),
        ("c.example", "MX.hop.example", "hop"),
        ("c.example", "old.example", "published"),
        ("own.example", "mx.x.example", "own"),
        ("[192.0.2.1]", "192.0.2.1", "published"),
    ],
)
def test_the_first_rule_that_matches_holds(policy: Policy, domain: str, host: str, name: str) -> None:
    assert choose_tls(policy, domain, host).name == name


SITE = "site: {zones: {}, dnssec: true}\n"
CERTIFICATE = "client_certificate: {certificate: /c, private_key: /k}"


@pytest.mark.parametrize(
    ("text", "mark", "message"),
    [
        (f"{SITE}tls: [{{name: a, level: tls}}]", "tls}", "expected one of none"),
        (f"{SITE}tls: [{{name: a, level: none, ciphers: ALL}}]", "ciphers", "ciphers"),
        (f"{SITE}tls: [{{name: a, level: encrypt, names: [mx.x.example]}}]", "[mx.x", "expected verify or secure"),
        (f"{SITE}tls: [{{name: a, level: dane, ca_file: /ca}}]", "/ca", "expected verify or secure"),
        (f"{SITE}tls: [{{name: a, level: verify, names: ['*.x.example']}}]", "'*.x", "is no host name"),
        (f"{SITE}tls: [{{name: a, level: none, match: {{next_hop: 'a b'}}}}]", "'a b'", "is no host name"),
        (f"{SITE}tls: [{{name: a, level: none, match: {{recipient_domain: 'a b'}}}}]", "'a b'", "is no domain"),
        (f"{SITE}tls: [{{name: a, level: none, {CERTIFICATE}}}]", "{certificate", "without TLS nothing is shown"),
        (f"{SITE}tls: [{{name: a, level: none}}, {{name: a, level: none}}]", "a, level: none}]", "stands twice"),
        ("site: {zones: {}}\ntls: [{name: a, level: dane}]", "dane}", "expected `dnssec: true` in site"),
        ("site: {zones: {}}\ntls: [{name: a, level: dane-only}]", "dane-only}", "expected `dnssec: true` in site"),
        ("site: {zones: {}, dnssec: true, resolvers: 192.0.2.53}", "192.0.2.53", "must be safe"),
        (
            f"site: {{zones: {{}}, smart_hosts: {{s: {{host: h.example, tls: none, {CERTIFICATE}}}}}}}",
            "{certificate",
            "without TLS nothing is shown",
        ),
        ("site: {zones: {}, smart_hosts: {s: {host: h.example, tls: dane}}}", "dane}", "expected `dnssec: true`"),
        ("site: {zones: {}, relay: {tlsrpt_socket: relative}}", "relative", "expected text of the form"),
    ],
)
def test_what_does_not_fit_is_a_fault_at_its_place(text: str, mark: str, message: str) -> None:
    faults = parse_rules({"f.yaml": text.encode()}).faults
    assert len(faults) == 1, faults
    line = text.splitlines()[faults[0].line - 1]
    assert line[faults[0].column - 1 :].startswith(mark), (faults, line)
    assert message in faults[0].message


@pytest.mark.parametrize("resolvers", ["127.0.0.1", "'[::1]:5353'", "[]"])
def test_validating_resolvers_are_on_this_machine(resolvers: str) -> None:
    assert not parse_rules({"f.yaml": f"site: {{zones: {{}}, dnssec: true, resolvers: {resolvers}}}".encode()}).faults


WAYS = """
site:
  zones: {lan: {networks: 192.168.0.0/16}}
  domains: [own.example]
  smart_hosts: {provider: {host: smtp.isp.example}}
  relay: {listeners: {lan: {kind: smtp, port: 25}}}
mail: [{name: all, action: accept}]
routes:
  - {name: hop, match: {recipient_domain: hop.example}, via: "[mx.hop.example]"}
  - {name: over, match: {recipient_domain: over.example}, via: "smtp:partner.example"}
  - {name: smart, match: {recipient_domain: smart.example}, via: provider}
tls:
  - {name: partner, match: {recipient_domain: partner.example}, level: secure}
  - {name: hop, match: {next_hop: [mx.hop.example, mx.old.example]}, level: encrypt}
"""


def load_trials(text: str) -> list[Trial]:
    file = parse_expectations("expect/a.yaml", text.encode(), {})
    assert isinstance(file, ExpectFile), file
    return trials([file], lambda _octets: ({}, ScanReport(None)))


@pytest.mark.parametrize(
    ("recipient", "next_hop", "level"),
    [
        ("b@partner.example", "", "secure"),
        ("b@else.example", "", "published"),
        ("b@else.example", "mx.old.example", "encrypt"),
        ("b@hop.example", "", "encrypt"),
        ("b@over.example", "", "secure"),
        ("b@smart.example", "", ""),
        ("b@own.example", "", ""),
    ],
)
def test_expectations_can_say_what_is_demanded(recipient: str, next_hop: str, level: str) -> None:
    policy = parse_rules({"f.yaml": WAYS.encode()}).policy
    assert policy is not None
    given = f"{{client: 192.168.1.1, sender: a@own.example, recipient: {recipient}, next_hop: '{next_hop}'}}"
    expect = f"{{tls: {level}}}" if level else "{action: accept}"
    case = f"mail: [{{name: c, given: {given}, expect: {expect}}}]"
    (result,) = run_trials(policy, load_trials(case))
    assert result.is_green and result.found["tls"] == level


def test_a_rule_that_no_expectation_watches_survives_as_a_mutant() -> None:
    policy = parse_rules({"f.yaml": WAYS.encode()}).policy
    assert policy is not None
    given = "{client: 192.168.1.1, sender: a@own.example, recipient: b@partner.example}"
    cases = load_trials(f"mail: [{{name: c, given: {given}, expect: {{tls: secure}}}}]")
    left = {mutant.rule for mutant in mutate(policy, cases).survivors if mutant.section == "tls"}
    assert left == {"hop"}
