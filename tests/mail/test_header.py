from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from egressguard.mail.header import HEADER_OCTETS, fields, find_fields, split_header_section


@pytest.mark.parametrize(
    ("content", "section"),
    [
        (b"A: 1\r\nB: 2\r\n\r\nbody\r\n", b"A: 1\r\nB: 2\r\n"),
        (b"A: 1\r\n\tfolded\r\n\r\nbody", b"A: 1\r\n\tfolded\r\n"),
        (b"A: 1\r\nB: 2\r\n", b"A: 1\r\nB: 2\r\n"),
        (b"A: 1", b"A: 1"),
        (b"\r\nbody\r\n", b""),
        (b"", b""),
        (b"no field\r\nA: 1\r\n", b""),
        (b"A: 1\r\nno field\r\nB: 2\r\n", b"A: 1\r\n"),
        (b" not a continuation\r\nA: 1\r\n", b""),
        (b"A: 1\r\n  \r\nbody", b"A: 1\r\n"),
        (b"A : 1\r\n\r\n", b"A : 1\r\n"),
    ],
)
def test_the_header_section_ends_where_fields_end(content: bytes, section: bytes) -> None:
    assert split_header_section(content) == (section, content[len(section) :])


@given(
    st.binary(max_size=300) | st.lists(st.sampled_from([b"A: b\r\n", b"\tc\r\n", b"\r\n", b":", b"x"])).map(b"".join)
)
def test_no_octet_is_lost_or_made_up(content: bytes) -> None:
    section, rest = split_header_section(content)
    assert section + rest == content
    assert all(field.name in section and field.value in section for field in fields(section))


def test_fields_are_found_without_regard_to_case_and_with_their_folds() -> None:
    section = b"Subject: one\r\n two\r\nsubject:three\r\nX: y\r\n"
    assert find_fields(section, "SUBJECT") == [b" one\r\n two", b"three"]
    assert find_fields(section, "Subject", limit=1) == [b" one\r\n two"]
    assert find_fields(section, "Y") == []


def test_an_endless_header_section_is_cut_off() -> None:
    section, _ = split_header_section(b"A: b\r\n" * (HEADER_OCTETS // 3))
    assert len(section) <= HEADER_OCTETS


def _section_by_lines(content: bytes) -> bytes:
    """The definition, one line after the other."""
    end = 0
    for line in re.findall(rb"[^\n]*\n|[^\n]+\Z", content[:HEADER_OCTETS]):
        if line[:1] in (b" ", b"\t"):
            if end == 0 or not line.strip():
                break
        elif not re.match(rb"[\x21-\x39\x3b-\x7e]+[ \t]*:", line):
            break
        end += len(line)
    return content[:end]


PIECES = st.sampled_from(
    [b"A", b":", b" ", b"\t", b"\n", b"\r\n", b"\r", b"\x0b", b"\0", b"\xff", b"Ab-c: d", b"\n  e"]
)


@settings(max_examples=500)
@given(st.lists(PIECES, max_size=40).map(b"".join), st.integers(0, 300))
def test_the_section_ends_where_the_lines_say(content: bytes, many: int) -> None:
    content = b"Received: x\r\n\ty\r\n" * many + content
    assert split_header_section(content)[0] == _section_by_lines(content)
