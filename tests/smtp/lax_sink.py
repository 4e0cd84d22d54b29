"""An SMTP server that takes other ends for the end of data than RFC 5321's: whom a smuggler hopes to meet behind us.

Contract
    The earliest of `ends` ends the content. What follows is the next command, ended by any of CRLF, LF or CR.
    It answers everything with yes. `messages` are the contents with dot-stuffing undone, `commands` all other lines.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

TRUE_END = b"\r\n.\r\n"
_LINE_END = re.compile(rb"\r\n|\n|\r(?!$)")


@dataclass
class LaxSink:
    """`extensions` are what EHLO offers; `port` is known while listening."""

    ends: tuple[bytes, ...] = ()
    extensions: tuple[str, ...] = ("8BITMIME", "SIZE 1000000")
    port: int = 0
    messages: list[bytes] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    _octets: bytes = b""

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[LaxSink]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._octets = b""
        writer.write(b"220 mx.receiver.example ESMTP\r\n")
        with contextlib.suppress(ConnectionError):
            while (line := await self._line(reader)) is not None:
                self.commands.append(line.decode("latin-1"))
                verb = line[:4].upper()
                writer.write(self._answer(verb))
                if verb == b"DATA":
                    content = await self._content(reader)
                    if content is None:
                        break
                    self.messages.append(content)
                    writer.write(b"250 2.0.0 taken\r\n")
                if verb == b"QUIT":
                    break
        writer.close()

    def _answer(self, verb: bytes) -> bytes:
        if verb == b"EHLO":
            lines = ["mx.receiver.example", *self.extensions]
            return "".join(
                f"250{' ' if n == len(lines) else '-'}{word}\r\n" for n, word in enumerate(lines, 1)
            ).encode()
        return {b"DATA": b"354 go\r\n", b"QUIT": b"221 bye\r\n"}.get(verb, b"250 2.0.0 ok\r\n")

    async def _line(self, reader: asyncio.StreamReader) -> bytes | None:
        while (found := _LINE_END.search(self._octets)) is None:
            if not await self._more(reader):
                return None
        line, self._octets = self._octets[: found.start()], self._octets[found.end() :]
        return line

    async def _content(self, reader: asyncio.StreamReader) -> bytes | None:
        self._octets = b"\r\n" + self._octets  # an end may stand right at the beginning
        while (found := self._end()) is None:
            if not await self._more(reader):
                return None
        start, end = found
        keep = b"\r\n" if self._octets.startswith(TRUE_END, start) else b""
        content, self._octets = self._octets[:start] + keep, self._octets[end:]
        return content.replace(b"\r\n.", b"\r\n")[2:]

    def _end(self) -> tuple[int, int] | None:
        places = [(self._octets.find(end), len(end)) for end in (*self.ends, TRUE_END)]
        found = [(start, start + length) for start, length in places if start >= 0]
        return min(found, default=None)

    async def _more(self, reader: asyncio.StreamReader) -> bool:
        octets = await reader.read(65536)
        self._octets += octets
        return bool(octets)
