"""The drop directory: what is put is what is read, and nothing odd in it is taken for a message."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egressguard.store.drop import SUFFIX, BadDrop, put, read, remove, set_aside, waiting

MOST = 1000


def test_what_is_put_is_read_in_its_order_and_goes(tmp_path: Path) -> None:
    names = [put(tmp_path, "a@b.example", (f"c{n}@d.example",), b"Subject: x\r\n\r\ny\r\n") for n in range(3)]

    assert list(waiting(tmp_path)) == names
    found = read(tmp_path, names[0], MOST)
    assert (found.owner, found.sender, found.recipients) == (os.getuid(), "a@b.example", ("c0@d.example",))
    assert found.content == b"Subject: x\r\n\r\ny\r\n"
    remove(tmp_path, names[0])
    set_aside(tmp_path, names[1])
    assert list(waiting(tmp_path)) == names[2:]
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".msg", ".refused"]
    assert (tmp_path / f"{names[2]}{SUFFIX}").stat().st_mode & 0o777 == 0o640


def test_an_account_is_told_and_content_may_come_in_pieces(tmp_path: Path) -> None:
    name = put(tmp_path, "", ("c@d.example",), iter((b"Subject: x\r\n", b"\r\ny\r\n")), "anna")

    found = read(tmp_path, name, MOST)
    assert (found.account, found.content) == ("anna", b"Subject: x\r\n\r\ny\r\n")
    assert read(tmp_path, put(tmp_path, "", ("c@d.example",), b"x"), MOST).account == ""


def test_pieces_that_end_in_trouble_leave_nothing(tmp_path: Path) -> None:
    def broken() -> Iterator[bytes]:
        yield b"x"
        raise OSError(5, "Input/output error")

    with pytest.raises(OSError, match="Input/output"):
        put(tmp_path, "", ("a@b.example",), broken())
    assert list(tmp_path.iterdir()) == []


def test_what_is_half_written_is_not_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_fd: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output"):
        put(tmp_path, "", ("a@b.example",), b"x")
    assert list(tmp_path.iterdir()) == []


HEADS = [
    b"",
    b"{",
    b"[]\n",
    b'{"version": 2, "sender": "a", "recipients": ["b"]}\n',
    b'{"version": 1, "sender": 1, "recipients": ["b"]}\n',
    b'{"version": 1, "sender": "", "recipients": []}\n',
    b'{"version": 1, "sender": "", "recipients": [1]}\n',
    b'{"version": 1, "sender": "", "recipients": "b"}\n',
    json.dumps({"version": 1, "sender": "", "recipients": ["b"] * 1001}).encode() + b"\n",
    b'{"version": 1, "sender": "", "recipients": ["b"]}\n' + b"x" * (MOST + 1),
    b"[" * 100_000,
]


@pytest.mark.parametrize("octets", HEADS, ids=range(len(HEADS)))
def test_what_is_no_message_is_said_so(tmp_path: Path, octets: bytes) -> None:
    (tmp_path / "x.msg").write_bytes(octets)
    with pytest.raises(BadDrop, match=r"expected|more than"):
        read(tmp_path, "x", MOST)


@given(st.binary(max_size=200))
def test_no_octets_raise_anything_else(tmp_path_factory: pytest.TempPathFactory, octets: bytes) -> None:
    folder = tmp_path_factory.mktemp("drop")
    (folder / "x.msg").write_bytes(octets)
    with pytest.raises(BadDrop):
        read(folder, "x", MOST)


def test_links_pipes_and_files_of_two_names_are_not_taken(tmp_path: Path) -> None:
    name = put(tmp_path, "", ("a@b.example",), b"x")
    os.link(tmp_path / f"{name}{SUFFIX}", tmp_path / "second")
    (tmp_path / "link.msg").symlink_to(tmp_path / "second")
    os.mkfifo(tmp_path / "pipe.msg")
    for one in (name, "pipe"):
        with pytest.raises(BadDrop):
            read(tmp_path, one, MOST)
    with pytest.raises(OSError, match="symbolic links"):
        read(tmp_path, "link", MOST)
    with pytest.raises(FileNotFoundError):
        read(tmp_path, "gone", MOST)
