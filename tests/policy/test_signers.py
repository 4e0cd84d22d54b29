"""What is wrong with signers and forwarding, where it is told and in which words."""

from __future__ import annotations

import pytest

from egressguard.policy.load import parse_rules
from egressguard.policy.model import Policy
from egressguard.policy.signers import signings_for

SITE = "site:\n  zones: {lan: {networks: 192.0.2.0/24}}\n  domains: [example.org]\n"
OWN = "domains: example.org, selector: s1, key: 'file:k'"


@pytest.mark.parametrize(
    ("keys", "where", "words"),
    [
        (f"signing: {{a: {{{OWN}}}}}", "", ""),
        (f"signing: {{a: {{{OWN}, headers: [From, X-Ours], oversign: []}}}}", "", ""),
        ("signing: {a: {domains: 192.0.2.1, selector: s1, key: 'file:k'}}", "192", "is no domain"),
        ("signing: {a: {domains: [], selector: s1, key: 'file:k'}}", "[]", "at least one entry"),
        ("signing: {a: {domains: example.org, selector: s_1, key: 'file:k'}}", "s_1", "expected"),
        ("signing: {a: {domains: example.org, selector: s1, key: k}}", "k}", "expected"),
        (f"signing: {{a: {{{OWN}, headers: [Subject]}}}}", "[Subject]", "expected From among them"),
        (f"signing: {{a: {{{OWN}, headers: [From, Received]}}}}", "Received", "changes on the way"),
        (f"signing: {{a: {{{OWN}}}}}\n  forwarding: {{seal: b}}", "b}", "unknown signer 'b'; expected one of a"),
        ("forwarding: {srs: {domain: example.org, secrets: 'file:s'}}", "", ""),
        ("forwarding: {srs: {domain: example.net, secrets: 'file:s'}}", "example.net", "expected one of example.org"),
        ("forwarding: {srs: {domain: example.org, secrets: []}}", "[]", "at least one entry"),
    ],
)
def test_what_does_not_fit_is_a_fault(keys: str, where: str, words: str) -> None:
    text = f"{SITE}  {keys}\n"
    faults = parse_rules({"a.yaml": text.encode()}).faults
    if not words:
        assert faults == ()
        return
    (fault,) = faults
    line = text.splitlines()[fault.line - 1]
    assert words in fault.message and line[fault.column - 1 :].startswith(where)


def test_a_rule_that_rewrites_needs_to_know_how() -> None:
    rule = "mail:\n- {name: out, action: accept, rewrite_sender: true}\n"
    (fault,) = parse_rules({"a.yaml": (SITE + rule).encode()}).faults
    assert "expected `srs:" in fault.message
    srs = "  forwarding: {srs: {domain: example.org, secrets: 'file:s'}}\n"
    policy = parse_rules({"a.yaml": (SITE + srs + rule).encode()}).policy
    assert policy is not None and policy.mail[0].rewrite_sender


def test_other_parts_of_a_policy_have_other_signers() -> None:
    site = {"zones": {}, "signing": {"a": {"domains": "example.org", "selector": "s1", "key": "file:k"}}}
    policy = Policy.model_validate({"site": site})
    assert [signing.domain for signing in signings_for(policy, "example.org")] == ["example.org"]
    site["signing"]["a"]["domains"] = "example.net"  # type: ignore[index]
    other = policy.replace(site=Policy.model_validate({"site": site}).site)
    assert signings_for(other, "example.org") == () and len(signings_for(other, "example.net")) == 1
