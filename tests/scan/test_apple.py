"""AppleSingle, AppleDouble and MacBinary: what they wrap, and what only looks like them."""

from __future__ import annotations

import pytest

from egressguard.scan.apple import files
from tests.scan.more_tricks import apple_single, mac_binary
from tests.scan.tricks import File

FILE = File(b"invoice.exe", b"some octets \x00\xff")


@pytest.mark.parametrize("wrap", [apple_single, mac_binary])
def test_the_name_and_the_data_come_out(wrap: object) -> None:
    assert callable(wrap)
    assert list(files(wrap(FILE))) == [(("invoice.exe",), FILE.content)]


def test_apple_double_has_the_name_alone() -> None:
    assert list(files(apple_single(FILE, 0x00051607))) == [(("invoice.exe",), b"")]


def test_a_name_that_is_no_utf8_is_a_macs() -> None:
    assert list(files(mac_binary(File(b"caf\x8e", b"x")))) == [(("caf\u00e9",), b"x")]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0",
        b"\0" * 128,
        b"\0" * 5000,
        b"\x00\x05\x16\x00",
        b"\x00\x05\x16\x07" + b"\xff" * 200,
        mac_binary(FILE)[:127],
        mac_binary(FILE)[:83] + b"\x7f" + mac_binary(FILE)[84:],  # more data than there is
        mac_binary(FILE)[:74] + b"\x01" + mac_binary(FILE)[75:],
    ],
)
def test_what_only_looks_like_one_gives_nothing(content: bytes) -> None:
    assert list(files(content)) == []
