"""What is passed over because no word of a hidden file stands in it holds no hidden file."""

from __future__ import annotations

import random
from base64 import b64encode
from binascii import b2a_uu

import pytest

from egressguard.scan import sweep
from egressguard.scan.octets import stored

WORDS = (
    *(word.strip() for word in sweep._ANCHORS),
    *sweep._ANCHORS,
    b"begin 644 a.exe\n",
    b"BEGIN 644 a\r",
    b"Begin-base64 644 a\n",
    b"=ybegin line=1 name=a\r\n",
    b"=yend",
    b"PK=03=04",
    b"=50=4b=05=\r\n06",
    sweep._BINHEX,
    b"\n:abc:",
    b"#45.",
    b"end",
    b"A" * 60,
    b"\r\n",
    b"\n",
    b"\r",
    b" ",
    b">",
    b"words of a text",
)


def test_no_file_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(20261126)
    passed = found = 0
    for number in range(6000):
        text = b"".join(chance.choices(WORDS, k=chance.randrange(6)))
        files = list(sweep._files(text, [(0, len(text))], []))
        passed += not sweep._places(text)
        found += bool(files)
        assert list(sweep.files(text, [])) == files, text
        if number % 20 == 0:
            with monkeypatch.context() as patch:
                patch.setattr("egressguard.scan.octets.LARGE_OCTETS", 0)
                patch.setattr("egressguard.scan.octets.WINDOW_OCTETS", 7)
                large = [(names, file[:]) for names, file in sweep.files(stored(text), [])]
            assert large == files, text
    assert passed > 500
    assert found > 500


@pytest.mark.parametrize(
    "begins", [b"MZ", b"PK\x03\x04", b"%PDF-1.7", b"#!/bin/sh", b"\x1f\x8b\x08\0", b"Rar!\x1a\x07\0"]
)
@pytest.mark.parametrize("before", [b"", b"see:\n", b"see:\r\n", b"see:\r"])
def test_a_file_that_begins_a_line_is_found(begins: bytes, before: bytes) -> None:
    file = begins + bytes(range(200))

    assert list(sweep.files(before + b64encode(file), [])) == [((), file)]


def test_a_uuencoded_file_ends_where_the_next_begins() -> None:
    files = {b"one.zip": b"PK\3\4 the first", b"two.zip": b"PK\3\4 the second"}
    lines = (b"begin 644 " + name + b"\r\n" + b2a_uu(content) for name, content in files.items())
    found = dict(sweep.files(b"\r\nsee both:\r\n" + b"".join(lines) + b"`\r\nend\r\n", []))

    assert {name.encode(): bytes(content) for (name,), content in found.items()} == files
