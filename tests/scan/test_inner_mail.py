"""Mail in archives is read as mail: its parts count, its contradictions and its depth hold the message."""

from __future__ import annotations

import pytest

from egressguard.policy.site import Scan
from egressguard.policy.verdict import Verdict
from egressguard.scan.examine import examine
from egressguard.scan.inner_mail import MAX_LEVELS
from tests.scan.samples import EICAR, mail_with, zip_of
from tests.scan.tricks import File, multipart, tnef

SETTINGS = Scan(denied_names=("*.exe",))


def zipped(name: str, content: bytes) -> bytes:
    return mail_with("a.zip", zip_of((name, content)))


@pytest.mark.parametrize(
    ("name", "content", "paths"),
    [
        ("a.eml", mail_with("b.txt", b"text"), ("a.zip", "a.eml", "b.txt")),
        ("a", mail_with("b.txt", b"text"), ("a.zip", "a", "b.txt")),
        ("winmail.dat", tnef(File(b"b.txt", b"text")), ("a.zip", "winmail.dat", "b.txt")),
        ("a.eml", mail_with("b.zip", zip_of(("c.txt", b"text"))), ("a.zip", "a.eml", "b.zip", "c.txt")),
        ("a.eml", mail_with("w.dat", tnef(File(b"b.txt", b"text"))), ("a.zip", "a.eml", "b.txt")),
    ],
)
def test_a_harmless_file_in_it_is_clean_and_told(name: str, content: bytes, paths: tuple[str, ...]) -> None:
    report = examine(zipped(name, content), SETTINGS)

    assert report.verdict is Verdict.CLEAN, report.findings
    assert paths in {attachment.path for attachment in report.attachments or ()}


@pytest.mark.parametrize(
    ("inside", "verdict"),
    [
        (mail_with("b.exe", b"x"), Verdict.DENIED),
        (mail_with("b.com", EICAR), Verdict.INFECTED),
        (mail_with(None, EICAR), Verdict.INFECTED),
        (multipart(File(b"b.txt", b"x"), field=b"Content-Type: multipart/mixed; boundary=zz\r\n"), Verdict.DENIED),
    ],
    ids=["a denied name", "malware", "malware without a name", "a boundary that programs read differently"],
)
def test_what_is_in_it_decides(inside: bytes, verdict: Verdict) -> None:
    assert examine(zipped("a.eml", inside), SETTINGS).verdict is verdict


@pytest.mark.parametrize("content", [b"a: b\n\nContent-Type: text/plain\n", b"TODO: buy milk\n", b"Content-Type", b""])
def test_a_text_that_is_no_mail_is_left_alone(content: bytes) -> None:
    report = examine(zipped("notes", content), SETTINGS)

    assert [attachment.path for attachment in report.attachments or ()] == [("a.zip",), ("a.zip", "notes")]


def test_mail_in_archives_in_mail_without_end_is_held() -> None:
    content = mail_with("b.txt", b"text")
    for _ in range(MAX_LEVELS + 2):
        content = zipped("a.eml", content)

    report = examine(content, Scan(max_nesting=16))

    assert (report.verdict, report.findings) == (Verdict.DENIED, ("mail nested too deep: a.eml",))


def test_many_of_them_are_paid_from_one_budget() -> None:
    letters = [(f"{n}.eml", multipart(File(b"b.txt", b"x"), part=b"x" * 3000)) for n in range(20)]

    report = examine(mail_with("a.zip", zip_of(*letters)), Scan(max_unpacked_octets=20_000))

    assert report.verdict is Verdict.DENIED
    assert any("more than is allowed" in finding for finding in report.findings)
