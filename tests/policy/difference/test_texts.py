"""A text for patterns: what is made matches, and where nothing is made nothing matches."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egressguard.policy.difference.texts import text_for
from egressguard.policy.patterns import text_matches

PATTERNS = st.text(alphabet="ab*?[]!-", max_size=4)
SHORT = ["".join(letters) for size in range(4) for letters in itertools.product("abc-!", repeat=size)]


@given(st.lists(st.lists(PATTERNS, min_size=1, max_size=2), max_size=2), st.lists(PATTERNS, max_size=3))
def test_what_is_made_matches_and_nothing_is_overlooked(wanted: list[list[str]], unwanted: list[str]) -> None:
    found = text_for(wanted, unwanted)
    if found is not None:
        assert all(text_matches(group, found) for group in wanted) and not text_matches(unwanted, found)
        return
    for text in SHORT:
        assert text_matches(unwanted, text) or not all(text_matches(group, text) for group in wanted)


@pytest.mark.parametrize(
    ("wanted", "unwanted", "found"),
    [
        ([["*.exe"]], [], ".exe"),
        ([["*.exe"], ["in*"]], [], "in.exe"),
        ([["*"]], ["*"], None),
        ([["*.exe"]], ["*.EXE"], None),
        ([["*.exe"]], ["?exe", "*x.exe"], None),
        ([["a*"], ["*b"], ["*c*"]], ["*acb*"], None),
        ([["[a-c]"]], ["a", "c"], "b"),
        ([["[!a]"]], ["[!b]"], "b"),
    ],
)
def test_texts(wanted: list[list[str]], unwanted: list[str], found: str | None) -> None:
    made = text_for(wanted, unwanted)
    if found is None and made is not None:
        assert all(text_matches(group, made) for group in wanted) and not text_matches(unwanted, made)
    else:
        assert made == found


def test_a_text_that_does_not_occur_is_not_made() -> None:
    assert text_for([["a*"]], ["a"], lambda text: not text.endswith("x")) not in {None, "ax"}
