from __future__ import annotations

import email
import email.policy
from html.parser import HTMLParser

import pytest

from egressguard.quarantine.digest_text import SHOWN, Item, digest_message, shown, subject_of
from egressguard.store.interface import NewMessage

HOSTILE = '<script>alert(1)</script><img src="http://evil.example/x">\r\nBcc: x@y.example\u202e"\'&'


def made(address: str = "anna@example.org", **changes: str) -> NewMessage:
    told = {"sender": "s@x.example", "subject": "hello", "why": "attachments, a.exe", "link": "", **changes}
    item = Item("0MWSXUK70000DWBB", 1000.0, size_octets=5, **told)
    return digest_message(
        address, [item], 3, hostname="gw.example.org", now=2000.0, digest_id="D1GEST", source_id="digest:1:x"
    )


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.links: list[str | None] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.links += [value for name, value in attrs if name in {"href", "src", "action", "background"}]


def test_a_digest_is_plain_text_and_html_that_say_the_same() -> None:
    message = email.message_from_bytes(
        made(link="https://m.example/release/t.t").content.whole(), policy=email.policy.SMTP
    )
    plain, html = (part.get_content() for part in message.iter_parts())
    assert message.get_content_type() == "multipart/alternative"
    assert not message.defects
    for text in (plain, html):
        assert all(
            words in text for words in ("hello", "s@x.example", "a.exe", "https://m.example/release/t.t", "2 more")
        )
    assert (message["Auto-Submitted"], message["To"], message["Message-ID"]) == (
        "auto-generated",
        "anna@example.org",
        "<D1GEST@gw.example.org>",
    )


def test_it_is_a_notice_that_nothing_answers_and_that_is_stored_once() -> None:
    message = made()
    assert (message.envelope.reverse_path, message.envelope.forward_paths) == ("", ("anna@example.org",))
    assert message.source_id == "digest:1:x"


@pytest.mark.parametrize("key", ["sender", "subject", "why"])
def test_strangers_words_act_on_nobody(key: str) -> None:
    told = shown(HOSTILE)
    octets = made(**{key: told}).content.whole()
    message = email.message_from_bytes(octets, policy=email.policy.SMTP)
    tags = Tags()
    tags.feed(list(message.iter_parts())[1].get_content())
    assert {"script", "img"}.isdisjoint(tags.seen)
    assert tags.links == []
    assert message["Bcc"] is None
    assert "\u202e" not in octets.decode()


@pytest.mark.parametrize("address", ["anna@example.org", "änne@example.org", '"a b"@example.org'])
def test_lines_end_with_crlf_and_are_short(address: str) -> None:
    octets = made(address, subject="ü" * 100, link="https://m.example/release/" + "t" * 900).content.whole()
    assert b"\n" not in octets.replace(b"\r\n", b"")
    assert max(len(line) for line in octets.split(b"\r\n")) <= 998
    assert address.encode() in octets


@pytest.mark.parametrize(
    ("field", "subject"),
    [
        (b"plain", "plain"),
        (b"=?utf-8?q?h=C3=A4?=", "h\u00e4"),
        (b"=?no-such?q?x?= y", "=?no-such?q?x?= y"),
        (b"\xff\xfe", "\ufffd\ufffd"),
        (b"a\r\n b", "a b"),
        (b"=?utf-8?q?a=0D=0AX:_y?=", "aX: y"),
        (b"x" * 5000, "x" * (SHOWN - 3) + "..."),
    ],
)
def test_subjects_are_decoded_as_far_as_they_can_be(field: bytes, subject: str) -> None:
    assert subject_of(field) == subject
