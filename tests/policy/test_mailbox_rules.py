"""Accounts' own rules: what they may say, which one decides."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egressguard.policy.document import Fault
from egressguard.policy.mailbox_rules import (
    MATCHERS,
    MAX_OCTETS,
    Letter,
    MailboxMatch,
    MailboxRules,
    choose,
    parse_mailbox_rules,
)

RULES = b"""\
rules:
  - name: off
    enabled: false
    action: file
    folder: Never
  - name: lists
    match: {header: {List-Id: "*<debian-*"}}
    action: file
    folder: Lists/Debian
  - name: shops
    match: {detail: [shops, "shop-*"], sender_domain: [.shop.example, "@local"]}
    action: file
    folder: Shops
  - name: boss
    match: {sender: boss@example.org}
    action: forward
    to: [anna@example.net, bert@example.org]
    folder: INBOX
  - name: large
    match: {larger_than_octets: 1000, tag: bulk}
    action: file
    folder: Trash
  - name: info
    match: {recipient: info@example.org}
    action: keep
"""
LETTER: dict[str, Any] = {
    "reverse_path": "x@example.net",
    "forward_path": "anna@example.org",
    "detail": "",
    "headers": {},
    "size_octets": 10,
    "domains": ("example.org",),
}


def parsed(text: bytes = RULES) -> MailboxRules:
    found = parse_mailbox_rules("anna.yaml", text)
    assert isinstance(found, MailboxRules), found
    return found


@pytest.mark.parametrize(
    ("letter", "rule"),
    [
        ({}, None),
        ({"headers": {"list-id": ("Debian users <Debian-user.lists.example>",)}}, "lists"),
        ({"headers": {"list-id": ("other <a>", "b <debian-x>")}}, "lists"),
        ({"detail": "Shops", "reverse_path": "a@x.shop.example"}, "shops"),
        ({"detail": "shop-7", "reverse_path": "a@Example.org"}, "shops"),
        ({"detail": "shops"}, None),
        ({"reverse_path": "a@x.shop.example"}, None),
        ({"reverse_path": "BOSS@example.org"}, "boss"),
        ({"size_octets": 1001, "tags": ("bulk",)}, "large"),
        ({"size_octets": 1000, "tags": ("bulk",)}, None),
        ({"size_octets": 1001, "tags": ("other",)}, None),
        ({"forward_path": "info@example.org"}, "info"),
        ({"reverse_path": ""}, None),
    ],
)
def test_the_first_rule_that_matches(letter: dict[str, Any], rule: str | None) -> None:
    found = choose(parsed(), Letter(**LETTER | letter))
    assert (found.name if found else None) == rule


def test_every_key_of_a_match_is_asked() -> None:
    assert list(MATCHERS) == list(MailboxMatch.model_fields)


def test_rules_say_where_they_stand() -> None:
    assert parsed().rules[1].at == "anna.yaml:6:5"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("rules: [{name: a, action: file}]", "anna.yaml:1:9: found a mapping: action file has no folder"),
        ("rules: [{name: a, action: keep, folder: X}]", "expected action file with this folder"),
        ("rules: [{name: a, action: forward}]", "`to` and action forward go together"),
        ("rules: [{name: a, action: file, folder: X, to: a@b.example}]", "`to` and action forward go together"),
        ("rules: [{name: a, action: discard}]", "1:27: found the text 'discard'; expected one of keep, file, forward"),
        ("rules: [{name: a, action: forward, to: nobody}]", "expected local-part@domain"),
        ("rules: [{name: a, action: keep, match: {sendr: x}}]", "unknown key 'sendr', did you mean 'sender'?"),
        ("rules: [{name: a, action: keep}, {name: a, action: keep}]", "1:41: the name 'a' stands twice"),
        ("rules: {", "not YAML"),
        ("flows: []", "unknown key 'flows'; expected one of rules"),
    ],
)
def test_faults_have_their_place(text: str, fault: str) -> None:
    found = parse_mailbox_rules("anna.yaml", text.encode())
    assert isinstance(found, list)
    assert any(fault in str(one) for one in found), found


FOLDERS = ["../x", "a/../b", "a.b", ".hidden", "a//b", "/a", "a/", "", " a", "a ", "~a", "a*", "a%", "a\\b", "a\x07b"]


@pytest.mark.parametrize(
    "folder",
    [*FOLDERS, "a" * 121, "/".join("abcdefghi"), "INBOX/x", "Quarantine", "quarantine/x", "Quarantine-all", "e\u0301"],
)
def test_what_is_no_folder_is_refused(folder: str) -> None:
    text = f"rules: [{{name: a, action: file, folder: {folder!r}}}]".encode()
    assert isinstance(parse_mailbox_rules("anna.yaml", text), list)


@pytest.mark.parametrize(
    ("folder", "meant"),
    [("inbox", "INBOX"), ("Lists/Debian & more", None), ("Gr\u00fc\u00dfe", None), ("\u65e5\u672c", None)],
)
def test_folders(folder: str, meant: str | None) -> None:
    text = f"rules: [{{name: a, action: file, folder: '{folder}'}}]".encode()
    assert parsed(text).rules[0].folder == (meant or folder)


def test_a_file_is_bounded() -> None:
    assert isinstance(parse_mailbox_rules("a", b" " * (MAX_OCTETS + 1)), list)
    many = "".join(f"- {{name: r{n}, action: keep}}\n" for n in range(501))
    assert isinstance(parse_mailbox_rules("a", f"rules:\n{many}".encode()), list)


@given(st.binary(max_size=300) | st.text(max_size=200).map(lambda text: b"rules: " + text.encode()))
def test_no_octets_make_it_fail(octets: bytes) -> None:
    found = parse_mailbox_rules("a", octets)
    assert isinstance(found, MailboxRules) or all(isinstance(one, Fault) for one in found)
