"""Who an address is, and whether there is room."""

from __future__ import annotations

from pathlib import Path

import pytest

from egressguard.mailbox.maildir import make_maildir
from egressguard.mailbox.quota import Usages
from egressguard.mailbox.recipients import Recipients, Whom
from egressguard.policy.model import Policy
from tests.relay.setting import policy_of


class Names:
    def __init__(self, *names: str) -> None:
        self.names = names

    def exists(self, name: str) -> bool:
        if name == "disk":
            raise PermissionError(13, "Permission denied")
        return name in self.names


PEOPLE = Names("anna", "bert", "anna-berg")
MAILBOXES = {
    "aliases": {
        "info": ["anna", "bert@example.net"],
        "boss": "anna+boss",
        "anna-x": "anna-away",
        "bert": ["bert", "copy@example.net"],
        "ghost": "nobody",
        "away": "anna@example.net",
    }
}


def policy_with(**mailboxes: object) -> Policy:
    access = {"quarantine_admins": ["bert"]}
    return policy_of(domains=["example.org"], access=access, mailboxes=MAILBOXES | mailboxes)


def recipients(root: Path, names: Names = PEOPLE) -> Recipients:
    return Recipients(names, Usages(root))


@pytest.mark.parametrize(
    ("path", "whom"),
    [
        ("anna@example.org", Whom("anna")),
        ("Anna+Lists@example.org", Whom("anna", "Lists")),
        ('"anna"@example.org', Whom("anna")),
        ("anna-berg@example.org", Whom("anna-berg")),
        ("info@example.org", Whom("", others=("anna@example.org", "bert@example.net"))),
        ("info+x@example.org", Whom("", others=("anna@example.org", "bert@example.net"))),
        ("boss@example.org", Whom("anna", "boss")),  # one, here: no message of its own
        ("bert@example.org", Whom("bert", "", ("copy@example.net",))),
        ("BERT@example.org", Whom("bert", "", ("copy@example.net",))),
        ("away@example.org", Whom("", others=("anna@example.net",))),
        ("ghost@example.org", None),
        ("nobody@example.org", None),
        ("postmaster", Whom("bert")),
        ("Postmaster+x@example.org", Whom("bert", "x")),
        ('"../anna"@example.org', None),
        ('"anna/../bert"@example.org', None),
        ("a" * 300, None),
        ("an\0na@example.org", None),
        ("@example.org", None),
    ],
)
def test_who_it_is(tmp_path: Path, path: str, whom: Whom | None) -> None:
    found = recipients(tmp_path)
    assert found.whom(policy_with(), path) == whom
    assert (found.refusal(policy_with(), path) is None) is (whom is not None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("separator", "path", "whom"),
    [
        ("-", "anna-berg@example.org", Whom("anna-berg")),
        ("-", "anna-berg-lists@example.org", Whom("anna-berg", "lists")),
        ("-", "anna-lists-x@example.org", Whom("anna", "lists-x")),
        ("-", "anna-x@example.org", Whom("anna", "away")),  # the alias for the whole comes first
        ("-", "anna+lists@example.org", None),
        ("", "anna+lists@example.org", None),
    ],
)
def test_separators(tmp_path: Path, separator: str, path: str, whom: Whom | None) -> None:
    assert recipients(tmp_path).whom(policy_with(separator=separator), path) == whom


def test_what_an_alias_has_sent_is_for_accounts_only(tmp_path: Path) -> None:
    found, policy = recipients(tmp_path), policy_with(catch_all={"example.org": "anna"})
    assert found.whom(policy, "bert@example.org", expanded=True) == Whom("bert")
    assert found.whom(policy, "info@example.org", expanded=True) is None


def test_somebody_catches_what_is_for_nobody(tmp_path: Path) -> None:
    policy = policy_with(catch_all={"example.org": ["anna"]})
    assert recipients(tmp_path).whom(policy, "nobody+x@example.org") == Whom("anna")
    several = policy_with(catch_all={"example.org": ["anna", "bert"]})
    others = ("anna@example.org", "bert@example.org", "copy@example.net")
    assert recipients(tmp_path).whom(several, "nobody@example.org") == Whom("", others=others)


def test_an_account_named_postmaster_comes_first(tmp_path: Path) -> None:
    assert recipients(tmp_path, Names("postmaster", "bert")).whom(policy_with(), "postmaster") == Whom("postmaster")


def test_accounts_that_cannot_be_read_are_no_answer(tmp_path: Path) -> None:
    with pytest.raises(PermissionError):
        recipients(tmp_path).refusal(policy_with(), "disk@example.org")


@pytest.mark.parametrize(
    ("quota", "size", "reply", "surely"),
    [
        ({}, 10**9, None, True),
        ({"octets": 100}, 0, None, True),
        ({"octets": 100}, 78, None, True),
        ({"octets": 100}, 79, None, False),
        ({"octets": 100}, 90, None, False),
        ({"octets": 100}, 91, "452 4.2.2", False),
        ({"octets": 100}, 101, "552 5.2.3", False),
        ({"messages": 2}, 10**9, None, True),
        ({"messages": 1}, 0, "452 4.2.2", False),
    ],
)
def test_room(tmp_path: Path, quota: dict[str, int], size: int, reply: str | None, surely: bool) -> None:
    make_maildir(tmp_path / "anna")
    (tmp_path / "anna" / "cur" / "1,S=10:2,S").touch()
    put_off: list[int] = []
    found = Recipients(PEOPLE, Usages(tmp_path, monotonic=lambda: 0.0), lambda: put_off.append(1))
    for policy in (policy_with(quota=quota), policy_with(accounts={"anna": {"quota": quota}}, quota={"octets": 1})):
        answer = found.no_room(policy, "anna+x@example.org", size)
        assert (str(answer)[:9] if answer else None) == reply
        assert found.surely_fits(policy, "anna+x@example.org", size) is surely
    assert len(put_off) == (2 if reply == "452 4.2.2" else 0)


def test_what_was_never_looked_at_does_not_surely_fit(tmp_path: Path) -> None:
    found, policy = recipients(tmp_path), policy_with(quota={"octets": 10**9})
    assert not found.surely_fits(policy, "anna@example.org", 1)
    assert found.no_room(policy, "anna@example.org", 1) is None
    assert found.surely_fits(policy_with(), "anna@example.org", 1)
    with pytest.raises(PermissionError):
        found.surely_fits(policy, "disk@example.org", 1)


def test_an_alias_for_several_is_not_asked_for_room(tmp_path: Path) -> None:
    found, policy = recipients(tmp_path), policy_with(quota={"octets": 1})
    assert found.no_room(policy, "info@example.org", 100) is None
    assert found.surely_fits(policy, "info@example.org", 100)
