"""Searches over what is in a file find what they find in memory."""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from egressguard.scan import octets, searching
from egressguard.scan.encodings import base64, decode, uudecode, ydecode
from egressguard.scan.octets import Octets, stored, windows
from egressguard.scan.searching import count_of, finditer, has_word, match, replaced, run_end, search

PATTERNS = [
    re.compile(rb"a+b"),
    re.compile(rb"(?<=\n)a"),
    re.compile(rb"^a", re.MULTILINE),
    re.compile(rb"a\s+b"),
    re.compile(rb"\bab\b"),
    re.compile(rb"a(?=[\r\n]|\Z)"),
    re.compile(rb"[ab]+"),
]
texts = st.lists(st.sampled_from([b"a", b"b", b"\n", b" " * 7, b"aaaaaaaaab", b"data:", b"DATA:", b"x"])).map(b"".join)


@pytest.fixture(autouse=True, scope="module")
def tiny() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(octets, "LARGE_OCTETS", 8)
        patch.setattr(octets, "WINDOW_OCTETS", 5)
        patch.setattr(searching, "REACH_OCTETS", 12)
        yield


def found(matches: Iterator[re.Match[bytes]]) -> list[tuple[int, bytes]]:
    return [(each.start(), each.group()) for each in matches]


@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda pattern: pattern.pattern.decode())
@settings(max_examples=60, deadline=None)
@given(texts, st.integers(0, 40), st.integers(0, 80))
def test_the_same_is_found(pattern: re.Pattern[bytes], text: bytes, start: int, end: int) -> None:
    content = stored(text)

    assert found(finditer(pattern, content)) == found(pattern.finditer(text))
    for ours, theirs in ((search, pattern.search), (match, pattern.match)):
        one, other = ours(pattern, content, start, end), theirs(text, start, end)
        assert (one and one.span()) == (other and other.span())


def test_a_match_longer_than_a_window_is_found_whole() -> None:
    text = b"x" * 20 + b"a" * 500 + b"b" + b"x" * 20

    assert found(finditer(re.compile(rb"a+b?"), stored(text))) == [(20, b"a" * 500 + b"b")]


def test_blanks_hide_nothing_however_many() -> None:
    text = b"x" * 20 + b"a" + b" \n" * 300 + b"b" + b"x" * 20

    assert search(re.compile(rb"a\s+b"), stored(text)) is not None


@settings(max_examples=100, deadline=None)
@given(texts)
def test_words_and_runs(text: bytes) -> None:
    content = stored(text)

    assert has_word(content, b"data:") == (b"data:" in text.lower())
    assert count_of(content, b"data:") == text.lower().count(b"data:")
    assert run_end(content, 0, len(text), re.compile(rb"[ab\n]*")) == len(text) - len(text.lstrip(b"ab\n"))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from([b"%", b"4", b"1", b"%41", b"x", b"%%"])).map(b"".join))
def test_what_is_replaced_may_lie_across_an_edge(text: bytes) -> None:
    pattern, unfinished = re.compile(rb"%([0-9])([0-9])"), re.compile(rb"%[0-9]?\Z")

    assert b"".join(replaced(pattern, rb"<\2\1>", windows(text), unfinished)) == pattern.sub(rb"<\2\1>", text)


LETTERS = st.lists(st.sampled_from([b"QUJD", b"Q", b"U", b"=", b"==", b"\r\n", b"!", b"-"])).map(b"".join)
ESCAPED = st.lists(st.sampled_from([b"=", b"41", b"4", b" ", b"\t", b"\r\n", b"\n", b"\r", b"=\r\n", b"x", b"= 4 1"]))
LINES = st.lists(
    st.sampled_from([b"#0V%T\r\n", b"begin 644 a\r\n", b"end\r\n", b"`\n", b"#0V%T   ", b"=", b"=y", b"\r\n"])
)


@settings(max_examples=200, deadline=None)
@given(LETTERS)
def test_base64_of_any_length_is_what_python_makes_of_it(text: bytes) -> None:
    try:
        expected = binascii.a2b_base64(text)
    except binascii.Error:  # cut off: made up for
        expected = base64(text, 0, len(text))[:]

    assert base64(stored(text), 0, len(text))[:] == expected


@settings(max_examples=100, deadline=None)
@given(ESCAPED.map(b"".join), LINES.map(b"".join))
def test_other_encodings_are_undone_as_in_memory(escaped: bytes, lines: bytes) -> None:
    def contents(readings: list[Octets]) -> list[bytes]:
        return [each[:] for each in readings]

    quoted = decode("quoted-printable", stored(escaped), 0, len(escaped))

    assert contents(quoted) == contents(decode("quoted-printable", escaped, 0, len(escaped)))
    assert uudecode(stored(lines))[:] == uudecode(lines)[:]
    assert ydecode(stored(lines))[:] == _ydecoded(lines)


def _ydecoded(text: bytes) -> bytes:
    kept = text.replace(b"\r", b"").replace(b"\n", b"")
    kept = re.sub(rb"=(.)", lambda found: bytes(((found[1][0] - 64) & 255,)), kept, flags=re.DOTALL)
    return bytes((octet - 42) & 255 for octet in kept)
