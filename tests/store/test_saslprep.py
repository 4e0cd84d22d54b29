"""SASLprep: the examples of RFC 4013 s3, and that nothing else ever comes of any text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egressguard.store.saslprep import SaslprepError, saslprep


@pytest.mark.parametrize(
    ("text", "prepared"),
    [
        ("I\u00adX", "IX"),
        ("user", "user"),
        ("USER", "USER"),
        ("\u00aa", "a"),
        ("\u2168", "IX"),
        ("a\u00a0b\u3000c", "a b c"),
        ("", ""),
        ("\u0627\u0628", "\u0627\u0628"),
    ],
)
@pytest.mark.parametrize("stored", [False, True])
def test_prepared_texts(text: str, prepared: str, stored: bool) -> None:
    assert saslprep(text, stored=stored) == prepared


@pytest.mark.parametrize(
    "text", ["\u0007", "\u06271", "a\x7f", "\ue000", "\ufffd", "\u200e", "\ud800", "\u0627a\u0628"]
)
def test_texts_without_a_form(text: str) -> None:
    with pytest.raises(SaslprepError):
        saslprep(text, stored=False)


def test_what_is_not_assigned_may_be_asked_for_but_not_stored() -> None:
    assert saslprep("\U0001f511", stored=False) == "\U0001f511"
    with pytest.raises(SaslprepError):
        saslprep("\U0001f511", stored=True)


@given(st.text(st.characters(), max_size=20), st.booleans())
def test_preparing_twice_changes_nothing_more(text: str, stored: bool) -> None:
    try:
        prepared = saslprep(text, stored=stored)
        again = saslprep(prepared, stored=stored)
    except SaslprepError:
        return
    assert again == prepared


@given(st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E)))
def test_printable_ascii_stays(text: str) -> None:
    assert saslprep(text, stored=True) == text
