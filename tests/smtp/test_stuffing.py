"""What we send after 354: the same however it is cut, one message to every host, and it comes out as it went in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egressguard.smtp.dotted import DottedData
from egressguard.smtp.stuffing import BadOctets, Stuffing

WORDS = [b"", b".", b"..", b".x", b"text", b"x.", b". ", b"QUIT", b"\xe9"]
LAWFUL = st.lists(st.sampled_from(WORDS), max_size=8).map(b"\r\n".join) | st.lists(
    st.sampled_from(WORDS), max_size=8
).map(lambda lines: b"".join(line + b"\r\n" for line in lines))
ANY = st.lists(st.sampled_from([*WORDS, b"\r\n", b"\r", b"\n", b"\0"]), max_size=10).map(b"".join)


def stuffed(pieces: list[bytes]) -> bytes:
    stuffing = Stuffing()
    return b"".join(map(stuffing.add, pieces)) + stuffing.end()


def unstuffed(pieces: list[bytes]) -> bytes:
    data, content = DottedData(1_000_000), b""
    for number, piece in enumerate(pieces, 1):
        fed = data.feed(piece)
        content += fed.content
        if fed.rest is not None:
            assert (fed.rest, number, data.malformed) == (b"", len(pieces), False)
            return content
    raise AssertionError("the message has no end")


def cuts(octets: bytes) -> list[list[bytes]]:
    """In two at every place, and in single octets."""
    single = [octets[at : at + 1] for at in range(len(octets))]
    return [single, *([octets[:at], octets[at:]] for at in range(len(octets) + 1))]


@given(LAWFUL)
def test_what_was_stuffed_comes_out_as_it_was_for_every_split(content: bytes) -> None:
    whole = stuffed([content])
    ended = content if not content or content.endswith(b"\r\n") else content + b"\r\n"
    for pieces in cuts(content):
        assert stuffed(pieces) == whole
    for pieces in cuts(whole):
        assert unstuffed([piece for piece in pieces if piece]) == ended


@given(ANY)
def test_unlawful_octets_are_refused_for_every_split(content: bytes) -> None:
    """Nothing is repaired, and no split hides it."""
    rest = content.replace(b"\r\n", b"")
    lawful = not any(octet in rest for octet in (b"\r", b"\n", b"\0"))
    for pieces in cuts(content):
        if lawful:
            stuffed(pieces)
            continue
        with pytest.raises(BadOctets):
            stuffed(pieces)


@pytest.mark.parametrize(
    ("content", "sent"),
    [
        (b"", b".\r\n"),
        (b"a\r\n", b"a\r\n.\r\n"),
        (b"a", b"a\r\n.\r\n"),
        (b".\r\n", b"..\r\n.\r\n"),
        (b".", b"..\r\n.\r\n"),
        (b"a\r\n.b\r\n..c\r\n", b"a\r\n..b\r\n...c\r\n.\r\n"),
        (b"\r\n", b"\r\n.\r\n"),
    ],
)
def test_stuffed(content: bytes, sent: bytes) -> None:
    assert stuffed([content]) == sent
