"""Lines and chunks from a stream, with CRLF meant strictly and every wait bounded.

Contract
    A line ends with CRLF. A bare CR, a bare LF or a NUL in it is BadLine: what follows cannot be trusted any more.
    A line has one deadline, however slowly its octets drip; a chunk of data has its own each time.
    None means the client has closed its side; a line it left unfinished is dropped.
"""

from __future__ import annotations

import asyncio

CHUNK_OCTETS = 64 * 1024


class BadLine(Exception):
    """A bare CR, a bare LF or a NUL."""


class LineTooLong(Exception):
    """The line was read to its end and dropped."""


class Wire:
    """Reads from an asyncio.StreamReader; keeps what it read too far."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader
        self._buffer = bytearray()
        self._wait: asyncio.Timeout | None = None

    def has_input(self) -> bool:
        # StreamReader has no public way to ask this.
        return bool(self._buffer or self._reader._buffer)  # type: ignore[attr-defined]

    async def line(self, limit_octets: int, seconds: float) -> bytes | None:
        """One line without CRLF. Raises BadLine, LineTooLong, TimeoutError, ConnectionError."""
        try:
            async with asyncio.timeout(seconds) as wait:
                self._wait = wait
                return await self._line(limit_octets)
        finally:
            self._wait = None

    async def chunk(self, seconds: float) -> bytes | None:
        """Whatever is there, at most CHUNK_OCTETS or what was read too far. Raises TimeoutError, ConnectionError."""
        if self._buffer:
            octets = bytes(self._buffer)
            self._buffer.clear()
            return octets
        async with asyncio.timeout(seconds):
            return await self._reader.read(CHUNK_OCTETS) or None

    def unread(self, octets: bytes) -> None:
        self._buffer[:0] = octets

    def hurry(self) -> None:
        """End the wait for a line now, with TimeoutError."""
        if self._wait is not None and not self._wait.expired():
            self._wait.reschedule(asyncio.get_running_loop().time())

    async def _line(self, limit_octets: int) -> bytes | None:
        too_long = False
        while True:
            end = self._buffer.find(b"\n")
            if end >= 0:
                line = self._take(end + 1)
                if too_long or len(line) > limit_octets:
                    raise LineTooLong
                return _without_crlf(line)
            if len(self._buffer) > limit_octets:
                too_long = True
                self._buffer.clear()
            if b"\0" in self._buffer or b"\r" in self._buffer[:-1]:
                raise BadLine
            octets = await self._reader.read(CHUNK_OCTETS)
            if not octets:
                return None
            self._buffer += octets

    def _take(self, octets: int) -> bytes:
        line = bytes(self._buffer[:octets])
        del self._buffer[:octets]
        return line


def _without_crlf(line: bytes) -> bytes:
    text = line[:-2]
    if not line.endswith(b"\r\n") or b"\r" in text or b"\0" in text:
        raise BadLine
    return text
