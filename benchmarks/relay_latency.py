"""How long a client of `benchmarks/relay.py` waits for the 250 after the final dot, many connections at once.

Contract
    MAIL, RCPT and DATA go out in one piece (RFC 2920), the content after the 354. The same client for each relay.
    Any reply but the expected one is a RuntimeError, and so is silence for ANSWER_SECONDS.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from benchmarks.relay_load import CLIENT, CONNECTIONS, RECIPIENT, SENDER
from benchmarks.relay_world import LOOPBACK, Relay

ANSWER_SECONDS = 30
SIZE_OCTETS = 4096
_ENVELOPE = f"MAIL FROM:<{SENDER}>\r\nRCPT TO:<{RECIPIENT}>\r\nDATA\r\n".encode()
_LINE = b"X" * 78 + b"\r\n"
_CONTENT = (
    f"From: {SENDER}\r\nTo: {RECIPIENT}\r\nSubject: load\r\nDate: Mon, 5 Jan 2026 12:00:00 +0000\r\n".encode()
    + b"Message-ID: <%d.%d@client.example>\r\n\r\n"
    + _LINE * (SIZE_OCTETS // len(_LINE))
    + b".\r\n"
)


def latencies(relay: Relay, count: int) -> list[float]:
    """Seconds from the final dot to its 250, of `count` messages over CONNECTIONS; all are delivered then."""
    before = relay.sink.count()
    each = count // CONNECTIONS
    found = asyncio.run(_all(relay.port, each))
    relay.delivered(before + each * CONNECTIONS)
    relay.rest(before + each * CONNECTIONS)
    return found


def percentile_99(seconds: list[float]) -> float:
    return sorted(seconds)[int(len(seconds) * 0.99)]


async def _all(port: int, each: int) -> list[float]:
    loop, clients = asyncio.get_running_loop(), [_Client(number, each) for number in range(CONNECTIONS)]
    for client in clients:
        await loop.create_connection(lambda client=client: client, LOOPBACK, port)  # type: ignore[misc]
    await asyncio.gather(*(client.done for client in clients))
    return [seconds for client in clients for seconds in client.seconds]


class _Client(asyncio.Protocol):
    """One connection: banner, EHLO, `left` messages, QUIT."""

    def __init__(self, number: int, left: int) -> None:
        self.seconds: list[float] = []
        self.done = asyncio.get_running_loop().create_future()
        self._number, self._left = number, left
        self._expected = [b"220"]
        self._rest = b""
        self._next = self._greet
        self._sent_at = 0.0
        self._alarm = asyncio.get_running_loop().call_later(ANSWER_SECONDS, self._fail, "no answer")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\r\n")
        for line in lines:
            if line[3:4] == b"-":
                continue
            if not self._expected or line[:3] != self._expected.pop(0):
                return self._fail(repr(line))
            if not self._expected:
                self._next()

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(f"connection closed: {exc}")

    def _greet(self) -> None:
        self._say(f"EHLO {CLIENT}\r\n".encode(), self._begin, b"250")

    def _begin(self) -> None:
        if self._left:
            self._left -= 1
            return self._say(_ENVELOPE, self._content, b"250", b"250", b"354")
        return self._say(b"QUIT\r\n", self._end, b"221")

    def _content(self) -> None:
        self._say(_CONTENT % (self._number, self._left), self._taken, b"250")
        self._sent_at = time.perf_counter()

    def _taken(self) -> None:
        self.seconds.append(time.perf_counter() - self._sent_at)
        self._begin()

    def _end(self) -> None:
        self._alarm.cancel()
        self._transport.close()
        self.done.set_result(None)

    def _say(self, words: bytes, then: Callable[[], None], *expected: bytes) -> None:
        self._expected, self._next = list(expected), then
        self._alarm.cancel()
        self._alarm = asyncio.get_running_loop().call_later(ANSWER_SECONDS, self._fail, "no answer")
        self._transport.write(words)

    def _fail(self, why: str) -> None:
        if not self.done.done():
            self.done.set_exception(RuntimeError(f"a client of the latency case: {why}"))
            self._alarm.cancel()
            self._transport.abort()
