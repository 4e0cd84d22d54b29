from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egressguard.mailbox import mbox_text
from egressguard.mailbox.mbox_text import from_line, quoted


def text_of(*pieces):
    return b"".join(quoted(pieces))


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"a: b\r\n\r\nFrom me\r\n>From you\r\n", b"a: b\n\n>From me\n>>From you\n\n"),
        (b"From x\r\n", b">From x\n\n"),
        (b"no end", b"no end\n\n"),
        (b"a\r\n", b"a\n\n"),
        (b"", b"\n"),
        (b"bare\rCR and\nLF\x00\xff\r\n", b"bare\rCR and\nLF\x00\xff\n\n"),
        (b"not From here\r\nfrom there\r\nFrom\r\n", b"not From here\nfrom there\nFrom\n\n"),
    ],
)
def test_lines_that_look_like_a_beginning_are_quoted(content, text):
    assert text_of(content) == text


LINES = st.lists(st.sampled_from([b"From ", b">", b"From", b"\r", b"\n", b"\r\n", b"x", b"\xff", b" "]), max_size=30)


@given(LINES, st.integers(1, 9))
def test_pieces_do_not_matter_and_the_message_comes_back(parts, size):
    content = b"".join(parts)
    pieces = [content[at : at + size] for at in range(0, len(content), size)]
    text = text_of(*pieces)
    assert text == text_of(content)
    plain = content.replace(b"\r\n", b"\n")
    assert re.sub(rb"(?m)^>(>*From )", rb"\1", text[:-1]) in (plain, plain + b"\n")
    assert not re.search(rb"(?m)^From ", text)


def test_a_line_without_an_end_is_not_held_in_memory(monkeypatch):
    monkeypatch.setattr(mbox_text, "HELD_OCTETS", 10)
    given_ = [b"x" * 8, b"yyyy", b"From zzzzzz", b"\r", b"\nFrom a\r\n"]
    found = list(quoted(given_))
    assert len(found) > 3
    assert b"".join(found) == b"x" * 8 + b"yyyyFrom zzzzzz\n>From a\n\n"


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("a@example.org", b"From a@example.org Fri Jan 15 08:00:00 2027\n"),
        ("", b"From MAILER-DAEMON Fri Jan 15 08:00:00 2027\n"),
        ('"a b"@example.org', b'From "a?b"@example.org Fri Jan 15 08:00:00 2027\n'),
        ("\u00e9@example.org", b"From ?@example.org Fri Jan 15 08:00:00 2027\n"),
    ],
)
def test_the_line_in_front(path, line):
    assert from_line(path, 1_800_000_000.0) == line
