"""What a client sends, as lines and pieces: CRLF meant strictly, every wait bounded, little in memory.

Contract
    A line ends with CRLF. A bare CR, a bare LF or a NUL in it is BadLine: what follows cannot be trusted any more.
    A line has one deadline, however slowly its octets drip; a piece of data has its own each time.
    None means the client has closed its side; a line it left unfinished is dropped.
    Above HIGH_WATER_OCTETS the socket is not read: what a client sends too fast waits in its own machine.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from egressguard.smtp.waiting import Ticker, Waiting

HIGH_WATER_OCTETS = 256 * 1024
"""The more is taken at once, the less a large message costs; so much a client may make us hold."""

ENDLESS_OCTETS = 1024 * 1024


class BadLine(Exception):
    """A bare CR, a bare LF or a NUL."""


class LineTooLong(Exception):
    """The line was read to its end and dropped, or has none within ENDLESS_OCTETS."""


class Wire:
    """The protocol feeds it; the session's task takes from it. `pause` stops (True) or resumes reading the socket."""

    def __init__(self, ticker: Ticker, pause: Callable[[bool], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._pause = pause
        self._paused = False
        self._buffer = bytearray()
        self._ended = False
        self._lost: Exception | None = None
        self._waiting = Waiting(ticker)
        self._in_line = False

    # From the protocol.

    def feed(self, octets: bytes) -> None:
        self._buffer += octets
        if len(self._buffer) > HIGH_WATER_OCTETS and not self._paused:
            self._paused = True
            self._pause(True)
        self._waiting.wake()

    def feed_eof(self) -> None:
        self._ended = True
        self._waiting.wake()

    def lose(self, error: Exception | None) -> None:
        """The connection is gone. What was read before is still answered."""
        self._lost = error
        self.feed_eof()

    def hurry(self) -> None:
        """End the wait for a line now, with TimeoutError."""
        if self._in_line:
            self._waiting.fail(TimeoutError())

    # From the session.

    @property
    def is_ended(self) -> bool:
        return self._ended

    def has_input(self) -> bool:
        return bool(self._buffer)

    def has_line(self) -> bool:
        """Whether `line` would answer at once."""
        return b"\n" in self._buffer

    async def line(self, limit_octets: int, seconds: float) -> bytes | None:
        """One line without CRLF. Raises BadLine, LineTooLong, TimeoutError, ConnectionError."""
        if (end := self._buffer.find(b"\n")) >= 0:
            return self._line(end + 1, limit_octets, too_long=False)
        deadline = self._loop.time() + seconds
        too_long, dropped = False, 0
        self._in_line = True
        try:
            while True:
                if len(self._buffer) > limit_octets:
                    too_long = True
                    dropped += len(self._take(len(self._buffer)))
                    if dropped > ENDLESS_OCTETS:
                        raise LineTooLong
                if b"\0" in self._buffer or b"\r" in self._buffer[:-1]:
                    raise BadLine
                if not await self._more(deadline):
                    return None
                if (end := self._buffer.find(b"\n")) >= 0:
                    return self._line(end + 1, limit_octets, too_long=too_long)
        finally:
            self._in_line = False

    async def piece(self, seconds: float, limit_octets: int | None = None) -> bytes | None:
        """Whatever is there, at most `limit_octets`. Raises TimeoutError, ConnectionError."""
        if not self._buffer and not await self._more(self._loop.time() + seconds):
            return None
        return self._take(len(self._buffer) if limit_octets is None else limit_octets)

    async def talks_within(self, seconds: float) -> bool:
        """Whether there is input, or comes any in this time; it is not taken. Raises ConnectionError."""
        try:
            return bool(self._buffer) or (await self._more(self._loop.time() + seconds))
        except TimeoutError:
            return False

    def take_all(self) -> bytes:
        return self._take(len(self._buffer))

    def unread(self, octets: bytes) -> None:
        self._buffer[:0] = octets

    def _line(self, octets: int, limit_octets: int, *, too_long: bool) -> bytes:
        line = self._take(octets)
        if too_long or len(line) > limit_octets:
            raise LineTooLong
        return _without_crlf(line)

    def _take(self, octets: int) -> bytes:
        if octets >= len(self._buffer):
            taken = bytes(self._buffer)
            self._buffer = bytearray()  # a large one is given back
        else:
            taken = bytes(self._buffer[:octets])
            del self._buffer[:octets]
        if self._paused and len(self._buffer) < HIGH_WATER_OCTETS // 2:
            self._paused = False
            self._pause(False)
        return taken

    async def _more(self, deadline: float) -> bool:
        """Wait for more input than there is; False: there will be none."""
        if self._lost is not None:
            raise ConnectionResetError(str(self._lost))
        if self._ended:
            return False
        await self._waiting.until(deadline)
        return bool(self._buffer) or not self._ended

    def close(self) -> None:
        """Nothing is waited for any more."""
        self._waiting.close()
        self._pause = _nobody


def _nobody(_pause: bool) -> None:
    """Whoever fed the wire is let go."""


def _without_crlf(line: bytes) -> bytes:
    text = line[:-2]
    if not line.endswith(b"\r\n") or b"\r" in text or b"\0" in text:
        raise BadLine
    return text
