"""The comparison of message rules says what policy.mail says: nothing is missed, and nothing is made up."""

from __future__ import annotations

import os
import random
from typing import Any

import pytest

from egressguard.policy.difference.boxes import TooHard
from egressguard.policy.difference.change import Change
from egressguard.policy.difference.mail import MailComparison
from egressguard.policy.difference.matches import BOXES
from egressguard.policy.difference.witness import message_comes_to
from egressguard.policy.match import MailMatch, RouteMatch
from egressguard.policy.model import Policy
from tests.policy.difference import mail_sites

POLICIES = int(os.environ.get("EGRESSGUARD_COMPARISONS", "150"))
MESSAGES = 60


def changes(old: Policy, new: Policy) -> list[Change]:
    comparison = MailComparison(old, new)
    comparison.run(lambda _done, _of: None)
    return comparison.changes()


def is_told(before: Any, after: Any, found: list[Change]) -> bool:
    """Whether some change is about what one message came to and comes to; what a refused one had besides is moot."""
    was, becomes = (each if isinstance(each[0], str) else each[0] for each in (before, after))
    if was == becomes and was[0] in {"reject", "defer"}:
        return True
    pairs = {(verb(change.before), verb(change.after)) for change in found}
    by_routes = was[0] == becomes[0] and any(change.before.startswith("leaves") for change in found)
    return (was[0], becomes[0]) in pairs or by_routes


def verb(words: str) -> str:
    first = words.partition(" ")[0].rstrip(",")
    return "defer" if first == "contain" else first


def test_every_key_has_its_boxes() -> None:
    assert {*BOXES} == {*MailMatch.model_fields, *RouteMatch.model_fields}


@pytest.mark.parametrize("block", range(10))
def test_random_policies_are_compared_as_they_decide(block: int) -> None:
    told = silent = 0
    for seed in range(block, POLICIES, 10):
        chance = random.Random(seed)
        rules, limits = mail_sites.rules(chance), mail_sites.limits(chance)
        routes = mail_sites.routes(chance)
        old = mail_sites.policy(rules, limits=limits, routes=routes)
        others = limits if chance.random() < 0.8 else mail_sites.limits(chance)
        ways = routes if chance.random() < 0.6 else mail_sites.routes(chance)
        new = mail_sites.policy(mail_sites.changed(chance, rules), limits=others, routes=ways)
        found = changes(old, new)
        told, silent = told + bool(found), silent + (not found)
        for change in found:
            assert change.witness is not None
            assert message_comes_to(old, change.witness) != message_comes_to(new, change.witness), (seed, change)
        for _ in range(MESSAGES):
            message = mail_sites.message(chance)
            before, after = message_comes_to(old, message), message_comes_to(new, message)
            assert before == after or is_told(before, after, found), (seed, message, before, after)
    assert told and silent


def test_what_is_refused_at_rcpt_never_comes_to_its_content() -> None:
    """A stranger's malware was refused before anybody could scan it, and still is: no change."""
    malware = {"match": {"verdict": "infected"}, "action": "quarantine"}
    users = {"match": {"authenticated": True}, "action": "accept"}
    assert changes(mail_sites.policy([malware, users]), mail_sites.policy([users])) != []
    only_users = {"match": {"authenticated": True, "verdict": "infected"}, "action": "quarantine"}
    assert changes(mail_sites.policy([malware, users]), mail_sites.policy([only_users, users])) == []


def test_what_cannot_be_judged_is_no_accept() -> None:
    """With every verdict that there is, the rule matches; with none it is a 451, and without the key it is not."""
    verdicts = ["infected", "denied", "ambiguous", "clean"]
    old = mail_sites.policy([{"match": {"verdict": verdicts}, "action": "accept"}])
    new = mail_sites.policy([{"match": {}, "action": "accept"}])
    (change,) = changes(old, new)
    assert change.witness is not None and change.witness["verdict"] == "unknown"
    assert (change.before, change.after) == ("defer, for it cannot be judged now", "accept")


def test_a_way_out_by_the_rule_or_by_routes_is_the_same() -> None:
    rule = {"match": {"recipient": "*@x.example"}, "action": "accept"}
    routes = [{"name": "r", "match": {"recipient_domain": "x.example"}, "via": "backup"}]
    named = mail_sites.policy([rule | {"route": ["backup"]}])
    assert changes(named, mail_sites.policy([rule], routes=routes)) == []
    (change,) = changes(named, mail_sites.policy([rule]))
    assert change.after.endswith("leaves by MX")


def test_what_takes_too_long_ends_the_search() -> None:
    chance = random.Random(1)
    rules = mail_sites.rules(chance)
    comparison = MailComparison(mail_sites.policy(rules), mail_sites.policy(mail_sites.changed(chance, rules)))
    comparison._search.steps = 10
    with pytest.raises(TooHard):
        comparison.run(lambda _done, _of: None)
