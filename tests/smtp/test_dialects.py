"""Hosts that speak dialects: what we say to each, what it makes of it, what its refusal becomes."""

from __future__ import annotations

import asyncio
import email
from typing import Any

import pytest

from egressguard.mail.envelope import RecipientOptions
from egressguard.mail.outcome import Result
from egressguard.smtp.client import Patience, Peer, Sent, Transaction, send
from egressguard.store.content import Content
from tests.smtp.dialects import DIALECTS, Dialect
from tests.smtp.fake_mx import FakeMx

B, C = "b@example.net", "c@example.net"
QUICK = Patience(connect_seconds=5, command_seconds=5, data_seconds=5, whole_seconds=10)
SMALL = b"Subject: x\r\n\r\n.hello\r\n..\r\nFrom here\r\n.\r\n \r\n"
MIME = b"MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"
TEXT = "Gr\u00fc\u00dfe\r\n".encode()
EIGHT_BIT = MIME + TEXT
D, P, T = Result.DELIVERED, Result.PERMANENT, Result.TRANSIENT

NAMES = tuple(DIALECTS)


def said_to(mx: FakeMx, content: bytes = SMALL, **more: Any) -> Sent:
    facts: dict[str, Any] = {"reverse_path": "a@example.org", "forward_paths": (B, C)}
    peer = {key: more.pop(key) for key in ("user", "password") if key in more}

    async def walk() -> Sent:
        async with mx.listening():
            at = Peer("mx.test", ("127.0.0.1",), mx.port, "none", **peer)
            return await send(Transaction(content=Content.of(content), **(facts | more)), at, "gw.example.org", QUICK)

    return asyncio.run(walk())


def results(sent: Sent) -> list[tuple[Result, str]]:
    return [(sent.outcomes[path].result, sent.outcomes[path].status) for path in sent.outcomes]


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("Exchange 2000", f" SIZE={len(SMALL)}"),
        ("Exchange 2016", f" SIZE={len(SMALL)}"),
        ("Domino", f" SIZE={len(SMALL)}"),
        ("Notes MTA", ""),
        ("GroupWise", f" SIZE={len(SMALL)}"),
        ("qmail", ""),
    ],
)
def test_a_plain_message_arrives_octet_for_octet(name: str, parameters: str) -> None:
    mx = DIALECTS[name].host()
    sent = said_to(mx)
    assert {outcome.result for outcome in sent.outcomes.values()} == {D}
    assert mx.messages == [(f"MAIL FROM:<a@example.org>{parameters}", [B, C], SMALL)]
    hello = ["EHLO gw.example.org", *(["HELO gw.example.org"] if name == "Notes MTA" else [])]
    recipients = [f"RCPT TO:<{path}>" for path in (B, C)]
    assert mx.commands == [*hello, mx.messages[0][0], *recipients, "DATA", "QUIT"]


@pytest.mark.parametrize("name", NAMES)
def test_eight_bits_where_they_are_taken_else_the_same_text_in_seven(name: str) -> None:
    mx = DIALECTS[name].host()
    said_to(mx, EIGHT_BIT, body_8bit=True)
    ((mail, _, content),) = mx.messages
    taken = name not in {"Domino", "Notes MTA"}
    assert ("BODY=8BITMIME" in mail) is taken
    assert (content == EIGHT_BIT) is taken and content.isascii() is not taken
    assert email.message_from_bytes(content).get_payload(decode=True) == TEXT


@pytest.mark.parametrize("name", NAMES)
def test_an_address_beyond_ascii_goes_where_it_is_understood(name: str) -> None:
    path = "gr\u00fc\u00dfe@example.net"
    mx = DIALECTS[name].host()
    sent = said_to(mx, forward_paths=(path,), smtputf8=True)
    if name == "Exchange 2016":
        assert results(sent) == [(D, "2.6.0")] and mx.messages[0][0].endswith(" SMTPUTF8")
    else:
        assert results(sent) == [(P, "5.6.7")] and mx.messages == []


@pytest.mark.parametrize("name", NAMES)
def test_wishes_for_notices_go_where_they_are_heard(name: str) -> None:
    mx = DIALECTS[name].host()
    options = {B: RecipientOptions(("SUCCESS", "FAILURE"), f"rfc822;{B}")}
    sent = said_to(mx, forward_paths=(B,), ret="HDRS", envid="QQ1", options=options)
    said = " ".join(mx.commands)
    heard = name in {"Exchange 2000", "Exchange 2016", "GroupWise"}
    assert ("RET=HDRS ENVID=QQ1" in said) is ("NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;b@" in said) is heard
    assert sent.tells_delivery is heard


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("Exchange 2000", "5.1.1"),
        ("Exchange 2016", "5.1.10"),
        ("Domino", "5.0.0"),
        ("Notes MTA", "5.0.0"),
        ("GroupWise", "5.0.0"),
        ("qmail", "5.7.1"),
    ],
)
def test_the_refused_recipient_fails_alone_in_the_hosts_own_words(name: str, status: str) -> None:
    dialect = DIALECTS[name]
    mx = dialect.host(**{f"RCPT TO:<{B}": dialect.refusal})
    sent = said_to(mx)
    assert (sent.outcomes[B].result, sent.outcomes[B].status) == (P, status)
    assert sent.outcomes[B].text in dialect.refusal
    assert sent.outcomes[C].result is D and mx.messages[0][1] == [C]


@pytest.mark.parametrize("name", NAMES)
def test_a_host_that_takes_one_recipient_at_a_time_gets_the_others_later(name: str) -> None:
    mx = DIALECTS[name].host(**{f"RCPT TO:<{C}": "452 4.5.3 too many recipients"})
    sent = said_to(mx)
    assert (sent.outcomes[B].result, sent.outcomes[C].result) == (D, T)
    assert mx.messages[0][1] == [B]


def test_no_password_goes_to_a_host_that_knows_no_way_we_know() -> None:
    """NTLM and GSSAPI alone: the administrator's to mend, so it waits."""
    mx = DIALECTS["Exchange 2016"].host()
    sent = said_to(mx, user="anna", password="secret")
    assert results(sent) == [(T, "4.7.0")] * 2
    assert not any(line.startswith(("AUTH", "MAIL")) for line in mx.commands)


@pytest.mark.parametrize(
    "content",
    [b"Subject: x\r\n\r\na\nb\r\n", b"Subject: x\r\n\r\na\rb\r\n", b"Subject: x\n\nbody\n"],
    ids=["lf", "cr", "unix"],
)
def test_qmail_is_never_given_cause_for_its_451_about_stray_newlines(content: bytes) -> None:
    mx = DIALECTS["qmail"].host()
    assert results(said_to(mx, content)) == [(P, "5.6.0")] * 2
    assert mx.messages == []


@pytest.mark.parametrize(
    "ehlo",
    [
        ("x",),
        ("x", "", "8BITMIME"),
        ("x", "size=1000000", "8BITMIME"),
        ("x", "SIZE 10 20", "8bitmime "),
        ("x", "\u00e9\u00e8", "8BITMIME"),
        ("x", "-8BITMIME", "250 8BITMIME", "8BITMIME"),
        ("x y z", *(f"X-{n}" for n in range(200)), "8BITMIME"),
    ],
    ids=lambda ehlo: repr(ehlo[:3]),
)
def test_odd_keywords_hide_no_others(ehlo: tuple[str, ...]) -> None:
    mx = Dialect("x", ehlo).host()
    said_to(mx, EIGHT_BIT, body_8bit=True)
    ((mail, _, _),) = mx.messages
    assert ("BODY=8BITMIME" in mail) is (len(ehlo) > 1)
