"""LMTP (RFC 2033) by the client: LHLO, and an answer for each recipient after the content."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

import pytest

from egressguard.mail.outcome import Result
from egressguard.smtp.client import Patience, Peer, Sent, SmtpClient, Transaction, send
from egressguard.store.content import Content
from tests.smtp.fake_mx import CUT, HANG, FakeMx, make_certificate

A, B, C = "a@example.net", "b@example.net", "c@example.net"
QUICK = Patience(connect_seconds=0.5, command_seconds=0.5, data_seconds=0.5, whole_seconds=5)
CONTENT = b"Subject: x\r\n\r\n.hello\r\n..\r\n"
OFFERED = ("PIPELINING", "8BITMIME", "SIZE")


def letter(*paths: str) -> Transaction:
    return Transaction("s@example.org", paths or (A, B, C), Content.of(CONTENT))


def peer_of(mx: FakeMx) -> Peer:
    return Peer("lmtp.test", ("127.0.0.1",), mx.port, lmtp=True)


def sent_to(mx: FakeMx, *paths: str) -> Sent:
    async def walk() -> Sent:
        async with mx.listening():
            return await send(letter(*paths), peer_of(mx), "gw.example.org", QUICK)

    return asyncio.run(walk())


def results(sent: Sent) -> list[tuple[Result, str]]:
    return [(sent.outcomes[path].result, sent.outcomes[path].status) for path in (A, B, C)]


TAKEN, LATER, NEVER = (Result.DELIVERED, "2.0.0"), (Result.TRANSIENT, "4.2.2"), (Result.PERMANENT, "5.2.1")
LOST = (Result.TRANSIENT, "4.4.2")


@pytest.mark.parametrize("extensions", [OFFERED, ("8BITMIME",)])
@pytest.mark.parametrize(
    ("replies", "expected"),
    [
        ({}, [TAKEN, TAKEN, TAKEN]),
        ({f"DOT <{B}>": "452 4.2.2 full"}, [TAKEN, LATER, TAKEN]),
        ({f"DOT <{A}>": "550 5.2.1 off", f"DOT <{C}>": "452 4.2.2 full"}, [NEVER, TAKEN, LATER]),
        ({f"RCPT TO:<{B}>": "550 5.2.1 off", f"DOT <{C}>": "452 4.2.2 full"}, [TAKEN, NEVER, LATER]),
        ({f"DOT <{B}>": CUT}, [TAKEN, LOST, LOST]),  # what was said, stands; the rest is in doubt
        ({f"DOT <{C}>": HANG}, [TAKEN, TAKEN, LOST]),
        ({"DATA": "451 4.2.2 later"}, [LATER, LATER, LATER]),
    ],
)
def test_each_recipient_has_an_answer_of_its_own(
    replies: dict[str, str], expected: list[tuple[Result, str]], extensions: tuple[str, ...]
) -> None:
    mx = FakeMx(lmtp=True, replies=replies, extensions=extensions)
    sent = sent_to(mx)
    assert results(sent) == expected
    assert mx.commands[0] == "LHLO gw.example.org"
    assert not [line for line in mx.commands if line.startswith(("EHLO", "HELO"))]
    if "DATA" not in replies:
        assert mx.messages[0][2] == CONTENT
    assert sent.begun


def test_nobody_taken_is_503_and_the_connection_serves_the_next() -> None:
    mx = FakeMx(lmtp=True, extensions=OFFERED, replies={f"RCPT TO:<{A}>": "550 5.2.1 off"})

    async def walk() -> tuple[Sent, Sent]:
        client = SmtpClient()
        async with mx.listening():
            mx.replies["DATA"] = "503 5.5.1 no valid recipients"
            first = await client.send(letter(A), peer_of(mx), "gw.example.org", QUICK)
            del mx.replies["DATA"]
            second = await client.send(letter(B), peer_of(mx), "gw.example.org", QUICK)
            await client.close()
        return first, second

    first, second = asyncio.run(walk())
    assert (first.outcomes[A].result, second.outcomes[B].result) == (Result.PERMANENT, Result.DELIVERED)


def test_a_host_that_wants_a_message_for_nobody_gets_an_empty_one_and_is_left() -> None:
    mx = FakeMx(lmtp=True, extensions=OFFERED, replies={"RCPT": "550 5.2.1 off"})
    sent = sent_to(mx)
    assert results(sent) == [NEVER, NEVER, NEVER]
    assert [(paths, content) for _sender, paths, content in mx.messages] == [([], b"")]


def test_two_messages_share_a_connection() -> None:
    mx = FakeMx(lmtp=True, extensions=OFFERED)

    async def walk() -> None:
        client = SmtpClient()
        async with mx.listening():
            for _ in range(2):
                await client.send(letter(), peer_of(mx), "gw.example.org", QUICK)
            await client.close()

    asyncio.run(walk())
    assert (mx.connections, len(mx.messages)) == (1, 2)


def test_a_unix_socket() -> None:
    mx = FakeMx(lmtp=True, extensions=OFFERED)
    with tempfile.TemporaryDirectory(prefix="eg-") as directory:
        path = str(Path(directory) / "lmtp")

        async def walk() -> tuple[Sent, Sent]:
            peer = Peer(path, (path,), 0, "none", lmtp=True)
            async with mx.listening(path):
                there = await send(letter(), peer, "gw.example.org", QUICK)
            return there, await send(letter(), peer, "gw.example.org", QUICK)

        there, gone = asyncio.run(walk())
    assert results(there) == [TAKEN] * 3
    assert (results(gone), gone.begun) == ([(Result.TRANSIENT, "4.4.1")] * 3, False)
    assert gone.outcomes[A].text.startswith(f"{path}: ")


def test_starttls(tmp_path: Path) -> None:
    context, _ = make_certificate(tmp_path, "lmtp.test")
    mx = FakeMx(lmtp=True, extensions=OFFERED, starttls=context)
    assert results(sent_to(mx)) == [TAKEN] * 3
    assert mx.commands[:3] == ["LHLO gw.example.org", "STARTTLS", "LHLO gw.example.org"]


@pytest.mark.parametrize("reply", ["500 5.5.1 what?", "421 4.3.2 later"])
def test_a_host_that_speaks_no_lmtp_says_nothing_about_recipients(reply: str) -> None:
    mx = FakeMx(lmtp=True, replies={"LHLO": reply})
    sent = sent_to(mx)
    assert (results(sent), sent.begun) == ([(Result.TRANSIENT, "4.3.2")] * 3, False)
