"""No trick hides a file: each is infected, denied or ambiguous, whichever mail program it was made for."""

from __future__ import annotations

import base64

import pytest

from egressguard.policy.site import Scan
from egressguard.policy.verdict import Verdict
from egressguard.scan.examine import examine
from tests.scan.more_tricks import tricks
from tests.scan.samples import EICAR_ZIP, INVOICE
from tests.scan.tricks import TOP, File, Trick, multipart

SETTINGS = Scan(denied_names=("*.exe",))


TINY = File(b"invoice.exe", b"hi")


def passed(file: File) -> list[str]:
    return [name for name, trick in tricks() if verdict(trick, file) is Verdict.CLEAN]


def verdict(trick: Trick, file: File) -> Verdict | None:
    return examine(trick(file), SETTINGS).verdict


def test_there_are_enough_of_them() -> None:
    made = {trick(EICAR_ZIP) for _, trick in tricks()}

    assert len(made) >= 300
    assert len({name for name, _ in tricks()}) == len(list(tricks()))


def test_no_trick_hides_malware() -> None:
    assert passed(EICAR_ZIP) == []


def test_no_trick_hides_a_denied_name() -> None:
    assert passed(INVOICE) == []
    assert passed(TINY) == []


def test_without_a_trick_a_harmless_file_is_clean() -> None:
    assert examine(multipart(File(b"a.txt", b"hello " * 50)), SETTINGS).verdict is Verdict.CLEAN


@pytest.mark.parametrize(
    "text",
    [
        b"begin  reading at page three\r\nand go on",
        b"Begin 7 days of rest\r\n\r\nThen work.",
        b"begin again\r\nTHIS TIME IN CAPITALS, PLEASE, AND MIND THE LETTERS",
        b"Content-type of the file\r\nContent-disposition is what it is\r\n\r\nregards",
        b"BEGIN:VCALENDAR\r\nBEGIN:VEVENT\r\nSUMMARY:lunch\r\nEND:VEVENT\r\nEND:VCALENDAR",
        b"a & b &#8211; c &colon; d",
    ],
)
@pytest.mark.parametrize("kind", [b"text/plain", b"text/html", b"text/calendar"])
def test_words_that_only_look_like_a_trick_are_clean(text: bytes, kind: bytes) -> None:
    message = TOP + b"Content-Type: " + kind + b"\r\n\r\n" + text + b"\r\n"

    assert examine(message, SETTINGS).verdict is Verdict.CLEAN


def test_a_name_in_any_other_field_is_none_unless_it_looks_like_one() -> None:
    report = examine(TOP + b"X-Note: name=value\r\n\r\nhello, my filename=x is no field\r\n", SETTINGS)

    assert (report.verdict, report.attachments) == (Verdict.CLEAN, ())


def test_decoys_do_not_hide_a_name_in_another_field() -> None:
    decoys = b"Content-Type: x/y" + b"; name=a" * 100 + b"\r\n"
    part = decoys + b"X-File: filename=invoice.exe\r\nContent-Transfer-Encoding: base64\r\n\r\n" + INVOICE.base64

    assert examine(multipart(INVOICE, part=part), SETTINGS).verdict is Verdict.DENIED


def test_the_end_of_an_archive_is_no_junk_behind_a_file() -> None:
    """Who ends at the padding has a broken archive, who skips it the whole one; a text in front hides its kind."""
    letters = base64.b64encode(b"hello\r\n" + EICAR_ZIP.content)
    cut = letters.index(b"UEsFBg") + len("UEs")
    part = EICAR_ZIP.fields + b"\r\n" + letters[:cut] + b"==" + letters[cut:] + b"\r\n"

    assert examine(multipart(EICAR_ZIP, part=part), SETTINGS).verdict is not Verdict.CLEAN
