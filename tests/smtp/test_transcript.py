"""What a transaction's transcript keeps, and what never stands in one."""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path
from typing import Any

import pytest

from egressguard.mail.outcome import Result
from egressguard.smtp.client import Peer, Sent, SmtpClient
from egressguard.smtp.transcript import SAID, SHOWN_RECIPIENTS, Dialogue, Transcript, lines_of
from egressguard.store.journal import FIELD_CHARACTERS
from tests.smtp.fake_mx import CUT, FakeMx, make_certificate
from tests.smtp.test_client import QUICK, letter, peer_of, sent_to

PASSWORD = "s3cret & so on"
SECRETS = (
    PASSWORD,
    base64.b64encode(PASSWORD.encode()).decode(),
    base64.b64encode(f"\0anna\0{PASSWORD}".encode()).decode(),
)


def lines(sent: Sent, which: int = -1) -> list[str]:
    """Without their times."""
    return [line.partition(" ")[2] for line in lines_of(sent.dialogues[which].told(0.0, 0.0)["said"])]


def test_all_that_is_said_stands_there_in_order_and_content_as_a_number() -> None:
    mx = FakeMx({"RCPT TO:<c@": "550 5.1.1 nobody\r\n"[:-2]})
    sent = sent_to(mx)
    said = lines(sent)
    assert said[0].startswith("* dialling 127.0.0.1 port ")
    assert said[1:] == [
        "< 220 mx.test ESMTP",
        "> EHLO gw.example.org",
        "< 250-mx.test",
        "< 250-8BITMIME",
        "< 250-SMTPUTF8",
        "< 250 SIZE 1000000",
        "> MAIL FROM:<a@example.org> SIZE=26",
        "< 250 2.1.0 ok",
        "> RCPT TO:<b@example.net>",
        "< 250 2.1.5 ok",
        "> RCPT TO:<c@example.net>",
        "< 550 5.1.1 nobody",
        "> DATA",
        "< 354 go",
        "* 26 octets of content",
        "< 250 2.0.0 taken",
    ]
    assert not any("hello" in line for line in said)


def test_a_kept_connection_is_not_opened_again_in_the_transcript() -> None:
    async def walk() -> list[Sent]:
        client, mx = SmtpClient(), FakeMx(extensions=("PIPELINING",))
        async with mx.listening():
            try:
                return [await client.send(letter(), peer_of(mx), "gw.example.org", QUICK) for _ in range(2)]
            finally:
                await client.close()

    first, second = asyncio.run(walk())
    assert (first.dialogues[0].number, second.dialogues[0].number) == (1, 2)
    assert lines(second)[:4] == [
        "> MAIL FROM:<a@example.org>",
        "> RCPT TO:<b@example.net>",
        "> RCPT TO:<c@example.net>",
        "> DATA",
    ]


@pytest.mark.parametrize("extensions", [(), ("PIPELINING",)])
def test_many_recipients_are_summed_up(extensions: tuple[str, ...]) -> None:
    paths = tuple(f"r{number}@example.net" for number in range(300))
    mx = FakeMx({"RCPT TO:<r299@": "550 no"}, extensions=extensions)
    said = lines(sent_to(mx, letter(forward_paths=paths)))
    assert sum(line.startswith("> RCPT") for line in said) == SHOWN_RECIPIENTS
    assert "* further recipients: 279 answered 250, 1 answered 550" in said


@pytest.mark.parametrize("mechanisms", ["PLAIN", "LOGIN", "CRAM-MD5", "CRAM-MD5 LOGIN PLAIN"])
@pytest.mark.parametrize("refused", [False, True])
def test_no_secret_stands_there_even_where_the_host_repeats_it(tmp_path: Path, mechanisms: str, refused: bool) -> None:
    context, ca_file = make_certificate(tmp_path, "mx.test")
    replies = {"AUTH LOGIN": "334 VXNlcm5hbWU6", "AUTH CRAM-MD5": "334 PDEuMkBteD4=", SECRETS[1]: "235 ok"}
    replies[base64.b64encode(b"anna").decode()] = "334 UGFzc3dvcmQ6"
    if refused:
        replies |= dict.fromkeys(("AUTH PLAIN", SECRETS[1]), f"535 wrong: {' '.join(SECRETS)}")
    mx = FakeMx(replies, starttls=context, extensions=(f"AUTH {mechanisms}",))
    sent = sent_to(mx, tls="starttls", ca_file=str(ca_file), user="anna", password=PASSWORD)
    text = "\n".join([*lines(sent), *(outcome.text for outcome in sent.outcomes.values())])
    assert "> AUTH " in text and "***" in text
    assert not any(secret in text for secret in SECRETS)
    assert base64.b64encode(b"anna").decode() not in text
    if not refused and mechanisms in {"PLAIN", "LOGIN"}:
        assert {outcome.result for outcome in sent.outcomes.values()} == {Result.DELIVERED}
        told = sent.dialogues[0].told(0.0, 0.0)
        assert told["tls"].startswith("TLSv1.3 TLS_") and told["verified"]


def test_what_ends_a_connection_is_told() -> None:
    assert lines(sent_to(FakeMx({"DOT": CUT})))[-1] == "* the host closed the connection"
    assert lines(sent_to(FakeMx({"GREETING": "554 go away"})))[1] == "< 554 go away"


def test_every_address_that_was_tried_has_its_part() -> None:
    async def walk() -> Sent:
        mx, client = FakeMx(), SmtpClient()
        async with mx.listening():
            peer = Peer("mx.test", ("127.0.0.2", "127.0.0.1"), mx.port, tls="none")
            try:
                return await client.send(letter(), peer, "gw.example.org", QUICK)
            finally:
                await client.close()

    sent = asyncio.run(walk())
    assert [dialogue.address for dialogue in sent.dialogues] == ["127.0.0.2", "127.0.0.1"]
    assert "Connect call failed" in lines(sent, 0)[-1]


@pytest.mark.parametrize("letter", ["x", "é", "\x00", '"'])
def test_a_host_that_talks_without_end_makes_a_short_row(letter: str) -> None:
    async def walk() -> dict[str, Any]:
        transcript = Transcript()
        for _ in range(40):
            transcript.heard(250, "\n".join([letter * 900] * 100))
        transcript.heard(421, "enough")
        return Dialogue("mx.test", "127.0.0.1", 25, (transcript,)).told(0.0, 0.0)

    told = asyncio.run(walk())
    assert len(json.dumps(told)) < FIELD_CHARACTERS
    assert list(lines_of(told["said"]))[-1].endswith("< 421 enough")


def test_what_a_host_says_cannot_play_with_the_terminal() -> None:
    assert list(lines_of([[12, 250, "\x1b[2Jx\u202e"], [13, SAID, "MAIL\r\n"]])) == [
        "0.012 < 250 ?[2Jx?",
        "0.013 > MAIL",
    ]
