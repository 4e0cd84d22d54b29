"""Reading a message in every way: bounded whatever comes, and harmless deviations are no reason to hold."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from egressguard.policy.site import Scan
from egressguard.policy.verdict import Verdict
from egressguard.scan import heading
from egressguard.scan.archive import Member
from egressguard.scan.examine import examine
from egressguard.scan.heading import Describer
from egressguard.scan.merged import NOBODY_ASKED, Merged
from egressguard.scan.walk import walk
from tests.scan.more_tricks import tricks
from tests.scan.samples import EICAR, zip_of
from tests.scan.tricks import TOP, File, multipart

DATA = Path(__file__).parent.parent / "data" / "mail"
SHARED = Path(__file__).parents[3] / "shared" / "data" / "mail"
FILE = File(b"report.zip", zip_of(("a.txt", b"hello " * 100)))
SETTINGS = Scan(denied_names=("*.exe",))


@pytest.mark.parametrize(
    "content",
    [
        multipart(FILE),
        multipart(FILE, last=b""),
        multipart(FILE).replace(b"\r\n", b"\n"),
        multipart(FILE, preamble=b"This is a multi-part message in MIME format.\r\n"),
        multipart(FILE, epilogue=b"-- \r\na list's footer\r\n"),
        multipart(FILE, delimiter=b"\r\n--bb  \r\n"),
        multipart(FILE, part=FILE.part.replace(b"base64", b"BASE64 ")),
        multipart(FILE, part=FILE.part + b"\r\n"),
        multipart(FILE, part=TOP + b"\r\nnothing"),
        TOP + b"Content-Type: message/rfc822\r\n\r\n" + multipart(FILE),
        b"From a@example.com Thu Jan  1 00:00:00 1970\r\n" + multipart(FILE),
    ],
    ids=[
        "none",
        "no-last-delimiter",
        "lf",
        "preamble",
        "epilogue",
        "padded-delimiter",
        "encoding-in-upper-case",
        "empty-line-at-the-end",
        "a-part-with-a-header-of-its-own",
        "attached",
        "mbox",
    ],
)
def test_a_harmless_deviation_is_clean(content: bytes) -> None:
    report = examine(content, SETTINGS)

    assert report.verdict is Verdict.CLEAN, report.findings


@pytest.mark.parametrize(
    "content",
    [
        multipart(FILE, epilogue=b"--bb\r\n" + FILE.part, part=b"Content-Type: text/plain\r\n\r\nx"),
        multipart(FILE, field=b"Content-Type: text/plain\r\nContent-Type: multipart/mixed; boundary=bb\r\n"),
        TOP + b"Content-Type: message/partial; id=x; number=1; total=2\r\n\r\nx",
        TOP + b"\r\n" + FILE.uuencoded,
    ],
    ids=["behind-the-end", "two-types", "partial", "uuencode"],
)
def test_what_some_programs_show_and_some_do_not_is_ambiguous(content: bytes) -> None:
    report = examine(content, SETTINGS)

    assert report.verdict is Verdict.AMBIGUOUS
    assert report.findings


def ham() -> list[Path]:
    shared = sorted((SHARED / "nice").iterdir()) if SHARED.exists() else []
    return [*sorted(DATA.glob("nice-*")), *(path for path in shared if path.is_file())]


@pytest.mark.parametrize("path", ham(), ids=lambda path: path.name)
def test_no_ham_is_held(path: Path) -> None:
    report = examine(path.read_bytes(), SETTINGS)

    assert report.verdict is Verdict.CLEAN, report.findings


SEEDS = [trick(File(b"e.zip", zip_of(("e.com", EICAR)))) for _, trick in list(tricks())[::10]]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(SEEDS), st.data())
def test_a_mutated_message_never_raises_and_keeps_its_octets(seed: bytes, data: st.DataObject) -> None:
    content = bytearray(seed[:4000])
    for _ in range(data.draw(st.integers(0, 6))):
        place = data.draw(st.integers(0, len(content) - 1))
        piece = data.draw(
            st.sampled_from([b"", b"\r", b"\n", b"\0", b"=", b'"', b"--bb", b"\r\n\r\n", b"\xff", b"(", b";"])
        )
        content[place : place + data.draw(st.integers(0, 20))] = piece
        if not content:
            break
    before = bytes(content)

    walk(before, Describer())

    assert before == bytes(content)


def test_the_scanner_gets_what_only_some_programs_see() -> None:
    asked: list[bytes] = []

    class Asked:
        def see(self, member: Member) -> None: ...

        def said(self, content: bytes, hidden: Sequence[bytes] = ()) -> Merged:
            asked.extend([content, *hidden])
            return NOBODY_ASKED

    content = multipart(FILE, epilogue=b"--bb\r\n" + FILE.part, part=b"Content-Type: text/plain\r\n\r\nx")

    examine(content, SETTINGS, Asked())

    assert asked == [content, FILE.content]


@pytest.mark.parametrize("line_end", [b"\n", b"\r", b"\r\n"])
@pytest.mark.parametrize("before", [b"see below", b"see below\r\n"])
def test_a_program_in_base64_is_found_after_any_line_end(before: bytes, line_end: bytes) -> None:
    program = b64encode(b"MZ\x90\0\x03" + bytes(range(256)))
    message = TOP + b"\r\n" + before + line_end + program + line_end

    assert "a file in the midst of text: application/x-dosexec" in walk(message, Describer()).differences


def test_what_is_kept_of_a_heading_is_no_other_block_s() -> None:
    """Blocks that differ in one thing that counts, described twice."""
    blocks = [
        (b"Content-Type: text/plain; name=a.txt\r\n", "text/plain"),
        (b"Content-Type : text/plain; name=a.txt\r\n", "text/plain"),
        (b"X\r\n Content-Type: text/plain; name=a.txt\r\n", "text/plain"),
        (b"Content-Description: a.txt\r\n", "text/plain"),
        (b"Content-Description: a.txt\r\n", "message/rfc822"),
        (b"Content-Type: " + b"x" * 70_000, "text/plain"),
    ]

    fresh = []
    for block in blocks:
        heading._kept_heading.cache_clear()
        fresh.append(heading.Describer()(*block))

    assert [heading.Describer()(*block) for block in blocks * 2] == fresh * 2
