"""What is found in a message, wherever it hides; and that no message makes the examiner raise."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from egressguard.policy.site import Scan
from egressguard.policy.verdict import Verdict
from egressguard.scan.archive import Member
from egressguard.scan.examine import examine
from egressguard.scan.merged import Merged
from tests.scan.samples import EICAR, PROGRAM, mail_with, text_mail, zip_of

DATA = Path(__file__).parent.parent / "data" / "mail"
SETTINGS = Scan(denied_names=("*.exe", "*.js"), denied_types=("application/x-dosexec",))


@pytest.mark.parametrize(
    ("content", "verdict"),
    [
        (mail_with("notes.txt", b"hello"), Verdict.CLEAN),
        (mail_with("photos.zip", zip_of(("a.txt", b"a"), ("b/c.txt", b"c"))), Verdict.CLEAN),
        (mail_with("e.com", EICAR), Verdict.INFECTED),
        (mail_with("e.com", EICAR + b"\r\n"), Verdict.INFECTED),
        (mail_with(None, EICAR), Verdict.INFECTED),
        (mail_with("e.zip", zip_of(("e.com", EICAR))), Verdict.INFECTED),
        (mail_with("photo.jpg", zip_of(("in.zip", zip_of(("e.com", EICAR))))), Verdict.INFECTED),
        (text_mail(EICAR), Verdict.INFECTED),
        (mail_with("setup.exe", b"anything"), Verdict.DENIED),
        (mail_with("SETUP.EXE", b"anything"), Verdict.DENIED),
        (mail_with("setup.exe. ", b"anything"), Verdict.DENIED),
        (mail_with("photo.jpg", PROGRAM), Verdict.DENIED),
        (mail_with("a.zip", zip_of(("photo.jpg", PROGRAM))), Verdict.DENIED),
        (mail_with("a.zip", zip_of(("folder\\run.js", b"alert(1)"))), Verdict.DENIED),
        (text_mail(b"begin 644 run.exe\r\n#0V%T\r\n`\r\nend"), Verdict.DENIED),
    ],
    ids=[
        "clean",
        "clean-zip",
        "eicar",
        "eicar-padded",
        "eicar-unnamed",
        "eicar-zip",
        "eicar-zip-in-zip-named-jpg",
        "eicar-in-text",
        "name",
        "name-upper-case",
        "name-with-dot-and-blank",
        "type-by-content",
        "type-in-zip",
        "name-in-zip",
        "uuencode",
    ],
)
def test_verdict(content: bytes, verdict: Verdict) -> None:
    assert examine(content, SETTINGS).verdict is verdict


def test_a_name_that_only_one_parameter_gives_is_seen() -> None:
    content = mail_with("harmless.txt", b"x").replace(
        b"Content-Type: application/octet-stream", b'Content-Type: application/octet-stream; name="run.exe"'
    )

    report = examine(content, SETTINGS)

    assert report.verdict is Verdict.DENIED
    assert report.attachments is not None
    assert {a.name for a in report.attachments} == {"harmless.txt", "run.exe"}


def test_encoded_names_are_read() -> None:
    for value in (b"=?utf-8?B?" + base64.b64encode(b"run.exe") + b"?=", b'"=?utf-8?Q?run=2Eexe?="'):
        content = b"Content-Type: application/x; name=" + value + b"\r\n\r\nx\r\n"

        assert examine(content, SETTINGS).verdict is Verdict.DENIED, value
    split = b"Content-Disposition: attachment; filename*0=run; filename*1=.exe\r\nContent-Type: a/b\r\n\r\nx\r\n"

    assert examine(split, SETTINGS).verdict is Verdict.DENIED


def test_an_attached_message_is_looked_into() -> None:
    inner = mail_with("setup.exe", b"x")
    outer = b"Content-Type: message/rfc822\r\n\r\n" + inner

    assert examine(outer, SETTINGS).verdict is Verdict.DENIED


def nested(levels: int, content: bytes) -> bytes:
    for _ in range(levels):
        content = zip_of(("x.zip", content))
    return content


def test_what_cannot_be_looked_into_is_held_for_a_person() -> None:
    deep = examine(mail_with("a.zip", nested(9, zip_of(("a.txt", b"x")))), SETTINGS)
    broken = examine(mail_with("a.zip", zip_of(("a.txt", b"x" * 1000))[:60]), SETTINGS)

    assert deep.verdict is Verdict.DENIED and any("too deep" in f for f in deep.findings)
    assert broken.verdict is Verdict.DENIED and any("broken" in f for f in broken.findings)


def test_an_encrypted_archive_is_held() -> None:
    archive = bytearray(zip_of(("a.txt", b"x")))
    archive[6] |= 1  # the general purpose flag, here and in the central directory
    central = archive.find(b"PK\x01\x02")
    archive[central + 8] |= 1

    report = examine(mail_with("a.zip", bytes(archive)), SETTINGS)

    assert report.verdict is Verdict.DENIED
    assert "encrypted: a.txt" in report.findings


def test_a_bomb_is_bounded_in_time_and_held() -> None:
    small = Scan(max_unpacked_octets=10_000_000)
    bomb = zip_of(*[(f"{n}.txt", b"\0" * 9_000_000) for n in range(20)])

    report = examine(mail_with("a.zip", bomb), small)

    assert report.verdict is Verdict.DENIED
    assert any("unpacks to more" in f for f in report.findings)


def test_ten_thousand_nested_parts_are_held_not_a_crash() -> None:
    content = b"".join(b'Content-Type: multipart/mixed; boundary="%d"\r\n\r\n--%d\r\n' % (n, n) for n in range(10_000))

    assert examine(content, SETTINGS).verdict is Verdict.DENIED


@dataclass
class Engines:
    """Scanners that say one thing of everything."""

    merged: Merged
    members: list[tuple[str, ...]] = field(default_factory=list)

    def see(self, member: Member) -> None:
        self.members.append(member.path)

    def said(self, content: bytes, hidden: object = ()) -> Merged:
        return self.merged


def test_a_scanner_that_is_down_is_unknown_but_what_we_found_stays() -> None:
    down = Engines(Merged(notes=("clamd: refused",), verdict_is_known=False, score=None))

    assert examine(mail_with("a.txt", b"x"), SETTINGS, down).verdict is None
    assert examine(mail_with("a.exe", b"x"), SETTINGS, down).verdict is None
    report = examine(mail_with("a.com", EICAR), SETTINGS, down)
    assert (report.verdict, report.score) == (Verdict.INFECTED, None)
    assert "clamd: refused" in report.findings


@pytest.mark.parametrize(
    ("said", "verdict", "findings"),
    [
        (Merged(infected=("clamd: Worm",)), Verdict.INFECTED, ("clamd: Worm",)),
        (Merged(infected=("clamd: Worm",), verdict_is_known=False), Verdict.INFECTED, ("clamd: Worm",)),
        (Merged(denied=("clamd: too large",)), Verdict.DENIED, ("clamd: too large",)),
        (Merged(notes=("rspamd: score 3.0",), score=3.0), Verdict.CLEAN, ("rspamd: score 3.0",)),
    ],
)
def test_what_engines_say_is_part_of_the_report(said: Merged, verdict: Verdict, findings: tuple[str, ...]) -> None:
    report = examine(mail_with("a.txt", b"x"), SETTINGS, Engines(said))

    assert (report.verdict, report.findings, report.score) == (verdict, findings, said.score)


def test_engines_are_given_the_files_that_were_found() -> None:
    engines = Engines(Merged())
    examine(mail_with("a.zip", zip_of(("b.txt", b"x"))), SETTINGS, engines)

    assert engines.members == [("a.zip",), ("a.zip", "b.txt")]


@pytest.mark.parametrize("path", sorted(DATA.iterdir()), ids=lambda path: path.name)
def test_real_mail_is_examined_and_ham_is_clean(path: Path) -> None:
    report = examine(path.read_bytes(), SETTINGS)

    if path.name.startswith("nice-"):
        assert report.verdict is Verdict.CLEAN, report.findings


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=2000))
def test_any_octets_give_a_report(content: bytes) -> None:
    assert examine(content, SETTINGS).verdict is not None


WHOLE = mail_with("a.zip", zip_of(("a.txt", b"hello"), ("b.txt", b"world")))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(0, 255)), max_size=8), st.integers(0, len(WHOLE)))
def test_a_mutated_message_gives_a_report(changes: list[tuple[int, int]], cut: int) -> None:
    content = bytearray(WHOLE)
    for position, value in changes:
        content[position] = value

    assert examine(bytes(content[:cut]), SETTINGS).verdict is not None
