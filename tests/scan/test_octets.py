"""What is read window by window is read as it would be in memory: nothing in it gets lost at a window's edge."""

from __future__ import annotations

import io
import os
import random
import tempfile
from base64 import b64encode, encodebytes
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from egressguard.policy.site import Scan
from egressguard.policy.verdict import Verdict
from egressguard.scan import octets, searching
from egressguard.scan.examine import examine
from egressguard.scan.octets import Octets, Stored, TooMuch, contains, gather, part, read, same, stored, windows
from tests.scan.more_tricks import tricks
from tests.scan.samples import EICAR, mail_with, zip_of
from tests.scan.test_active import onenote, pdf, smuggling, stream
from tests.scan.test_archive import KINDS
from tests.scan.tricks import File, tnef

DATA = Path(__file__).parent.parent / "data" / "mail"
SHARED = Path(__file__).parents[3] / "shared" / "data" / "mail"
SETTINGS = Scan(denied_names=("*.exe",))
FILES = [
    File(b"eicar.zip", zip_of(("eicar.com", EICAR))),
    File(b"invoice.exe", b"not even a program; the name is enough\x01\x02\x03" * 5),
]
ALL = os.environ.get("EGRESSGUARD_READINGS") == "all"
ODD, EVEN = 37, 1000
"""Octets of a window; the first cuts nearly everything."""


@pytest.fixture(params=[ODD, EVEN])
def window(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """What has more octets than two windows is in a file."""
    size: int = request.param
    monkeypatch.setattr(octets, "WINDOW_OCTETS", size)
    monkeypatch.setattr(octets, "LARGE_OCTETS", 2 * size)
    monkeypatch.setattr(searching, "REACH_OCTETS", 4096)
    return size


def messages() -> Iterator[tuple[str, bytes]]:
    made = [(f"{name} {file.name.decode()}", trick(file)) for file in FILES for name, trick in tricks()]
    real = [(path.name, path.read_bytes()) for path in chain(DATA.iterdir(), SHARED.rglob("*")) if path.is_file()]
    yield from made if ALL else made[::23]
    yield from sorted(real) if ALL else sorted(real)[::9]


def files() -> Iterator[tuple[str, bytes]]:
    """Archives and documents, which have readers of their own."""
    for kind, make in KINDS.items():
        yield kind, make("x.com", EICAR)
        yield f"{kind} in 7bit", make("run.exe", b"abc" * 500)
    evil = zip_of(("run.exe", b"abc"))
    yield "data", b"<html><a href='data:application/zip;base64," + b64encode(evil) + b"'>" + b"x" * 3000
    yield "percent", b"<html><a href='data:application/zip;base64," + b64encode(evil).replace(b"=", b"%3D") + b"'>"
    yield "blob", b"<html>" + b"' '" * 50 + smuggling(evil * 5)
    yield "wide", smuggling(evil).decode().encode("utf-16")
    yield "entities", b"<html><a href='&#100;ata&colon;application/zip;base64," + b64encode(evil) + b"'>"
    yield "pdf", pdf(b"<< /Open#41ction 2 0 R >>", stream(b"/Type /Embedded#46ile", evil), b"<< /JS /JavaScript >>")
    yield "rtf", b"{\\rtf1{\\*\\objdata 01050000\\x12 " + evil.hex().encode().replace(b"0", b"\r\n0") + b"}}"
    yield "onenote", onenote(b"\x89PNG", evil)
    yield "calendar", b"BEGIN:VCALENDAR\r\nATTACH;FILENAME=run.exe;ENCODING=BASE64:" + lines(evil * 9, b"\r\n ")
    yield "tnef", tnef(File(b"run.exe", evil))


def lines(content: bytes, end: bytes) -> bytes:
    return encodebytes(content).replace(b"\n", end)


@pytest.mark.parametrize("encoding", ["base64", "8bit"])
def test_what_is_in_a_file_that_is_in_a_file_is_found(
    encoding: str, window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, content in files() if ALL else list(files())[window % 6 :: 6]:
        head = b"Content-Type: %s; name=a.html\r\n" % (b"text/html" if b"<" in content[:9] else b"a/b")
        head += b"Content-Transfer-Encoding: " + encoding.encode() + b"\r\n\r\n"
        message = head + (encodebytes(content) if encoding == "base64" else content)

        assert examine(stored(message), SETTINGS) == in_memory(message, monkeypatch), name


def in_memory(content: bytes, patch: pytest.MonkeyPatch) -> object:
    with patch.context() as inner:
        inner.setattr(octets, "LARGE_OCTETS", 1 << 30)
        return examine(content, SETTINGS)


def mutated(content: bytes, chance: random.Random) -> bytes:
    out = bytearray(content)
    for _ in range(chance.randint(1, 6)):
        at = chance.randrange(len(out) + 1)  # it may be empty
        out[at : at + chance.randint(0, 20)] = chance.choice(
            [b"", b"\r", b"\n", b"\0", b"=", b'"', b"--bb", b"\r\n\r\n", b"\xff", b";", b" " * 100, b"&#x3a;", b"data:"]
        )
    return bytes(out)


def test_a_message_in_a_file_is_read_as_one_in_memory(window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, content in messages():
        if len(content) < 300_000:
            assert examine(stored(content), SETTINGS) == in_memory(content, monkeypatch), name


def test_a_damaged_message_in_a_file_is_read_as_one_in_memory(window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(window)
    few = [content for _, content in messages() if len(content) < 20_000]
    for content in few * 5 if ALL else few[::4]:
        damaged = mutated(content, chance)
        assert examine(stored(damaged), SETTINGS) == in_memory(damaged, monkeypatch), damaged


@pytest.mark.parametrize("name", ["eicar.zip", "report.exe"])
def test_what_stands_at_the_end_of_a_large_mail_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(octets, "LARGE_OCTETS", 1_000_000)
    first = mail_with("large.bin", os.urandom(1_500_000))
    last = mail_with(name, zip_of(("eicar.com", EICAR)) if name == "eicar.zip" else b"x")
    content = (
        b"MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=outer\r\n\r\n--outer\r\n"
        + b"Content-Type: message/rfc822\r\n\r\n"
        + first
        + b"\r\n--outer\r\n"
        + b"Content-Type: message/rfc822\r\n\r\n"
        + last
        + b"\r\n--outer--\r\n"
    )

    with tempfile.TemporaryFile() as file:
        file.write(content)
        file.flush()
        found = read(file.fileno(), 0, len(content))

    assert isinstance(found, Stored)
    assert examine(found, SETTINGS).verdict is (Verdict.INFECTED if name == "eicar.zip" else Verdict.DENIED)


texts = st.binary(max_size=300) | st.lists(st.sampled_from([b"ab", b"a", b"\n", b"=", b" ", b"x"])).map(b"".join)


@settings(max_examples=200, deadline=None)
@given(
    texts,
    st.binary(min_size=1, max_size=3) | st.sampled_from([b"ab", b"\n", b"aab"]),
    st.integers(-5, 320),
    st.integers(-5, 320),
)
def test_it_is_sliced_and_searched_as_octets_in_memory(text: bytes, word: bytes, start: int, end: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(octets, "LARGE_OCTETS", 0)
        patch.setattr(octets, "WINDOW_OCTETS", 3)
        content = stored(text)
        low, high = max(start, 0), max(end, 0)

        assert len(content) == len(text)
        assert content[start:end] == text[start:end]
        assert part(content, low, high)[:] == text[low:high]
        assert b"".join(windows(content, low, high)) == text[low:high]
        assert content.find(word, low, high) == text.find(word, low, high)
        assert content.rfind(word, low, high) == text.rfind(word, low, high)
        assert content.startswith((word, b"\n")) == text.startswith((word, b"\n"))
        assert (word in content) == (word in text)
        assert octets.without_end(content, b" \n")[:] == text.rstrip(b" \n")
        assert contains(content, stored(word)) == (word in text)
        assert octets.opened(content).read() == text


def test_equal_octets_are_equal_wherever_they_lie(window: int) -> None:
    text = os.urandom(5000)
    one, other = stored(text), part(stored(b"abc" + text), 3)

    assert one == other
    assert hash(one) == hash(other)
    assert same(one, other)
    assert one != stored(text[:-1] + b"?" if text[-1:] != b"?" else text[:-1] + b"!")
    assert {one: 1}[other] == 1


def test_a_small_content_stays_in_memory(window: int) -> None:
    assert isinstance(gather([b"a" * window, b"b" * window]), bytes)
    assert isinstance(gather([b"a" * window, b"b" * (window + 1)]), Stored)
    assert isinstance(part(stored(b"a" * 3 * window), 1, 2 * window), bytes)


def test_a_file_that_is_changed_later_is_read_as_it_was(window: int, tmp_path: Path) -> None:
    path = tmp_path / "mail"
    path.write_bytes(b"a" * 10_000)
    with path.open("r+b") as file:
        content = read(file.fileno(), 100, 9000)
        file.truncate(0)

    assert content[:] == b"a" * 9000


def test_no_file_is_left_and_none_stays_open(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(octets, "LARGE_OCTETS", 10)
    before = _descriptors()
    content: Octets = stored(b"a" * 100)

    assert list(tmp_path.iterdir()) == []
    assert part(content, 50)[:] == b"a" * 50
    del content
    assert _descriptors() == before


def _descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_a_message_has_no_more_of_the_disk_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(octets, "LARGE_OCTETS", 10)
    monkeypatch.setattr(octets, "MAX_STORED_OCTETS", 1000)
    kept = stored(b"a" * 900)

    with pytest.raises(TooMuch):
        stored(b"b" * 101)
    del kept
    assert len(stored(b"b" * 1000)) == 1000


def test_a_file_is_what_a_scanner_opens_by_its_path(window: int) -> None:
    content = stored(os.urandom(10_000))
    assert isinstance(content, Stored)
    inner = content.part(10, 9000)
    assert isinstance(inner, Stored)

    for each in (content, inner):
        with octets.file_of(each) as path:
            assert Path(path).read_bytes() == each[:]


@pytest.mark.parametrize("seek", [lambda file: file.seek(-10, io.SEEK_END), lambda file: file.seek(20)])
def test_it_is_read_as_a_file(window: int, seek: Callable[[io.BytesIO], int]) -> None:
    text = os.urandom(5000)
    mine, other = octets.opened(stored(text)), io.BytesIO(text)

    assert seek(mine) == seek(other)
    assert mine.read(5) == other.read(5)
    assert mine.read() == other.read()
    with pytest.raises(ValueError, match="before"):
        mine.seek(-1)
