"""What is made to cost much is read within the seconds that the kernel gives a worker (tests.scan.limited)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from egressguard.policy.verdict import Verdict
from tests.scan.limited import place, scan
from tests.scan.more_tricks import lines
from tests.scan.samples import zip_of
from tests.scan.test_active import onenote
from tests.scan.tricks import TOP, File, multipart, tnef

__all__ = ["place"]
FILE = File(b"report.zip", zip_of(("a.txt", b"hello " * 100)))


def _letters_in_archives() -> bytes:
    letter = multipart(FILE)
    for _ in range(30):
        letter = multipart(FILE, part=File(b"a.zip", zip_of(("a.eml", letter))).part)
    return letter


BOMBS: dict[str, Callable[[], bytes]] = {
    "ten thousand levels": lambda: b"".join(
        b"Content-Type: multipart/mixed; boundary=%d\r\n\r\n--%d\r\n" % (n, n) for n in range(10_000)
    ),
    "ten thousand attached messages": lambda: b"Content-Type: message/rfc822\r\n\r\n" * 10_000,
    "thousands of letters in a ZIP": lambda: multipart(
        FILE, part=File(b"a.zip", zip_of(*((f"{n}.eml", multipart(FILE)) for n in range(3000)))).part
    ),
    "letters in archives in letters": _letters_in_archives,
    "lines of a calendar": lambda: (
        TOP + b"Content-Type: text/calendar\r\n\r\nBEGIN:VCALENDAR\r\n" + b"ATTACH;ENCODING=BASE64:AAAA\r\n" * 200_000
    ),
    "a million characters by number": lambda: TOP + b"Content-Type: text/html\r\n\r\n" + b"&#65;" * 1_000_000,
    "begins of another kind": lambda: TOP + b"\r\n" + b"begin  x\r\n!!!\r\n" * 100_000,
    "a million fields": lambda: b"X: y\r\n" * 1_000_000 + b"\r\nhello",
    "a million fields of MIME": lambda: b"Content-Type: text/plain; name=x\r\n" * 1_000_000 + b"\r\nhello",
    "fields in folds": lambda: b"Content-Type: text/plain\r\n " * 200_000 + b"\r\n\r\nx",
    "a million parts": lambda: multipart(FILE, preamble=b"--bb\r\n\r\nx\r\n" * 1_000_000),
    "named parts": lambda: multipart(
        FILE, preamble=b"".join(b"--bb\r\nContent-Type: a/b; name=x%d\r\n\r\n%d\r\n" % (n, n) for n in range(50_000))
    ),
    "a boundary of ten megabytes": lambda: multipart(
        FILE, field=b"Content-Type: multipart/mixed; boundary=" + b"b" * 10_000_000 + b"\r\n"
    ),
    "lines like delimiters": lambda: multipart(FILE, preamble=b"--bbx\r\n" * 500_000),
    "names": lambda: multipart(FILE, part=(b"Content-Type: a/b; " + b"name*1=x;" * 7000 + b"\r\n") * 60 + b"\r\n"),
    "begins": lambda: TOP + b"\r\n" + b"begin 644 x\r\n" * 300_000,
    "anchors": lambda: TOP + b"\r\n" + b"UEsDB\r\n!" * 500_000,
    "data": lambda: TOP + b"Content-Type: text/html\r\n\r\n" + b"data:a/b;base64,QUJD" * 300_000,
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_bounded_and_held(place: Path, name: str) -> None:
    report = scan(place, BOMBS[name]())

    assert report.verdict in (Verdict.DENIED, Verdict.AMBIGUOUS), report.findings


LONG = {
    "padding": b"=" * 3_000_000,
    "escapes": b"= " * 2_000_000,
    "blanks": b" " * 3_000_000 + b"x",
    "cr": b"\r" * 3_000_000,
    "lf": b"\n" * 3_000_000,
    "dashes": b"\n--x" * 1_000_000,
    "eight bits": b"\xd0\x9f" * 1_500_000,
    "a field without end": b"\ncontent-type" + b" " * 3_000_000,
    "fields without colons": (b"\ncontent-type" + b" " * 120) * 20_000,
    "TNEF in TNEF": None,
}


@pytest.mark.parametrize("name", LONG)
@pytest.mark.parametrize("encoding", [b"base64", b"quoted-printable", b"7bit"])
def test_no_body_takes_its_reader_more_than_it_is_given(place: Path, name: str, encoding: bytes) -> None:
    body = LONG[name] or lines(_tnef_in_tnef())

    scan(place, TOP + b"Content-Type: a/b; name=x\r\nContent-Transfer-Encoding: " + encoding + b"\r\n\r\n" + body)


FIELDS = {
    "brackets": b"X-File: " + b"name(" * 200_000,
    "brackets and blanks": b"Content-Type: a/b; name" + b" (" * 400_000,
    "brackets and blanks in many": (b"X: name" + b"(   " * 6 + b"\r\n") * 5000,
    "names": b"X-File: " + b"name=a.exf; " * 80_000,
    "names in many": (b"Content-Type: x/y\r\nX: " + b"name=a;" * 200 + b"\r\n\r\nhi\r\n") * 300,
    "names in no field": b"name=a.exf " * 80_000,
    "fields in folds": (b"Content-Type: a/b; " + b"\0 \\)\r\n Content-Type: a/b; <name=" * 110 + b"\r\n\r\nx\r\n")
    * 200,
    "pieces in folds": (b"@(\r\n (x)?=name*0*=\r\n Content-Name: " * 100 + b"\r\n\r\nx\r\n") * 200,
    "fields in a name": (b"Content-Disposition: a; = name=\\(,\0.exe\n?=\r" * 90 + b"\r\n\r\nx\r\n") * 200,
    "lines ended by LF CR": b"Content-Type: text/plain\n\r" * 5400,
    "half a name": (b"X: " + b"%41)(name" * 6000 + b"\r\nContent-Type: a/b\r\n\r\nx\r\n") * 100,
    "words in a name": (b'Content-Name: "a b"@(=?utf-8?Q?x,name*0*="%41?=\t' * 90 + b"\r\n\r\nx\r\n") * 200,
    "quotes": b"Content-Disposition: attachment; " + b'filename="' * 100_000,
    "comments": b"Content-Disposition: attachment; " + b"file(x)name=a.b;" * 60_000,
    "pieces": b"Content-Disposition: attachment; " + b"name**1*=x;" * 90_000,
    "folds": b"X-File: name=" + b"a\r\n " * 250_000,
    "lines that are no fields": b"Content-Type: a/b; name=a\r\n" + b"x y z\n" * 170_000,
    "bare CRs": b"Content-Type: a/b; name=a" + b"\rname=b" * 120_000,
    "fields that go on": b"Content-Type: a/b; name=a\rb\r\n" * 35_000,
    "words": b"X-File: " + b"name==?utf-8?Q?" * 70_000,
    "blanks": b"X-File: name" + b" " * 500_000 + b"=" + b" \t" * 250_000,
    "stars": b"X-File: name" + b"*" * 1_000_000,
    "tokens": b"X-File: name=" + b"a.b " * 250_000,
    "percents": b"Content-Type: a/b; name*=utf-8''" + b"%" * 1_000_000,
}


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("end", [b"\r\n", b"\n"])
def test_no_field_takes_its_reader_more_than_it_is_given(place: Path, name: str, end: bytes) -> None:
    part = FIELDS[name].replace(b"\r\n", end) + end + b"Content-Transfer-Encoding: base64" + end * 2 + FILE.base64

    scan(place, TOP + part)
    scan(place, multipart(FILE, part=part))


def _tnef_in_tnef() -> bytes:
    content = b"x" * 100_000
    for _ in range(300):
        content = tnef(File(b"a.dat", content))
    return content


HARD = {
    "blanks behind a blob": b"<html>'" + b"A" * 64 + b" " * 2_000_000,
    "quotes": b"<html>" + b"'" * 2_000_000,
    "data": b"<html>" + b"data:" * 400_000,
    "tabs": b"=\t" * 1_000_000,
    "streams": b"%PDF-" + b"/ObjStm stream\n" * 200_000,
    "hashes": b"%PDF-" + b"#41" * 700_000,
    "objects": b"{\\rtf" + b"\\objdata" * 250_000,
    "fields": b"<w:instrText" * 200_000,
    "relationships": b"<Relationship " * 150_000,
    "markers": onenote(*[b""] * 60_000),
}


@pytest.mark.parametrize("name", HARD)
def test_no_file_takes_its_reader_more_than_it_is_given(place: Path, name: str) -> None:
    files = zip_of(
        *((called, HARD[name]) for called in ("a.csv", "a.html", "word/_rels/document.xml.rels", "word/document.xml"))
    )

    scan(place, multipart(File(b"a.docx", files)))
