"""What is sent to a host that takes seven bits only, and what is kept."""

from __future__ import annotations

import asyncio
import base64
import email
from pathlib import Path

import pytest

from egressguard.mail.outcome import Result
from egressguard.smtp.downgrade import in_seven_bits
from egressguard.store.content import Content
from tests.smtp.fake_mx import FakeMx
from tests.smtp.test_client import B, letter, sent_to

EIGHT_BIT = "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\r\ngrün ist die Hoffnung\r\n".encode()
BINARY = b"MIME-Version: 1.0\r\nContent-Type: application/x\r\nContent-Transfer-Encoding: binary\r\n\r\na\0\r\xff\n\n"
FRONT = b"Received: from there\r\n"


@pytest.mark.parametrize("extensions", [(), ("SMTPUTF8", "SIZE 1000000")])
def test_eight_bits_go_as_seven_to_a_host_that_has_only_those(extensions: tuple[str, ...]) -> None:
    mx = FakeMx(extensions=extensions)
    sent = sent_to(mx, letter(content=EIGHT_BIT, body_8bit=True))
    assert sent.outcomes[B].result is Result.DELIVERED
    mail, _, content = mx.messages[0]
    assert content.isascii()
    assert "BODY=" not in mail
    assert ("SIZE" in mail) == bool(extensions)
    assert not extensions or mail.endswith(f" SIZE={len(content)}")
    assert email.message_from_bytes(content).get_payload(decode=True) == EIGHT_BIT.partition(b"\r\n\r\n")[2]


def test_a_host_that_takes_eight_bits_gets_them() -> None:
    mx = FakeMx(extensions=("8BITMIME",))
    sent_to(mx, letter(content=EIGHT_BIT, body_8bit=True))
    assert mx.messages[0][2] == EIGHT_BIT


def test_binary_content_goes_encoded_to_a_host_without_binarymime() -> None:
    mx = FakeMx(extensions=("8BITMIME",))
    assert sent_to(mx, letter(content=BINARY, body_8bit=True, binary=True)).outcomes[B].result is Result.DELIVERED
    mail, _, content = mx.messages[0]
    assert "BODY" not in mail
    assert base64.b64decode(content.partition(b"\r\n\r\n")[2]) == BINARY.partition(b"\r\n\r\n")[2]


def in_file(path: Path, octets: bytes) -> Content:
    path.write_bytes(octets)
    return Content(FRONT, b"", path, len(octets), is_ascii=False)


def test_content_in_a_file_is_converted_as_content_in_memory_and_stays_as_it_was(tmp_path: Path) -> None:
    octets = EIGHT_BIT + "grüße\r\n".encode() * 100_000
    stored = in_file(tmp_path / "body", octets)
    there = asyncio.run(in_seven_bits(stored))
    here = asyncio.run(in_seven_bits(Content.of(FRONT + octets)))
    assert there is not None
    assert here is not None
    assert there.whole() == here.whole()
    assert there.size_octets == len(there.whole()) == here.size_octets
    assert there.is_ascii
    assert there.header_section().startswith(FRONT + b"MIME-Version")
    assert (tmp_path / "body").read_bytes() == octets


def test_content_in_a_file_that_must_not_be_changed(tmp_path: Path) -> None:
    signed = in_file(tmp_path / "body", b"DKIM-Signature: x\r\n" + EIGHT_BIT)
    assert asyncio.run(in_seven_bits(signed)) is None
    broken = in_file(
        tmp_path / "other", b"MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\xff"
    )
    assert asyncio.run(in_seven_bits(broken)) is None


def test_content_in_a_file_that_is_gone_or_cut_is_trouble_of_our_own(tmp_path: Path) -> None:
    stored = in_file(tmp_path / "body", EIGHT_BIT)
    (tmp_path / "body").write_bytes(EIGHT_BIT[:-1])
    with pytest.raises(OSError, match="shorter"):
        asyncio.run(in_seven_bits(stored))
    (tmp_path / "body").unlink()
    with pytest.raises(FileNotFoundError):
        asyncio.run(in_seven_bits(stored))


OURS = b"DKIM-Signature: v=1;\r\n\tb=x\r\nARC-Seal: i=1\r\n"


@pytest.mark.parametrize(
    ("front", "body", "kept"),
    [
        (OURS + FRONT, EIGHT_BIT, FRONT),
        (OURS + FRONT, b"DKIM-Signature: theirs\r\n" + EIGHT_BIT, None),
        (FRONT + OURS, EIGHT_BIT, None),
        (OURS + FRONT, b"X: y\r\n\r\n" + b"a" * 20 + b"\r\n", OURS + FRONT),
    ],
)
@pytest.mark.parametrize("lies_in_file", [True, False])
def test_signatures_of_our_own_do_not_make_mail_bounce(
    tmp_path: Path, front: bytes, body: bytes, kept: bytes | None, lies_in_file: bool
) -> None:
    """What stands above our Received is ours; what came along stands below it."""
    (tmp_path / "body").write_bytes(body)
    stored = Content(front, b"", tmp_path / "body", len(body)) if lies_in_file else Content.of(front + body)
    found = asyncio.run(in_seven_bits(stored))
    assert (None if found is None else found.whole().partition(body[:4])[0]) == kept
