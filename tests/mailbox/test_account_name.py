from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egressguard.mailbox.account_name import is_account_name, local_part_of, names_in

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
    ("local_part", "separator", "names"),
    [
        ("anna", "+", [("anna", "")]),
        ("Anna", "+", [("anna", "")]),
        ("anna+Lists", "+", [("anna+lists", ""), ("anna", "Lists")]),
        ("anna+a+b", "+", [("anna+a+b", ""), ("anna+a", "b"), ("anna", "a+b")]),
        ("anna-berg-x", "-", [("anna-berg-x", ""), ("anna-berg", "x"), ("anna", "berg-x")]),
        ("anna+lists", "", [("anna+lists", "")]),
        ("anna+", "+", [("anna+", ""), ("anna", "")]),
        ('"anna"', "+", [("anna", "")]),
        ('"an\\na"', "+", [("anna", "")]),
        ('"anna+x y"', "+", [("anna+x y", ""), ("anna", "x y")]),
        ("+lists", "+", [("+lists", ""), ("", "lists")]),
        ('""', "+", [("", "")]),
        ('"', "+", [('"', "")]),
    ],
)
def test_what_a_local_part_may_be_the_whole_of_it_first(local_part, separator, names):
    assert list(names_in(local_part, separator)) == names


@pytest.mark.parametrize(
    ("path", "local_part"),
    [("anna@example.org", "anna"), ("postmaster", "postmaster"), ('"a@b"@example.org', '"a@b"')],
)
def test_local_part_of_a_path(path, local_part):
    assert local_part_of(path) == local_part
