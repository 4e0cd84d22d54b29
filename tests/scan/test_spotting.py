"""The fast searches find what the expressions find that they stand for, and as fast where somebody is hostile."""

from __future__ import annotations

import random
import re

import pytest

from egressguard.scan import octets
from egressguard.scan.octets import stored
from egressguard.scan.spotting import (
    _EMPTY_LINE,
    _NO_FIELD,
    CONTENT_FIELD,
    content_fields,
    empty_line,
    line_of_dashes,
    no_field,
)

DASHES = re.compile(rb"[\r\n]--[^ \r\n\t]")
WORDS = (
    b"content",
    b"CONTENT",
    b"Content-Type",
    b"content-disposition",
    b"content-transfer-encoding",
    b"Content-Name",
    b":",
    b"= attachment",
    b" base64",
    b"--",
    b"\n--",
    b"\r--b",
    b"\r\n",
    b"\n",
    b"\r",
    b"\x0b",
    b"\x0c",
    b" ",
    b"\t",
    b"\0",
    b"\xa0",
    b"\xad",
    b"\x7f",
    b"x",
    b" " * 70,
    b"\xff" * 300,
)


def texts(number: int) -> list[bytes]:
    chance = random.Random(20261126)
    return [b"".join(chance.choices(WORDS, k=chance.randrange(40))) for _ in range(number)]


def test_fields_are_those_of_the_expression() -> None:
    found = 0
    for text in texts(5000):
        expected = [match.span() for match in CONTENT_FIELD.finditer(text)]
        assert [match.span() for match in content_fields(text)] == expected, text
        found += len(expected)
    assert found > 400


def test_dashes_are_those_of_the_expression() -> None:
    chance, found = random.Random(7), 0
    for text in texts(5000):
        start, end = sorted((chance.randrange(len(text) + 1), chance.randrange(len(text) + 1)))
        match = DASHES.search(text, start, end)
        assert line_of_dashes(text, start, end) == (match.start() if match else -1), (text, start, end)
        found += match is not None
    assert found > 100


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is in a file, and read in windows of a few octets."""
    monkeypatch.setattr(octets, "LARGE_OCTETS", 0)
    monkeypatch.setattr(octets, "WINDOW_OCTETS", 9)


def test_in_a_file_the_same_is_found(tiny: None) -> None:
    for text in texts(150):
        content = stored(text)
        assert [each.span() for each in content_fields(content)] == [
            each.span() for each in CONTENT_FIELD.finditer(text)
        ]
        for start in range(0, len(text), 40):
            assert line_of_dashes(content, start, len(text)) == line_of_dashes(text, start, len(text)), (text, start)


@pytest.mark.parametrize(
    "hostile",
    [b"content" * 500_000, b"\n" + b" " * 1_000_000 + b"content" * 300_000, (b" " * 1000 + b"content") * 3500],
    ids=["words", "blanks", "both"],
)
def test_many_words_that_are_no_fields(hostile: bytes) -> None:
    """Hours, if the line's start were looked for from each word anew."""
    assert list(content_fields(hostile)) == list(CONTENT_FIELD.finditer(hostile)) == []


LINES = (
    b"\n",
    b"\r",
    b"\r\n",
    b" ",
    b"\t",
    b"\0",
    b"a: b",
    b"a",
    b":",
    b"a" * 201 + b":",
    b"a  :b",
    b"\xff: c",
    b" fold",
)


def test_empty_lines_and_lines_that_are_no_field_are_those_of_the_expressions(monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(20261126)
    found = 0
    for number in range(6000):
        text = b"".join(chance.choices(LINES, k=chance.randrange(12)))
        start, end = chance.randrange(4), len(text) - chance.randrange(4)
        empty, wrong = _EMPTY_LINE.search(text, start, end), _NO_FIELD.search(text, start, end)
        expected = empty.span() if empty else None, wrong.start() + 1 if wrong else -1
        with monkeypatch.context() as patch:
            if number % 3 == 0:
                patch.setattr(octets, "LARGE_OCTETS", 0)
                patch.setattr(octets, "WINDOW_OCTETS", 5)
            content = stored(text)

            assert (empty_line(content, start, end), no_field(content, start, end)) == expected, (text, start, end)
        found += empty is not None and wrong is not None
    assert found > 300


def test_many_lines_are_told_in_a_moment() -> None:
    assert no_field(b"a: b\r\n" * 100_000 + b"wrong", 0, 600_005) == 600_000
    assert empty_line(b"\r" + b" " * 900 + b"\r x" * 1000, 0, 5000) == (0, 902)
