"""A refactoring is silent, and every real change is told with a witness that `explain` confirms."""

from __future__ import annotations

import os
import random

import pytest

from egressguard.policy.difference.change import Change
from egressguard.policy.difference.whole import compare
from egressguard.policy.difference.witness import flow_comes_to, message_comes_to
from egressguard.policy.expect import FlowGiven, MailGiven
from egressguard.policy.explain import explain_flow, explain_mail
from egressguard.policy.model import Policy
from egressguard.policy.mutate import mutants
from egressguard.policy.trial import flow_of, mail_facts, surroundings_of
from tests.policy.difference.sites import BASE, load, refactored, with_rule

REFACTORINGS = int(os.environ.get("EGRESSGUARD_REFACTORINGS", "60"))
POLICY = load(BASE)
MUTANTS = [mutant for mutant in mutants(POLICY) if mutant.section in {"flows", "mail", "limits", "routes", "devices"}]


def deciding(policy: Policy, change: Change) -> str:
    """The rule that `explain` names for the witness."""
    assert change.witness is not None
    if change.part == "flows":
        flow = FlowGiven.model_validate(change.witness)
        return explain_flow(policy, flow_of(flow), surroundings_of(flow)).decision.rule
    message = MailGiven.model_validate(change.witness)
    return explain_mail(policy, mail_facts(policy, message, message.recipient[0])).decision.rule


def assert_confirmed(old: Policy, new: Policy, change: Change) -> None:
    assert change.witness is not None
    comes_to = flow_comes_to if change.part == "flows" else message_comes_to
    assert comes_to(old, change.witness) != comes_to(new, change.witness), change


@pytest.mark.parametrize("seed", range(REFACTORINGS))
def test_a_refactoring_is_silent(seed: int) -> None:
    new = load(*refactored(random.Random(seed)))
    assert compare(POLICY, new).changes == ()
    assert compare(new, POLICY).changes == ()


def test_there_are_enough_changes() -> None:
    assert len(MUTANTS) >= 50


@pytest.mark.parametrize("number", range(len(MUTANTS)), ids=lambda n: f"{MUTANTS[n].section}-{MUTANTS[n].rule}-{n}")
def test_a_real_change_is_told_with_a_witness(number: int) -> None:
    mutant = MUTANTS[number]
    found = compare(POLICY, mutant.policy)
    assert found.is_whole and found.changes, mutant.change
    for change in found.changes:
        if change.part in {"flows", "mail"}:
            assert_confirmed(POLICY, mutant.policy, change)


@pytest.mark.parametrize(
    ("section", "name", "change", "before", "after", "which"),
    [
        ("flows", "block", {"port": [25, 26]}, "allow by no rule", "reject by block", "port 26"),
        ("flows", "servers", {"action": "reject"}, "allow by servers", "reject by servers", "from @servers"),
        ("flows", "weekend", {"log": True}, "drop, not journaled by weekend", "drop by weekend", "weekday"),
        (
            "flows",
            "by-name",
            {"fail": "open"},
            "dropped while it is away",
            "allowed while it is away",
            "mx.example.net",
        ),
        ("mail", "denied", {"folder": "Other"}, "into Denied by denied", "into Other by denied", "denied, ambiguous"),
        ("mail", "large", {"text": "no"}, "'too large'", "'no'", "octets"),
        ("mail", "lists", {"tag": ["bulk", "news"]}, "not tagged news", "tagged news by lists", "header list-id"),
        ("mail", "users", {"limit": []}, "counted by limit", "not counted by limit", "user any other"),
        ("mail", "boss", {"route": "provider"}, "by way of backup", "by way of provider", "user boss"),
        (
            "routes",
            "partner",
            {"via": "mx"},
            "by way of provider, backup",
            "leaves by MX by partner",
            "partner.example",
        ),
        ("tls", "partner", {"level": "verify"}, "secure by partner", "verify by partner", "partner.example"),
        ("limits", "per-user", {"messages_per_hour": 9}, "messages_per_hour 100", "messages_per_hour 9", "per-user"),
    ],
)
def test_it_is_told_in_words(
    section: str, name: str, change: dict[str, object], before: str, after: str, which: str
) -> None:
    new = with_rule(section, name, change)
    told = [(found.which, *found.sides()) for found in compare(POLICY, new).changes]
    assert any(which in a and before in b and after in c for a, b, c in told), told


def test_the_rules_that_are_named_decide() -> None:
    new = with_rule("mail", "denied", {"folder": "Other"})
    changes = [change for change in compare(POLICY, new).changes if change.old[0].rule == "denied"]
    assert changes
    for change in changes:
        assert deciding(POLICY, change) == deciding(new, change) == "denied"


def test_progress_is_told_to_the_end() -> None:
    told: list[tuple[int, int]] = []
    compare(POLICY, POLICY, lambda done, of: told.append((done, of)))
    assert told == sorted(told) and told[-1] == (200, 200)
