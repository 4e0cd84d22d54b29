from __future__ import annotations

import base64
import quopri

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egressguard.mail import transfer_encoding
from egressguard.mail.transfer_encoding import Encoding, encoded, look_at

LINES = st.lists(
    st.binary(max_size=200).map(lambda line: line.translate(None, b"\0\r\n"))
    | st.sampled_from([b".", b" ", b"=", b"\t"])
).map(b"\r\n".join)


def in_pieces(octets: bytes, encoding: Encoding, piece: int) -> bytes:
    whole = transfer_encoding.PIECE_OCTETS
    transfer_encoding.PIECE_OCTETS = piece
    try:
        return b"".join(encoded(b"<" + octets + b">", 1, len(octets) + 1, encoding))
    finally:
        transfer_encoding.PIECE_OCTETS = whole


@given(LINES, st.integers(1, 400))
def test_quoted_printable_is_the_same_however_it_is_cut_and_comes_back(octets: bytes, piece: int) -> None:
    text = in_pieces(octets, Encoding.QUOTED_PRINTABLE, max(piece, 250))
    assert text == in_pieces(octets, Encoding.QUOTED_PRINTABLE, 10**6)
    assert text.isascii()
    assert max(map(len, text.split(b"\r\n"))) <= 76
    assert b"\n" not in text.replace(b"\r\n", b"")
    assert quopri.decodestring(text) == octets


@given(st.binary(max_size=300))
def test_base64_comes_back(octets: bytes) -> None:
    text = in_pieces(octets * 300, Encoding.BASE64, 1000)
    assert max(map(len, text.split(b"\r\n"))) <= 76
    assert not text.endswith(b"\n")
    assert base64.b64decode(text) == octets * 300


@pytest.mark.parametrize(
    ("octets", "seven_bit", "quotable"),
    [
        (b"", True, True),
        (b"x\r\ny", True, True),
        (b"x" * 998 + b"\r\n", True, True),
        (b"x" * 999 + b"\r\n", False, True),
        (b"x" * 9000, False, False),
        (b"xxxxx\xe4", False, True),
        (b"xxxx\xe4", False, False),
        (b"a\rb", False, False),
        (b"a\nb", False, False),
        (b"a\0b", False, False),
        (b"a\r", False, False),
    ],
)
def test_what_is_in_seven_bits_and_what_may_be_quoted(octets: bytes, seven_bit: bool, quotable: bool) -> None:
    look = look_at(b"\xff\n" + octets + b"\xff", 2, len(octets) + 2)
    assert (look.is_seven_bit, look.is_quotable) == (seven_bit, quotable)
