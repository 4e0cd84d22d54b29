"""What acts of itself when it is opened is seen, what documents carry is looked into; ordinary files are quiet."""

from __future__ import annotations

import base64
import struct
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from egressguard.policy.site import Scan
from egressguard.policy.verdict import Verdict
from egressguard.scan.active import active_in, carried
from egressguard.scan.examine import examine
from egressguard.scan.kinds import media_type
from egressguard.scan.office import OLE, has_macro
from egressguard.scan.protocol import decode_report, encode_report
from tests.scan.samples import EICAR, PROGRAM, mail_with, zip_of

EVIL = zip_of(("run.exe", b"abc"))
SETTINGS = Scan(denied_names=("*.exe",))


def wide(name: str) -> bytes:
    return name.encode("utf-16-le")


def stream(dictionary: bytes, content: bytes) -> bytes:
    packed = zlib.compress(content)
    return b"<< /Length %d /Filter /FlateDecode %s >>\nstream\n%s\nendstream" % (len(packed), dictionary, packed)


def pdf(*objects: bytes) -> bytes:
    body = b"".join(b"%d 0 obj\n%s\nendobj\n" % (number, thing) for number, thing in enumerate(objects, 1))
    return b"%PDF-1.7\n" + body + b"trailer << /Root 1 0 R >>\n%%EOF\n"


def onenote(*files: bytes) -> bytes:
    mark = bytes.fromhex("e716e3bd65261145a4c48d4d0b7a9eac")
    stored = b"".join(mark + struct.pack("<QIQ", len(file), 0, 0) + file for file in files)
    return bytes.fromhex("e4525c7b8cd8a74daeb15378d02996d3") + bytes(100) + stored


def smuggling(content: bytes) -> bytes:
    text = base64.b64encode(content * 3)
    return b"<html><script>var b=new Blob([Uint8Array.from(atob('" + text + b"'))]);</script></html>"


def rels(kind: bytes, target: bytes) -> bytes:
    return (
        b'<Relationships><Relationship Id="r" Type="http://x/%s" Target="%s" TargetMode="External"/></Relationships>'
        % (
            kind,
            target,
        )
    )


SCRIPT = b"<< /S /JavaScript /JS (app.alert\\(1\\)) >>"


MAKES = "a script that makes a file"
CARRIES = "a file in its text"
RUNS = "a script that runs when it is opened"


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.html", smuggling(EVIL), {MAKES, CARRIES}),
        ("a.html", b"<html><a href='data:application/zip;base64," + base64.b64encode(EVIL) + b"'>", {CARRIES}),
        ("a.html", b"<p>" + smuggling(b"x"), {MAKES}),
        ("a.html", "<html><script>navigator.msSaveOrOpenBlob(atob(x))</script>".encode("utf-16"), {MAKES}),
        ("a.html", b"<html><script>alert(1)</script></html>", set()),
        ("a.html", b"<html><img src='data:image/png;base64," + base64.b64encode(b"\x89PNG" * 40) + b"'>", set()),
        ("a.svg", b"<svg xmlns='x'><script>alert(1)</script></svg>", {"a script in a picture"}),
        ("a.svg", b"<?xml version='1.0'?><svg onload='x()'/>", {"a script in a picture"}),
        ("a.svg", b"<svg xmlns='x'><path d='M0 0'/></svg>", set()),
        ("a.pdf", pdf(b"<< /OpenAction 2 0 R >>", SCRIPT), {RUNS}),
        ("a.pdf", pdf(b"<< /Open#41ction 2 0 R >>", SCRIPT.replace(b"/JS", b"/#4a#53")), {RUNS}),
        ("a.pdf", pdf(b"<< /OpenAction 2 0 R >>", stream(b"/Type /ObjStm /N 1 /First 4", SCRIPT)), {RUNS}),
        ("a.pdf", pdf(b"<< /OpenAction << /S /Launch /F (cmd.exe) >> >>"), {"an action that starts a program"}),
        ("a.pdf", pdf(b"<< /OpenAction [3 0 R /Fit] >>"), set()),
        ("form.pdf", pdf(b"<< /AA << /K 2 0 R >> >>", SCRIPT), set()),
        ("a.doc", OLE + wide("\1Ole10Native"), {"an embedded package"}),
        ("a.doc", OLE + b"\x13 DDEAUTO c:\\\\windows", {"a DDE field"}),
        ("a.xls", OLE + b"MZ" + bytes(76) + b"This program cannot be run in DOS mode", {"an embedded program"}),
        ("a.doc", OLE + wide("WordDocument") + b"\x13 HYPERLINK", set()),
        ("a.rtf", b"{\\rtf1{\\object\\objemb{\\*\\objdata 0105}}}", {"an embedded object"}),
        ("a.doc", b"{\\rt{\\*\\template https://x.example/a.dotm}}", {"a template from elsewhere"}),
        ("a.rtf", b"{\\rtf1 plain}", set()),
        (
            "word/_rels/settings.xml.rels",
            rels(b"attachedTemplate", b"https://x.example/a.dotm"),
            {"attachedTemplate from elsewhere"},
        ),
        ("word/_rels/settings.xml.rels", rels(b"attachedTemplate", b"file:///C:/Users/a/Normal.dotm"), set()),
        ("word/_rels/document.xml.rels", rels(b"hyperlink", b"https://x.example/"), set()),
        (
            "word/document.xml",
            b"<w:instrText>DD</w:instrText><w:t/><w:instrText>EAUTO c:</w:instrText>",
            {"a DDE field"},
        ),
        ("word/document.xml", b"<w:instrText> PAGE </w:instrText><w:t>DDE</w:t>", set()),
        ("word/activeX/activeX1.bin", OLE, {"an ActiveX control"}),
        ("a.lnk", b"L\0\0\0\1\x14\2\0" + bytes(60), {"a shortcut"}),
        ("a.desktop", b"[Desktop Entry]\nType=Application\nExec=sh -c x\n", {"a shortcut"}),
        ("a.url", b"[InternetShortcut]\r\nURL=file://x.example/a.exe\r\n", {"a shortcut to a file"}),
        ("a.url", b"[InternetShortcut]\r\nURL=https://www.example.org/\r\n", set()),
        ("a.one", onenote(b"@echo off\r\nstart x"), {"an embedded file"}),
        ("a.one", onenote(b"\x89PNG\r\n\x1a\n" + bytes(40)), set()),
        ("a.csv", b"a;b\n=cmd|' /C calc'!A0;1\n", {"a DDE cell"}),
        ("a.csv", b"a;=SUM(A1|B1);-1\n", set()),
        ("a.txt", b"", set()),
    ],
)
def test_what_acts_of_itself(name: str, content: bytes, words: set[str]) -> None:
    assert set(active_in(name, content, media_type(content))) == words


def test_the_fact_travels_to_the_relay_and_is_no_verdict() -> None:
    report = examine(mail_with("a.html", smuggling(b"x")), SETTINGS)

    assert report.attachments is not None and report.attachments[0].active
    assert report.verdict is Verdict.CLEAN
    assert report.findings == ("a script that makes a file: a.html",)
    assert decode_report(encode_report(report)) == report


def test_a_letter_of_html_with_a_script_that_makes_a_file_is_a_fact() -> None:
    content = b"Content-Type: text/html\r\n\r\n" + smuggling(b"x")

    report = examine(content, SETTINGS)

    assert report.attachments is not None and [a.active for a in report.attachments] == [True]


@pytest.mark.parametrize("inner", [EVIL, zip_of(("inner.zip", EVIL))], ids=["archive", "archive-in-archive"])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda file: b"<html><a href='data:application/zip;base64," + base64.b64encode(file) + b"'>",
        lambda file: b"<html><script>x = '" + base64.b64encode(file) + b"'</script>",
        lambda file: pdf(stream(b"/Type /EmbeddedFile", file)),
        lambda file: pdf(stream(b"/Type /Embedded#46ile", file)),
        lambda file: b"{\\rtf1{\\*\\objdata 01050000" + file.hex().encode() + b"}}",
        lambda file: onenote(b"\x89PNG", file),
    ],
    ids=["data-uri", "blob", "pdf", "pdf-escaped", "rtf", "onenote"],
)
def test_what_a_document_carries_is_looked_into(wrap, inner: bytes) -> None:  # type: ignore[no-untyped-def]
    for content in (wrap(inner), zip_of(("document", wrap(inner)))):
        report = examine(mail_with("a.dat", content), SETTINGS)

        assert report.verdict is Verdict.DENIED
        assert any("run.exe" in finding for finding in report.findings)


def test_a_virus_in_a_pdf_is_found() -> None:
    report = examine(mail_with("a.pdf", pdf(stream(b"/Type /EmbeddedFile", EICAR))), SETTINGS)

    assert report.verdict is Verdict.INFECTED


@pytest.mark.parametrize(
    ("name", "content", "macro"),
    [
        ("a.xls", OLE + wide("Workbook") + struct.pack("<HHIBB", 0x85, 14, 99, 0, 1) + b"\6\0Macro1", True),
        ("a.xls", OLE + wide("Workbook") + struct.pack("<HHIBB", 0x85, 14, 99, 0, 0) + b"\6\0Sheet1", False),
        ("xl/macrosheets/sheet1.xml", b"<xm:macrosheet/>", True),
        ("word/vbaProject.bin", OLE, True),
        ("xl/worksheets/sheet1.xml", b"<worksheet/>", False),
    ],
)
def test_macro_sheets_are_macros(name: str, content: bytes, macro: bool) -> None:
    assert has_macro(name, content) is macro


def test_a_pdf_that_inflates_to_very_much_is_bounded() -> None:
    bomb = pdf(*[stream(b"/Type /EmbeddedFile", bytes(20_000_000))] * 10)

    assert sum(len(octets) for _, octets in carried("a.pdf", bomb, "application/pdf")) <= 40 << 20


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(
        [smuggling(EVIL), pdf(stream(b"/Type /EmbeddedFile", EVIL)), onenote(PROGRAM), b"{\\rtf\\objdata 4d5a}"]
    ),
    st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=8),
    st.integers(0, 1000),
)
def test_no_document_raises(sample: bytes, changes: list[tuple[int, int]], cut: int) -> None:
    content = bytearray(sample)
    for position, value in changes:
        content[position % len(content)] = value

    report = examine(mail_with("a.html", bytes(content[: cut or None])), SETTINGS)

    assert report.verdict is not None
