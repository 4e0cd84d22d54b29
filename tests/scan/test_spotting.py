"""The fast searches find what the expressions find that they stand for, and as fast where somebody is hostile."""

from __future__ import annotations

import random
import re

import pytest

from egressguard.scan import octets
from egressguard.scan.heading import CONTENT_FIELD
from egressguard.scan.octets import stored
from egressguard.scan.spotting import content_fields, line_of_dashes

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
