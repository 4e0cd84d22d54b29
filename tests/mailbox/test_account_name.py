from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egressguard.mailbox.account_name import account_of, is_account_name, local_part_of

TRICKS = [
    "",
    ".",
    "..",
    "../x",
    "a/b",
    "/etc",
    "a\0b",
    "a\nb",
    "-a",
    "_a",
    ".a",
    "a..b",
    "a.",
    "a b",
    "Anna",
    "a:b",
    "é",
]


@pytest.mark.parametrize("name", [*TRICKS, "a" * 65, "a" * 300])
def test_what_is_no_safe_directory_name_is_no_account_name(name):
    assert not is_account_name(name)


@pytest.mark.parametrize("name", ["a", "0", "anna", "anna.berg", "a-b_c.d", "a" * 64])
def test_account_names(name):
    assert is_account_name(name)


@given(st.text(max_size=80))
def test_an_account_name_never_leaves_its_directory(name):
    if is_account_name(name):
        assert "/" not in name
        assert "\0" not in name
        assert not name.startswith(".")
        assert ":" not in name


@pytest.mark.parametrize(
    ("local_part", "account"),
    [
        ("anna", "anna"),
        ("Anna", "anna"),
        ("anna+lists", "anna"),
        ("anna+a+b", "anna"),
        ('"anna"', "anna"),
        ('"an\\na"', "anna"),
        ('"anna+x y"', "anna"),
        ('"../anna"', None),
        ('"anna/"', None),
        ("+lists", None),
        ('""', None),
        ('"', None),
    ],
)
def test_case_and_detail_do_not_matter_all_else_does(local_part, account):
    assert account_of(local_part) == account


@pytest.mark.parametrize(
    ("path", "local_part"),
    [("anna@example.org", "anna"), ("postmaster", "postmaster"), ('"a@b"@example.org', '"a@b"')],
)
def test_local_part_of_a_path(path, local_part):
    assert local_part_of(path) == local_part
