"""What TLS with other hosts must be: compared over all domains and hosts."""

from __future__ import annotations

from typing import Any

import pytest

from egressguard.policy.difference.tls import tls_changes
from egressguard.policy.model import Policy

RULES: list[dict[str, Any]] = [
    {"name": "partner", "match": {"recipient_domain": ["x.example", ".x.example"]}, "level": "secure"},
    {"name": "old", "match": {"next_hop": ".old.example"}, "level": "none"},
    {"name": "all", "match": {"recipient_domain": ".example"}, "level": "encrypt"},
]


def policy(rules: list[dict[str, Any]]) -> Policy:
    return Policy.model_validate({"site": {"zones": {"lan": {"networks": "10.0.0.0/8"}}}, "tls": rules})


def told(rules: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    return [(change.which, change.before, change.after) for change in tls_changes(policy(RULES), policy(rules))]


@pytest.mark.parametrize(
    "rules",
    [
        RULES,
        [RULES[0] | {"name": "renamed"}, *RULES[1:]],
        [RULES[0] | {"match": {"recipient_domain": ["X.example"]}}, RULES[0] | {"name": "below"}, *RULES[1:]],
        [*RULES, {"name": "late", "match": {"recipient_domain": "x.example"}, "level": "none"}],
    ],
)
def test_a_refactoring_is_silent(rules: list[dict[str, Any]]) -> None:
    assert told(rules) == []


@pytest.mark.parametrize(
    ("rules", "which", "before", "after"),
    [
        (RULES[1:], "x.example", "secure", "encrypt"),
        ([RULES[1], RULES[0], RULES[2]], "at the host other.old.example", "secure", "none"),
        ([*RULES, {"name": "rest", "level": "dane"}], "elsewhere.invalid", "published", "dane"),
        ([RULES[0] | {"match": {"recipient_domain": "x.example"}}, *RULES[1:]], "other.x.example", "secure", "encrypt"),
        ([RULES[0] | {"ca_file": "/a.pem"}, *RULES[1:]], "x.example", "secure", "secure, authorities of /a.pem"),
    ],
)
def test_a_change_names_a_domain_and_a_host(rules: list[dict[str, Any]], which: str, before: str, after: str) -> None:
    assert any(which in a and (before, after) == (b, c) for a, b, c in told(rules)), told(rules)
