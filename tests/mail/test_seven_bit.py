"""Python's email package is the judge of what a reader would see."""

from __future__ import annotations

import base64
import email
import email.message
import email.policy
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egressguard.mail.seven_bit import MAX_DEPTH, MAX_PARTS, plan_seven_bit, render_edited

DATA = Path(os.environ.get("EGRESSGUARD_MAIL", Path(__file__).parent.parent / "data" / "mail"))


def converted(octets: bytes, front: bytes = b"") -> bytes | None:
    edits = plan_seven_bit(octets, front)
    return None if edits is None else b"".join(render_edited(octets, edits))


def parts(octets: bytes) -> Iterator[tuple[str, list[tuple[str, str]], bytes | None]]:
    """What a reader sees of each part: its type, its fields but for those that tell of the encoding, its octets."""
    for part in email.message_from_bytes(octets, policy=email.policy.compat32).walk():
        fields = [(name.lower(), str(value)) for name, value in part.items()]
        shown = [(n, v) for n, v in fields if n not in {"content-transfer-encoding", "mime-version"}]
        payload = None if part.is_multipart() else part.get_payload(decode=True)
        assert payload is None or isinstance(payload, bytes)
        yield part.get_content_type(), [(n, v) for n, v in shown if "unknown-8bit" not in v], payload


def assert_same_in_seven_bits(before: bytes, after: bytes) -> None:
    assert after.isascii()
    assert max(map(len, after.split(b"\r\n"))) <= 998
    assert not re.search(rb"\0|\r(?!\n)|(?<!\r)\n", after)
    assert list(parts(after)) == list(parts(before))


def lines(text: str) -> bytes:
    """Each "|" ends a line."""
    return f"{text}|".replace("|", "\r\n").encode("latin-1")


MIME = "MIME-Version: 1.0"
TEXT = "Content-Type: text/plain; charset=iso-8859-1"
MIXED = "Content-Type: multipart/mixed; boundary=bb"
MESSAGE = "Content-Type: message/rfc822"
EIGHT = "Content-Transfer-Encoding: 8bit"
HIGH = "gr\xfc\xdfe an alle, die dies hier lesen m\xf6gen, und an alle anderen auch"
OCTETS = "Content-Type: application/x-thing|Content-Transfer-Encoding: binary"
NESTED = 'Content-Type: multipart/alternative; boundary="c c"'
LIKE_QUOTED = 'Content-Type: multipart/mixed; boundary="a=3Db"'
SIGNED = "Content-Type: multipart/signed; boundary=s"

CONVERTIBLE = {
    "text": lines(f"{MIME}|{TEXT}|{EIGHT}||{HIGH}||.| |=41"),
    "text-without-a-label": lines(f"{MIME}|{TEXT}||{HIGH}"),
    "label-folded": lines(f"{MIME}|{TEXT}|content-transfer-encoding:| 8bit||{HIGH}"),
    "no-mime": lines(f"Subject: x||{HIGH}"),
    "no-fields-at-all": lines(f"|{HIGH}"),
    "type-without-mime": lines(f"{TEXT}||{HIGH}"),
    "no-last-line-end": lines(f"{MIME}|{TEXT}||{HIGH}")[:-2],
    "mostly-high": lines(f"{MIME}|{TEXT}||{9 * HIGH[2:4]}|{90 * HIGH[2:4]}"),
    "endless-line": lines(f"{MIME}|{TEXT}||{HIGH * 500}"),
    "no-text": lines(f"{MIME}|{OCTETS}||\0|\xff\n\r"),
    "multipart": lines(
        f"{MIME}|{MIXED}|{EIGHT}||for old readers|--bb|{TEXT}||{HIGH}|--bb||plain"
        f"|--bb|Content-Type: image/x|{EIGHT}||\xff\xfe|--bb--|epilogue"
    ),
    "part-without-fields": lines(f"{MIME}|{MIXED}||--bb||{HIGH}|--bb--"),
    "multipart-in-multipart": lines(
        f"{MIME}|{MIXED}||--bb|{NESTED}||--c c||{HIGH}|--c c--  |--bb|{TEXT}|{EIGHT}||all of it ASCII|--bb--"
    ),
    "attached-message": lines(f"{MIME}|{MIXED}||--bb|{MESSAGE}|{EIGHT}||Subject: y|{MIME}|{TEXT}||{HIGH}|--bb--"),
    "digest": lines(f"{MIME}|Content-Type: multipart/digest; boundary=bb||--bb||Subject: y|{TEXT}||{HIGH}|--bb--"),
    "boundary-in-the-text": lines(f"{MIME}|{MIXED}||--bb|{TEXT}||{HIGH} --bb|{'x' * 73}--bb--|--bb--"),
    "boundary-like-quoted": lines(f"{MIME}|{LIKE_QUOTED}||--a=3Db|{TEXT}||{HIGH}|--a=b|--a=3Db--"),
    "signed-part-in-ascii": lines(f"{MIME}|{MIXED}||--bb|{TEXT}||{HIGH}|--bb|{SIGNED}||--s||x|--s--|--bb--"),
    "mail-in-ascii-under-a-signature": lines(
        f"{MIME}|{MIXED}||--bb|{TEXT}||{HIGH}|--bb|{MESSAGE}||DKIM-Signature: x||x|--bb--"
    ),
    "signed-in-the-text": lines(f"{MIME}|{TEXT}||-----BEGIN PGP SIGNED MESSAGE-----|{HIGH}"),
}

UNFIT = {
    "dkim": lines(f"DKIM-Signature: v=1|{MIME}|{TEXT}||{HIGH}"),
    "dkim-in-other-letters": lines(f"{MIME}|{TEXT}|dkim-SIGNATURE: v=1||{HIGH}"),
    "arc": lines(f"ARC-Seal: i=1|{MIME}|{TEXT}||{HIGH}"),
    "domainkeys": lines(f"DomainKey-Signature: a=rsa|{MIME}|{TEXT}||{HIGH}"),
    "signed-attached-message": lines(f"{MIME}|{MIXED}||--bb|{MESSAGE}||DKIM-Signature: x||{HIGH}|--bb--"),
    "multipart-signed": lines(f"{MIME}|{SIGNED}||--s||{HIGH}|--s--"),
    "multipart-signed-with-comment": lines(f"{MIME}|Content-Type: multipart/signed (x); boundary=s||--s||{HIGH}|--s--"),
    "multipart-encrypted": lines(f"{MIME}|Content-Type: multipart/encrypted; boundary=s||--s||{HIGH}|--s--"),
    "field": lines(f"Subject: {HIGH}|{MIME}|{TEXT}||{HIGH}"),
    "field-of-a-part": lines(f"{MIME}|{MIXED}||--bb|X: {HIGH}||{HIGH}|--bb--"),
    "no-field": lines(f"Subject: x|no field||{HIGH}"),
    "long-field": lines(f"Subject: {'x' * 990}|{MIME}|{TEXT}||{HIGH}"),
    "preamble": lines(f"{MIME}|{MIXED}||{HIGH}|--bb||x|--bb--"),
    "epilogue": lines(f"{MIME}|{MIXED}||--bb||x|--bb--|{HIGH}"),
    "no-boundary": lines(f"{MIME}|Content-Type: multipart/mixed||--bb||{HIGH}|--bb--"),
    "two-boundaries": lines(f"{MIME}|{MIXED}; boundary=cc||--bb||{HIGH}|--bb--"),
    "never-ends": lines(f"{MIME}|{MIXED}||--bb||{HIGH}"),
    "boundary-and-more": lines(f"{MIME}|{MIXED}||--bb||{HIGH}|--bbb|--bb--"),
    "boundary-behind-a-bare-line-feed": lines(f"{MIME}|{MIXED}||--bb|{OCTETS}||\xff\n--bb|--bb--"),
    "boundary-behind-a-bare-return": lines(f"{MIME}|{MIXED}||--bb|{OCTETS}||\xff\r--bb|--bb--"),
    "two-types": lines(f"{MIME}|{TEXT}|{TEXT}||{HIGH}"),
    "two-encodings": lines(f"{MIME}|{EIGHT}|Content-Transfer-Encoding: 7bit||{HIGH}"),
    "high-base64": lines(f"{MIME}|{TEXT}|Content-Transfer-Encoding: base64||{HIGH}"),
    "high-quoted-printable": lines(f"{MIME}|{TEXT}|Content-Transfer-Encoding: quoted-printable||{HIGH}"),
    "unknown-encoding": lines(f"{MIME}|{TEXT}|Content-Transfer-Encoding: x-uuencode||{HIGH}"),
    "encoded-multipart": lines(f"{MIME}|{MIXED}|Content-Transfer-Encoding: base64||--bb||{HIGH}|--bb--"),
    "delivery-status": lines(f"{MIME}|Content-Type: message/delivery-status||{HIGH}"),
    "partial": lines(f"{MIME}|Content-Type: message/partial; id=x; number=1||{HIGH}"),
    "half-a-type": lines(f"{MIME}|Content-Type: multipart; boundary=bb||--bb||{HIGH}|--bb--"),
    "part-without-body": lines(f"{MIME}|{MIXED}||--bb|X: {HIGH}|--bb--"),
    "too-many-parts": lines(f"{MIME}|{MIXED}||{'--bb||x|' * MAX_PARTS}--bb||{HIGH}|--bb--"),
    "too-deep": lines(f"{MIME}|{f'{MESSAGE}||' * (MAX_DEPTH + 1)}{HIGH}"),
}


@pytest.mark.parametrize("name", CONVERTIBLE)
def test_a_reader_sees_the_same(name: str) -> None:
    before = CONVERTIBLE[name]
    after = converted(before)
    assert after is not None
    assert_same_in_seven_bits(before, after)


@pytest.mark.parametrize("name", UNFIT)
def test_what_would_break_or_is_not_understood_stays_as_it_is(name: str) -> None:
    assert converted(UNFIT[name]) is None


def test_only_what_needs_it_is_encoded() -> None:
    after = converted(CONVERTIBLE["multipart"])
    assert after is not None
    fields = re.findall(rb"Content-Transfer-Encoding: (\S+)", after)
    assert fields == [b"7bit", b"quoted-printable", b"base64"]
    assert b"for old readers\r\n--bb\r\n" in after
    assert b"--bb\r\n\r\nplain\r\n--bb\r\n" in after


def test_what_names_no_mime_is_told_to_be_of_an_unknown_charset() -> None:
    after = converted(CONVERTIBLE["no-mime"])
    assert after is not None
    assert after.startswith(
        b"Subject: x\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=unknown-8bit\r\n"
        b"Content-Transfer-Encoding: quoted-printable\r\n\r\n"
    )


def test_a_message_in_utf8_is_encoded_as_a_whole() -> None:
    inner = "Subject: \xe4||\xf6 \xfc"
    before = lines(f"{MIME}|{MIXED}||--bb|Content-Type: message/global|{EIGHT}||{inner}|--bb--")
    after = converted(before)
    assert after is not None
    assert b"Content-Type: message/global\r\nContent-Transfer-Encoding: base64\r\n\r\n" in after
    assert base64.b64decode(after.split(b"\r\n\r\n")[2].partition(b"\r\n--bb")[0]) == lines(inner)[:-2]


@pytest.mark.parametrize(
    ("front", "fits"),
    [
        (b"Received: x\r\n", True),
        (b"MIME-Version: 1.0\r\n", True),
        (b"DKIM-Signature: x\r\n", False),
        (b"Content-Type: text/html\r\n", False),
        (b"X: \xff\r\n", False),
    ],
)
def test_what_stands_before_the_message_counts(front: bytes, fits: bool) -> None:
    before = CONVERTIBLE["text"]
    after = converted(before, front)
    assert (after is not None) == fits
    if after is not None:
        assert_same_in_seven_bits(front + before, front + after)


def messages() -> dict[str, bytes]:
    """The data's messages with CRLF, and each once more with some letters beyond ASCII in its body."""
    found = {}
    for path in sorted(path for path in DATA.rglob("*") if path.is_file()):
        octets = re.sub(rb"\AFrom .*\n", b"", path.read_bytes())
        octets = re.sub(rb"\r\n|\r|\n", b"\r\n", octets)
        section, empty, body = octets.partition(b"\r\n\r\n")
        found[str(path)] = octets
        found[f"{path} with accents"] = section + empty + re.sub(rb"(?<=[a-z])e (?=[a-z])", b"\xe9 ", body)
    return {name: octets for name, octets in found.items() if not octets.isascii()}


@pytest.mark.parametrize("name", messages())
def test_mail_that_people_sent_reads_the_same(name: str) -> None:
    before = messages()[name]
    after = converted(before)
    if after is not None:
        assert_same_in_seven_bits(before, after)


def test_what_people_sent_is_not_all_refused() -> None:
    assert len([name for name, octets in messages().items() if converted(octets) is not None]) >= 3


LINE = st.sampled_from(
    [
        *(
            "",
            "--bb",
            "--bb--",
            "--cc",
            "--cc--",
            "--bbb",
            " x",
            "\xe4",
            "\0",
            "x" * 999,
            "a" * 74 + "--bb",
            "Subject: x",
        ),
        *(MIME, TEXT, MIXED, HIGH, MESSAGE, EIGHT, OCTETS, "DKIM-Signature: x", "Content-Transfer-Encoding: base64"),
        "Content-Type: multipart/signed; boundary=cc",
        "Content-Type: multipart/digest; boundary=cc",
        "Content-Type: multipart/x; boundary*=us-ascii''bb",
    ]
)


@given(st.lists(LINE | st.text(st.characters(max_codepoint=255), max_size=30), max_size=25))
def test_whatever_comes_is_refused_or_reads_the_same(text: list[str]) -> None:
    before = lines("|".join((MIME, *text)))
    after = converted(before)
    if after is not None:
        assert_same_in_seven_bits(before, after)
