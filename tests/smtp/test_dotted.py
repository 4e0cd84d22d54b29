"""The end of a message and dot-stuffing: one answer however the octets are cut."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egressguard.smtp.dotted import DottedData

LIMIT = 10_000


@dataclass
class Heard:
    data: DottedData
    content: bytes = b""

    @property
    def received_octets(self) -> int:
        return self.data.received_octets

    @property
    def malformed(self) -> bool:
        return self.data.malformed

    @property
    def too_big(self) -> bool:
        return self.data.too_big


def feed(octets: bytes, chunk_octets: int, limit: int = LIMIT) -> tuple[Heard, bytes | None]:
    heard = Heard(DottedData(limit))
    for start in range(0, len(octets), chunk_octets):
        content, rest = heard.data.feed(octets[start : start + chunk_octets])
        heard.content += content
        if rest is not None:
            return heard, rest + octets[start + chunk_octets :]
    return heard, None


def stuffed(content: bytes) -> bytes:
    """What an honest client sends for content that ends with CRLF (or is empty)."""
    lines = content.split(b"\r\n")[:-1]
    return b"".join((b"." if line.startswith(b".") else b"") + line + b"\r\n" for line in lines) + b".\r\n"


@pytest.mark.parametrize("chunk_octets", [1, 2, 3, 7, 10_000])
@pytest.mark.parametrize(
    ("octets", "content", "rest"),
    [
        (b".\r\n", b"", b""),
        (b".\r\nQUIT\r\n", b"", b"QUIT\r\n"),
        (b"a\r\n.\r\n", b"a\r\n", b""),
        (b"..\r\n.\r\n", b".\r\n", b""),
        (b".a\r\n..b\r\n.\r\nx", b"a\r\n.b\r\n", b"x"),
        (b"a\r\n...\r\n.\r\n.\r\n", b"a\r\n..\r\n", b".\r\n"),
        (b"\r\n.\r\n", b"\r\n", b""),
    ],
)
def test_content_and_what_follows_it(octets: bytes, content: bytes, rest: bytes, chunk_octets: int) -> None:
    data, got = feed(octets, chunk_octets)
    assert (bytes(data.content), got, data.malformed) == (content, rest, False)


LINES = st.lists(st.binary(max_size=20).map(lambda b: b.translate(None, b"\r\n\0")), max_size=8)


@given(LINES, st.integers(1, 40))
def test_what_was_stuffed_comes_out_as_it_was(lines: list[bytes], chunk_octets: int) -> None:
    content = b"".join(line + b"\r\n" for line in lines)
    data, rest = feed(stuffed(content) + b"NOOP\r\n", chunk_octets)
    assert bytes(data.content) == content
    assert rest == b"NOOP\r\n"
    assert not data.malformed


TRICKY = st.lists(st.sampled_from([b"\r", b"\n", b".", b"\0", b"a", b"\r\n", b"\r\n.\r\n"]), max_size=30)


@given(TRICKY.map(b"".join), st.integers(1, 9))
def test_no_cut_changes_the_answer(octets: bytes, chunk_octets: int) -> None:
    whole, rest = feed(octets, 1 << 20)
    cut, cut_rest = feed(octets, chunk_octets)
    assert cut_rest == rest
    if rest is not None:
        assert (cut.malformed, cut.received_octets) == (whole.malformed, whole.received_octets)
        assert whole.malformed or cut.content == whole.content


@given(TRICKY.map(b"".join))
def test_nothing_but_crlf_dot_crlf_ends_a_message(octets: bytes) -> None:
    _, rest = feed(octets, 1 << 20)
    end = (b"\r\n" + octets).find(b"\r\n.\r\n")
    assert rest == (None if end < 0 else (b"\r\n" + octets)[end + 5 :])


@given(TRICKY.map(b"".join), st.integers(1, 9))
def test_content_that_is_kept_has_whole_line_ends_only(octets: bytes, chunk_octets: int) -> None:
    data, _ = feed(octets + b"\r\n.\r\n", chunk_octets)
    left = b"" if data.malformed else bytes(data.content).replace(b"\r\n", b"")
    assert not set(left) & set(b"\r\n\0")


def test_too_much_is_read_to_its_end_and_not_kept() -> None:
    data, rest = feed(b"x" * 50 + b"\r\n.\r\nNOOP\r\n", 7, limit=40)
    assert data.too_big
    assert len(data.content) <= 40
    assert rest == b"NOOP\r\n"


def test_the_limit_itself_is_allowed() -> None:
    data, _ = feed(b"x" * 38 + b"\r\n.\r\n", 7, limit=40)
    assert not data.too_big
    assert len(data.content) == 40
