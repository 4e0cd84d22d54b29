"""A host's replies on the way to a connection, as aiosmtplib has them read."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence

import aiosmtplib
import aiosmtplib.smtp
import pytest
from aiosmtplib.protocol import SMTPProtocol

from egressguard.smtp.recording import RecordingSMTP

assert RecordingSMTP  # it is what makes aiosmtplib read line by line


def heard(pieces: Sequence[bytes]) -> aiosmtplib.SMTPResponse:
    """What a client that waits for a reply makes of it."""

    async def read() -> aiosmtplib.SMTPResponse:
        ours, host = socket.socketpair()
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.create_connection(
            lambda: aiosmtplib.smtp.SMTPProtocol(loop=asyncio.get_running_loop()), sock=ours
        )
        reading = asyncio.create_task(protocol.read_response(timeout=20))
        await asyncio.sleep(0)
        try:
            for piece in pieces:
                protocol.data_received(piece)
            return await reading
        finally:
            transport.close()
            host.close()

    return asyncio.run(read())


@pytest.mark.parametrize("octets", [1, 2, 5, 7, 100_000])
def test_a_long_reply_is_parsed_once_however_it_comes(octets: int, monkeypatch: pytest.MonkeyPatch) -> None:
    parse, parsed = SMTPProtocol._read_response_from_buffer, list[int]()

    def counted(self: SMTPProtocol) -> aiosmtplib.SMTPResponse | None:
        parsed.append(len(self._buffer))
        return parse(self)

    monkeypatch.setattr(SMTPProtocol, "_read_response_from_buffer", counted)
    said = b"220-x\r\n" * 3000 + b"220 y\r\n"
    reply = heard([said[at : at + octets] for at in range(0, len(said), octets)])
    assert (reply.code, reply.message) == (220, "x\n" * 3000 + "y")
    assert parsed == [len(said)]


@pytest.mark.parametrize(
    ("said", "code", "text"),
    [
        (b"220 mx\r\n", 220, "mx"),
        (b"220\r\n", 220, ""),
        (b"250-mx\n250-SIZE\n250 DSN\n", 250, "mx\nSIZE\nDSN"),
        (b"250-mx\r\n550 no\r\n", 550, "mx\nno"),
        (b"220 mx\r\n250-more\r\n", 220, "mx"),
    ],
)
@pytest.mark.parametrize("octets", [1, 3, 1000])
def test_a_reply_is_the_same_in_all_pieces(said: bytes, code: int, text: str, octets: int) -> None:
    reply = heard([said[at : at + octets] for at in range(0, len(said), octets)])
    assert (reply.code, reply.message) == (code, text)


@pytest.mark.parametrize("said", [b"hello-\r\n", b"22-\r\n", b"250-a\r\nxyz-b\r\n", b"220-x\r\n" * 6000])
def test_what_is_no_reply_is_refused_as_soon_as_it_is_known(said: bytes) -> None:
    with pytest.raises(aiosmtplib.SMTPResponseException):
        heard([said[at : at + 5] for at in range(0, len(said), 5)])
