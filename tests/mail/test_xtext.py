"""xtext: RFC 3461 s4 and RFC 6533 s3, both ways."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egressguard.mail.xtext import (
    XtextError,
    decode_utf8_text,
    decode_xtext,
    encode_unitext,
    encode_utf8_xtext,
    encode_xtext,
    seven_bit_orcpt,
)


@pytest.mark.parametrize(
    ("octets", "text"),
    [
        (b"", ""),
        (b"Bob@Example.ORG", "Bob@Example.ORG"),
        (b"a+b=c", "a+2Bb+3Dc"),
        (b"a b\x7f\x00\xff", "a+20b+7F+00+FF"),
        (b"\\x{41}", "\\x{41}"),
    ],
)
def test_xtext(octets: bytes, text: str) -> None:
    assert encode_xtext(octets) == text
    assert decode_xtext(text) == octets


def test_xtext_may_encode_more_than_it_must() -> None:
    assert decode_xtext("+41+2B") == b"A+"


@pytest.mark.parametrize("text", ["+", "+4", "+4g", "+2b", "a b", "a=b", "\x7f", "\u00e4", "a\n", "++2B"])
def test_what_is_no_xtext(text: str) -> None:
    with pytest.raises(XtextError):
        decode_xtext(text)


@pytest.mark.parametrize(
    ("meant", "xtext", "unitext"),
    [
        ("a@b.example", "a@b.example", "a@b.example"),
        ("gr\u00e5@b.example", "gr\\x{E5}@b.example", "gr\u00e5@b.example"),
        ("a+b=c d", "a\\x{2B}b\\x{3D}c\\x{20}d", "a\\x{2B}b\\x{3D}c\\x{20}d"),
        ("back\\slash", "back\\x{5C}slash", "back\\x{5C}slash"),
        ("\U0001f4e7\U0010ffff\u0800", "\\x{1F4E7}\\x{10FFFF}\\x{800}", "\U0001f4e7\U0010ffff\u0800"),
        ("\x0a\x7f", "\\x{0A}\\x{7F}", "\\x{0A}\\x{7F}"),
    ],
)
def test_the_unicode_forms(meant: str, xtext: str, unitext: str) -> None:
    assert encode_utf8_xtext(meant) == xtext
    assert encode_unitext(meant) == unitext
    assert decode_utf8_text(xtext, utf8=False) == decode_utf8_text(unitext, utf8=True) == meant


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a\\",
        "\\x",
        "\\x{}",
        "\\x{e5}",
        "\\x{0E5}",
        "\\x{E5",
        "\\X{E5}",
        "\\x{41}",
        "\\x{00}",
        "\\x{D800}",
        "\\x{DFFF}",
        "\\x{110000}",
        "\\x{1000000}",
        "a+b",
        "a=b",
        "a b",
        "a\x01",
        "\ud800",
    ],
)
@pytest.mark.parametrize("utf8", [False, True])
def test_what_is_no_unicode_form(text: str, utf8: bool) -> None:
    with pytest.raises(XtextError):
        decode_utf8_text(text, utf8=utf8)


def test_eight_bits_need_smtputf8() -> None:
    with pytest.raises(XtextError):
        decode_utf8_text("gr\u00e5", utf8=False)


@pytest.mark.parametrize("text", ["", "a\0b", "\ud800"])
def test_what_has_no_unicode_form(text: str) -> None:
    for encode in (encode_utf8_xtext, encode_unitext):
        with pytest.raises(XtextError):
            encode(text)


@given(st.binary(max_size=60))
def test_octets_survive(octets: bytes) -> None:
    assert decode_xtext(encode_xtext(octets)) == octets


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=40))
def test_characters_survive(text: str) -> None:
    assert encode_utf8_xtext(text).isascii()
    assert decode_utf8_text(encode_utf8_xtext(text), utf8=False) == text
    assert decode_utf8_text(encode_unitext(text), utf8=True) == text


@given(st.text(max_size=40) | st.text(st.sampled_from("+2B\\x{}0DFE5 "), max_size=20), st.booleans())
def test_any_text_is_decoded_or_refused(text: str, utf8: bool) -> None:
    for decode in (decode_xtext, lambda given: decode_utf8_text(given, utf8=utf8)):
        try:
            decode(text)
        except XtextError:
            continue


@pytest.mark.parametrize(
    ("orcpt", "for_others"),
    [
        ("rfc822;a@b", "rfc822;a@b"),
        ("utf-8;gr\\x{E5}@x", "utf-8;gr\\x{E5}@x"),
        ("utf-8;grå@x", "utf-8;gr\\x{E5}@x"),
        ("utf-8;grå@ x", "utf-8;grå@ x"),
    ],
)
def test_an_original_recipient_for_a_host_without_smtputf8(orcpt: str, for_others: str) -> None:
    assert seven_bit_orcpt(orcpt) == for_others
