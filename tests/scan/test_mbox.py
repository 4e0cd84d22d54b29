"""Messages in an mbox: cut where a mail program would cut, every octet kept, in bounded memory."""

import os
import tracemalloc
from pathlib import Path

import pytest

from egressguard.scan import mbox
from egressguard.scan.mbox import is_mbox, split_mbox

FROM = b"From a@b.example Thu Nov 26 15:00:00 2026\n"
ONE = b"Subject: one\n\nfirst\n\n"
TWO = b"Subject: two\n\nsecond\n"


def pieces(path: Path, content: bytes) -> list[bytes]:
    path.write_bytes(content)
    fd = os.open(path, os.O_RDONLY)
    try:
        return [content[start : start + size] for start, size in split_mbox(fd)]
    finally:
        os.close(fd)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (FROM + ONE + FROM + TWO, [ONE, TWO]),
        ((FROM + ONE + FROM + TWO).replace(b"\n", b"\r\n"), [ONE.replace(b"\n", b"\r\n"), TWO.replace(b"\n", b"\r\n")]),
        (FROM + ONE + b"From here on it is text\nno field\n", [ONE + b"From here on it is text\nno field\n"]),
        (FROM + b"Subject: x\nFrom y\nTo: z\n\n", [b"Subject: x\nFrom y\nTo: z\n\n"]),
        (FROM + b">From old\nSubject: x\n", [b">From old\nSubject: x\n"]),
        (ONE, []),
        (b"", []),
    ],
    ids=["two", "crlf", "from in the text", "from in the header", "quoted from first", "no mbox", "empty"],
)
def test_an_mbox_is_cut_at_its_from_lines_only(tmp_path: Path, content: bytes, expected: list[bytes]) -> None:
    assert pieces(tmp_path / "box", content) == expected


@pytest.mark.parametrize("chunk", [8192, 8193, 8211, 9000])
def test_a_from_line_at_the_edge_of_a_chunk_is_found_once(
    tmp_path: Path, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mbox, "_CHUNK_OCTETS", chunk)
    messages = [b"Subject: %d\n\n%s\n\n" % (n, b"x" * (n * 7 % 400)) for n in range(300)]
    assert pieces(tmp_path / "box", b"".join(FROM + message for message in messages)) == messages


def test_a_large_mbox_takes_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "box"
    with path.open("wb") as file:
        for _ in range(32):
            file.write(FROM + b"Subject: x\n\n" + b"y" * 1_000_000 + b"\n\n")
    fd = os.open(path, os.O_RDONLY)
    tracemalloc.start()
    try:
        assert is_mbox(fd)
        assert sum(1 for _ in split_mbox(fd)) == 32
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()
        os.close(fd)
