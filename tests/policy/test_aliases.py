"""Whom addresses stand for."""

from __future__ import annotations

import pytest

from egressguard.policy.aliases import MAX_TARGETS, catcher_of, targets_of
from egressguard.policy.load import parse_rules
from egressguard.policy.model import Policy


def policy_of(**mailboxes: object) -> Policy:
    site = {"zones": {}, "domains": ["example.org", "example.com"], "mailboxes": mailboxes}
    return Policy.model_validate({"site": site})


ALIASES = {
    "info": ["anna", "bert@example.net"],
    "info@example.com": "carl",
    "anna": ["anna", "copy@example.net"],
    "all": ["info", "anna", "dora"],
    "ONE": "Two@Example.ORG",
    "a": "b",
    "b": ["a", "x"],
}


@pytest.mark.parametrize(
    ("path", "targets"),
    [
        ("info@example.org", ("anna@example.org", "copy@example.net", "bert@example.net")),
        ("INFO@EXAMPLE.COM", ("carl@example.com",)),  # the whole address comes first
        ("anna@example.org", ("anna@example.org", "copy@example.net")),  # itself, and another
        ("all@example.com", ("anna@example.com", "copy@example.net", "bert@example.net", "dora@example.com")),
        ("one@example.org", ("Two@Example.ORG",)),
        ("a@example.org", ("a@example.org", "x@example.org")),  # goes round: a fault of the rules, and yet it ends
        ("nobody@example.org", None),
        ("info@example.net", None),  # not ours
        ("postmaster", None),
        ("info", ("anna@example.org", "copy@example.net", "bert@example.net")),
    ],
)
def test_whom_an_address_stands_for(path: str, targets: tuple[str, ...] | None) -> None:
    assert targets_of(policy_of(aliases=ALIASES), path) == targets


def test_without_aliases_nothing_is_looked_up() -> None:
    assert targets_of(policy_of(), "info@example.org") is None


@pytest.mark.parametrize(
    ("path", "targets"),
    [
        ("x@example.org", ("anna@example.org", "copy@example.net", "bert@example.net")),
        ("x@EXAMPLE.ORG", ("anna@example.org", "copy@example.net", "bert@example.net")),
        ("x@example.com", None),
        ("postmaster", None),
    ],
)
def test_who_gets_what_is_for_nobody(path: str, targets: tuple[str, ...] | None) -> None:
    policy = policy_of(aliases=ALIASES, catch_all={"Example.org": ["info"]})
    assert catcher_of(policy, path) == targets


def test_a_bomb_of_aliases_has_an_end() -> None:
    aliases = {f"a{n}": [f"a{n + 1}", *(f"x{n}-{m}" for m in range(300))] for n in range(9)}
    found = targets_of(policy_of(aliases=aliases), "a0@example.org")
    assert found is not None
    assert len(found) == MAX_TARGETS


@pytest.mark.parametrize(
    ("mailboxes", "fault"),
    [
        ("{aliases: {a: b, b: [c, a]}}", "1:66: this alias goes round: 'a' -> 'b' -> 'a'"),
        ("{aliases: {a: b, b: c, c: a}}", "goes round: 'c' -> 'a' -> 'b' -> 'c'"),
        ("{aliases: {info: a, INFO: b}}", "the alias 'INFO' stands twice"),
        ("{aliases: {info@exmaple.org: a}}", "'exmaple.org' is not one of site.domains, did you mean 'example.org'?"),
        ("{aliases: {info+x: a}}", "what stands behind '+' is the account's own"),
        ("{aliases: {info: a..b}}", "'a..b' is neither an account nor an address"),
        ("{aliases: {info: []}}", "expected at least one entry"),
        ("{aliases: {'a b': c}}", "expected a local part such as info, or an address"),
        ("{catch_all: {example.net: a}}", "'example.net' is not one of site.domains"),
        ("{catch_all: {example.org: a@@b}}", "found the text 'a@@b'"),
        ("{accounts: {Anna: {}}}", "'Anna' is no name; expected an account"),
        ("{mbox: {inbox: /var/mail}}", "'/var/mail' is the same for all; expected {account} in it"),
        ("{mbox: {folders: '/home/{user}'}}", "expected {account} in it"),
        ("{mbox: {inbox: '/var/{account}/../x'}}", "expected an absolute path"),
        ("{separator: '++'}", "expected one of + = # ~ _ - or nothing"),
        ("{quota: {octets: 0}}", "expected a number of at least 1"),
    ],
)
def test_what_does_not_fit_together_is_told_with_its_place(mailboxes: str, fault: str) -> None:
    text = f"site: {{zones: {{}}, domains: example.org, mailboxes: {mailboxes}}}\n"
    found = [str(one) for one in parse_rules({"a.yaml": text.encode()}).faults]
    assert any(fault in one for one in found), found


@pytest.mark.parametrize(
    "mailboxes",
    ["{aliases: {anna: [anna, bert]}}", "{separator: '-', aliases: {sales-eu: anna}}", "{aliases: {a: b, c: b}}"],
)
def test_what_only_looks_wrong_is_taken(mailboxes: str) -> None:
    text = f"site: {{zones: {{}}, domains: example.org, mailboxes: {mailboxes}}}\n"
    assert parse_rules({"a.yaml": text.encode()}).faults == ()
