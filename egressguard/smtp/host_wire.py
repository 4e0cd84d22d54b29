"""Our side of a connection to a host, once it is greeted, encrypted and logged in: octets out, replies in.

Contract
    Replies come in the order of the commands, however many were sent at once (RFC 2920).
    A reply is at most REPLY_OCTETS long and REPLIES wait at most; a host that says more is not listened to any more.
    Whatever goes wrong is HostLost or TimeoutError.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from functools import lru_cache

from egressguard.smtp.waiting import Ticker, Waiting

REPLY_OCTETS = 64 * 1024
REPLIES = 2000
_LINE = re.compile(rb"([0-9]{3})(?:([ -])(.*))?")
_SHORT_OCTETS = 64
"""Most lines of replies are no longer, and a host has few different ones."""


class HostLost(Exception):
    """The connection is gone, or what comes from it is no SMTP."""


class HostWire(asyncio.Protocol):
    """Takes the place of aiosmtplib's protocol on `transport`."""

    def __init__(self, transport: asyncio.Transport, ticker: Ticker) -> None:
        self._transport = transport
        self._buffer = bytearray()
        self._lines: list[str] = []
        self._lines_octets = 0
        self._replies: deque[tuple[int, str]] = deque()
        self._lost: str | None = None
        self._loop = asyncio.get_running_loop()
        self._waiting = Waiting(ticker)
        self._writable: asyncio.Future[None] | None = None
        transport.set_protocol(self)

    @property
    def is_idle(self) -> bool:
        """Still there, and nothing was said unasked: the 421 of a host that is tired of waiting."""
        said_something = self._replies or self._lines or self._buffer
        return self._lost is None and not said_something and not self._transport.is_closing()

    @property
    def is_ahead(self) -> bool:
        """It has answered what it was not asked yet. A 421 does not count: it may come at any time (RFC 5321 s3.8)."""
        return bool(self._replies) and any(code != 421 for code, _ in self._replies)

    def write(self, octets: bytes) -> None:
        if self._lost is not None:
            raise HostLost(self._lost)
        self._transport.write(octets)

    async def drain(self) -> None:
        """Wait until the host has taken most of what was written."""
        if self._lost is not None:
            raise HostLost(self._lost)
        if self._writable is not None:
            await self._writable

    async def reply(self, seconds: float) -> tuple[int, str]:
        """The next reply: its code, and its lines joined by line feeds."""
        if not self._replies:
            if self._lost is not None:
                raise HostLost(self._lost)
            await self._waiting.until(self._loop.time() + seconds)
        return self._replies.popleft()

    def close(self) -> None:
        self._waiting.close()
        self._transport.close()

    # From the event loop.

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while self._lost is None and (end := self._buffer.find(b"\n")) >= 0:
            line = bytes(self._buffer[:end]).rstrip(b"\r")
            del self._buffer[: end + 1]
            self._take(line)
        if len(self._buffer) > REPLY_OCTETS or len(self._replies) > REPLIES:
            self._lose("the host talks without end")
        if self._replies:
            self._waiting.wake()

    def _take(self, line: bytes) -> None:
        read = _read_lately(line) if len(line) <= _SHORT_OCTETS else _read(line)
        self._lines_octets += len(line)
        if read is None or self._lines_octets > REPLY_OCTETS:
            words = line[:100].decode("ascii", "replace")
            self._lose("its reply does not end" if read else f"that is no reply: {words}")
            return
        code, is_last, text = read
        self._lines.append(text)
        if is_last:
            self._replies.append((code, "\n".join(self._lines)))
            self._lines, self._lines_octets = [], 0

    def eof_received(self) -> bool:
        self._lose("the host closed the connection")
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._lose(str(exc) if exc else "the host closed the connection")

    def pause_writing(self) -> None:
        self._writable = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        writable, self._writable = self._writable, None
        if writable is not None and not writable.done():
            writable.set_result(None)

    def _lose(self, why: str) -> None:
        if self._lost is None:
            self._lost = why
            self.close()
        if not self._replies:
            self._waiting.fail(HostLost(self._lost))
        if self._writable is not None and not self._writable.done():
            self._writable.set_exception(HostLost(self._lost))


def _read(line: bytes) -> tuple[int, bool, str] | None:
    """(code, whether the reply ends with it, text) of a reply's line without its end; None: it is none."""
    match = _LINE.fullmatch(line)
    if match is None:
        return None
    return int(match[1]), match[2] != b"-", (match[3] or b"").decode("utf-8", "replace").strip()


_read_lately = lru_cache(256)(_read)
