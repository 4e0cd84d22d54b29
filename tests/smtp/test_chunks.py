"""BDAT over the wire (RFC 3030): counted octets are content and nothing else, and what follows them is a command."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from egressguard.smtp.settings import SmtpSettings
from tests.smtp.conftest import SETTINGS, Client, Running, Stand
from tests.smtp.wire_peer import WHOLE, Taken, taken

EHLO, MAIL, RCPT = (
    b"EHLO client.example.net\r\n",
    b"MAIL FROM:<a@sender.example>\r\n",
    b"RCPT TO:<anna@example.org>\r\n",
)
ENVELOPE = EHLO + MAIL + RCPT
LIMIT = SETTINGS.max_message_octets
HALF = b"x" * (LIMIT // 2) + b"\r\n"


def bdat(content: bytes, *, last: bool = False) -> bytes:
    return b"BDAT %d%s\r\n" % (len(content), b" LAST" if last else b"") + content


def says(octets: bytes, stand: Stand, chunk_octets: int = WHOLE, **changes: object) -> tuple[list[str], list[Taken]]:
    """The codes of the replies to all of it, said at once, and the messages that were taken."""
    played: list[tuple[list[str], list[Taken]]] = []

    async def dialog(running: Running, client: Client) -> None:
        await client.send(octets, chunk_octets)
        client.writer.write_eof()
        said = (await client.rest()).splitlines()
        played.append(([line[:3] for line in said if line[3:4] == " "], taken(running)))

    _with_client(dialog, stand, **changes)
    return played[0]


def _with_client(
    dialog: Callable[[Running, Client], Awaitable[None]],
    stand: Stand,
    settings: SmtpSettings = SETTINGS,
    **changes: object,
) -> None:
    async def walk() -> None:
        async with stand.serve(settings, **changes) as running, stand.client(running) as client:
            await dialog(running, client)

    asyncio.run(walk())


ENVELOPE_CODES = ["250", "250", "250"]


@pytest.mark.parametrize("chunk_octets", [1, 7, WHOLE])
@pytest.mark.parametrize(
    ("said", "codes", "contents"),
    [
        (bdat(b"a\r\n", last=True), ["250"], [b"a\r\n"]),
        (bdat(b"a\r\n") + bdat(b"", last=True), ["250", "250"], [b"a\r\n"]),
        (bdat(b"") + bdat(b"a\r\n") + bdat(b"") + bdat(b"b\r\n", last=True), ["250"] * 4, [b"a\r\nb\r\n"]),
        (bdat(b"", last=True), ["250"], [b""]),
        (bdat(b"a\r") + bdat(b"\nb\r\n", last=True), ["250", "250"], [b"a\r\nb\r\n"]),
        (bdat(b".\r\n.\r\nQUIT\r\n", last=True), ["250"], [b".\r\n.\r\nQUIT\r\n"]),
        (b"bdat 3 last\r\na\r\n", ["250"], [b"a\r\n"]),
        (b"BDAT 00003 LAST\r\na\r\n", ["250"], [b"a\r\n"]),
        (bdat(b"a\r\n", last=True) + b"NOOP\r\nRSET\r\n", ["250", "250", "250"], [b"a\r\n"]),
        (bdat(b"a\r\n", last=True) + MAIL + RCPT + bdat(b"b\r\n", last=True), ["250"] * 4, [b"a\r\n", b"b\r\n"]),
        (bdat(b"a\r\n", last=True) + bdat(b"b\r\n", last=True), ["250", "503"], [b"a\r\n"]),
        (bdat(b"a\r\n") + b"RSET\r\n" + MAIL + RCPT + bdat(b"b\r\n", last=True), ["250"] * 5, [b"b\r\n"]),
        (bdat(b"a\r\n") + EHLO + bdat(b"b\r\n", last=True), ["250", "250", "503"], []),
        (bdat(b"a\r\n") + MAIL + RCPT + bdat(b"b\r\n", last=True), ["250", "503", "503", "250"], [b"a\r\nb\r\n"]),
        (bdat(b"a\r\n") + b"DATA\r\n", ["250", "503"], []),
        (bdat(b"a\nb\r\n", last=True) + b"NOOP\r\n", ["554", "250"], []),
        (bdat(b"a\nb\r\n") + bdat(b"NOOP\r\n", last=True), ["554", "503"], []),
        (bdat(b"a\r", last=True), ["554"], []),
        (bdat(HALF) + bdat(HALF, last=True) + b"NOOP\r\n", ["250", "552", "250"], []),
        (bdat(HALF) + bdat(HALF) + bdat(b"NOOP\r\n") + b"NOOP\r\n", ["250", "552", "503", "250"], []),
        (bdat(b"x" * (LIMIT - 2) + b"\r\n", last=True), ["250"], [b"x" * (LIMIT - 2) + b"\r\n"]),
        (bdat(b"a\r\n") + b"QUIT\r\n", ["250", "221"], []),
        (bdat(b"a\r\n") + b"BDAT 10 LAST\r\nhalf", ["250"], []),
    ],
    ids=lambda value: repr(value[:30]) if isinstance(value, bytes) else "",
)
def test_chunks_behind_an_envelope(
    said: bytes, codes: list[str], contents: list[bytes], chunk_octets: int, stand: Stand
) -> None:
    if chunk_octets == 1 and len(said) > 1000:
        chunk_octets = 997
    heard, messages = says(ENVELOPE + said, stand, chunk_octets)
    assert heard == [*ENVELOPE_CODES, *codes]
    assert [message.content for message in messages] == contents


@pytest.mark.parametrize(
    ("said", "codes"),
    [
        (EHLO + bdat(b"NOOP\r\n", last=True), ["250", "503"]),
        (EHLO + MAIL + bdat(b"NOOP\r\n", last=True) + RCPT, ["250", "250", "554", "250"]),
        (EHLO + MAIL + b"RCPT TO:<unknown@x.example>\r\n" + bdat(b"NOOP\r\n") + bdat(b"QUIT\r\n", last=True),
         ["250", "250", "550", "554", "554"]),
        (EHLO + MAIL.replace(b"a@", b"@") + RCPT + bdat(b"QUIT\r\n", last=True), ["250", "553", "503", "503"]),
    ],
)  # fmt: skip
def test_chunks_for_nobody_are_read_and_dropped(said: bytes, codes: list[str], stand: Stand) -> None:
    """A pipelining client sends them before it knows (RFC 3030 s2): they are never commands."""
    heard, messages = says(said + b"NOOP\r\n", stand)
    assert heard == [*codes, "250"] and messages == []


@pytest.mark.parametrize(
    "line",
    [
        b"BDAT\r\n",
        b"BDAT x\r\n",
        b"BDAT -1\r\n",
        b"BDAT +5\r\n",
        b"BDAT 0x5\r\n",
        b"BDAT 5 FIRST\r\n",
        b"BDAT  5\r\n",
        b"BDAT 5  LAST\r\n",
        b"BDAT 9999999999999999\r\n",
        b"BDAT 999999999999999\r\n",
        b"BDAT %d LAST\r\n" % (2 * LIMIT + 1024 * 1024 + 1),
        "BDAT \u0665\r\n".encode(),
        b"BDAT\t5\r\n",
        b"BDAT5\r\n",
        b"BDAT \xff\r\n",
        b"BDAT 5" + b"x" * 3000 + b"\r\n",
    ],
)
def test_where_a_chunk_ends_cannot_be_known_the_session_does(line: bytes, stand: Stand) -> None:
    """What follows may be a chunk: none of it is taken for commands."""
    heard, messages = says(ENVELOPE + line + MAIL + b"NOOP\r\nQUIT\r\n", stand)
    assert len(heard) == 4 and heard[-1] in {"500", "501", "552"}
    assert messages == []


def test_binary_content_is_taken_by_chunks_only(stand: Stand) -> None:
    content = b"a\nb\rc\0d"
    mail = MAIL.replace(b"\r\n", b" BODY=BINARYMIME\r\n")
    heard, messages = says(EHLO + mail + RCPT + b"DATA\r\n" + bdat(content, last=True), stand, binarymime=True)
    assert heard == ["250", "250", "250", "503", "250"]
    assert [message.content for message in messages] == [content]
    heard, _ = says(EHLO + mail, stand)
    assert heard == ["250", "501"]  # it is not offered


def test_each_chunk_is_answered_when_it_is_there(stand: Stand) -> None:
    """A client that waits for each reply is served too."""

    async def dialog(running: Running, client: Client) -> None:
        await client.send(ENVELOPE)
        assert [(await client.reply())[:3] for _ in range(3)] == ENVELOPE_CODES
        for content in (b"a\r\n", b"", b"b\r"):
            await client.send(bdat(content))
            assert await client.reply() == f"250 2.0.0 {len(content)} octets received"
        await client.send(bdat(b"\n", last=True))
        assert (await client.reply())[:3] == "250"
        assert [message.content for message in taken(running)] == [b"a\r\nb\r\n"]

    _with_client(dialog, stand)


def test_a_chunk_that_drips_has_an_end(stand: Stand) -> None:
    async def dialog(running: Running, client: Client) -> None:
        await client.send(ENVELOPE + b"BDAT 100 LAST\r\nhalf")
        assert (await client.rest()).splitlines()[-1][:3] == "421"
        assert taken(running) == []

    _with_client(dialog, stand, data_chunk_seconds=0.2)
