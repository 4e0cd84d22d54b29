from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egressguard.quarantine.links import EVERYBODY, TOKEN_CHARACTERS, Grant, WeakSecret, make_token, read_token

SECRET = "s" * 40
GRANT = Grant("0MWSXUK70000DWBB", "anna@example.org", "anna@example.org", 2000)
TOKEN = make_token(SECRET, GRANT)


def test_a_token_gives_its_grant_until_it_is_over() -> None:
    assert read_token(SECRET, TOKEN, 1999.9) == GRANT
    assert read_token(SECRET, TOKEN, 2000) is None


def test_a_token_is_bound_to_its_secret() -> None:
    assert read_token("t" * 40, TOKEN, 0) is None
    with pytest.raises(WeakSecret):
        make_token("short", GRANT)
    with pytest.raises(WeakSecret):
        read_token("", TOKEN, 0)


@given(st.integers(0, len(TOKEN) - 1), st.characters(codec="utf-8"))
def test_no_other_text_is_a_token(place: int, other: str) -> None:
    altered = TOKEN[:place] + other + TOKEN[place + 1 :]
    assert (read_token(SECRET, altered, 0) is None) == (altered != TOKEN)


@pytest.mark.parametrize("text", ["", ".", "a.b", TOKEN + "=", TOKEN + ".", TOKEN[:-1], "x" * 100_000, "\udcff.\udcff"])
def test_nonsense_grants_nothing(text: str) -> None:
    assert read_token(SECRET, text, 0) is None


def test_the_longest_address_fits() -> None:
    grant = Grant("0" * 32, "ä" * 127, "ä" * 127, 10**10)
    token = make_token(SECRET, grant)
    assert len(token) <= TOKEN_CHARACTERS
    assert read_token(SECRET, token, 0) == grant


def test_nobody_is_made_everybody_by_what_stands_in_an_address() -> None:
    """A line feed would part the fields; no address has one, and a token with one too many is none."""
    token = make_token(SECRET, Grant("ID", f"a@b\n{EVERYBODY}", "x", 10))
    assert read_token(SECRET, token, 0) is None
