"""A well-behaved host in memory for the client's tests: time passes when everybody waits (tests/fuzz/memory.py)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

from tests.fuzz.memory import MemoryLoop, MemoryTransport

T = TypeVar("T")
EHLO = b"250-mx\r\n250-PIPELINING\r\n250-SIZE 1000000\r\n250 8BITMIME\r\n"


@dataclass
class Line:
    """One connection of the host: what it was told, line by line."""

    transport: MemoryTransport
    commands: list[str] = field(default_factory=list)
    contents: list[bytes] = field(default_factory=list)
    _read: int = 0
    _in_data: bool = False

    def next(self) -> str | None:
        """The next command, or "." for the end of a message; None: nothing is waiting."""
        said, end = bytes(self.transport.said), b"\r\n.\r\n" if self._in_data else b"\r\n"
        place = said.find(end, self._read)
        if place < 0:
            return None
        octets, self._read = said[self._read : place], place + len(end)
        if self._in_data:
            self._in_data = False
            self.contents.append(octets)
            return "."
        self.commands.append(octets.decode())
        return self.commands[-1]

    def answer(self, reply: bytes) -> None:
        self._in_data = reply.startswith(b"354")
        self.transport.feed(reply)


@dataclass
class MemoryMx:
    """`replies` by a command's beginning replace the usual ones; b"" says nothing."""

    loop: MemoryLoop
    replies: dict[str, bytes] = field(default_factory=dict)
    lines: list[Line] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.loop.on_connection = self._connected

    def _connected(self, transport: MemoryTransport) -> None:
        self.lines.append(Line(transport))
        transport.feed(self._reply("GREETING", b"220 mx ESMTP\r\n"))

    def serve(self) -> bool:
        """Answer everything that was said; whether there was anything."""
        answered = False
        for line in self.lines:
            while not line.transport.is_closing() and (command := line.next()) is not None:
                answered = True
                line.answer(self._reply(command, _usual(command)))
                if command == "QUIT":
                    line.transport.end()
        return answered

    def _reply(self, command: str, usual: bytes) -> bytes:
        fitting = [beginning for beginning in self.replies if command.startswith(beginning)]
        return self.replies[max(fitting, key=len)] if fitting else usual

    async def until_done(self, work: Awaitable[T]) -> T:
        """What comes of it, while the host does its part; a wait of nobody's is a tenth of a second long."""
        task = asyncio.ensure_future(work)
        while not task.done():
            await self.loop.settle()
            if not self.serve() and not task.done():
                await asyncio.wait((task,), timeout=0.1)
        return task.result()


def _usual(command: str) -> bytes:
    verb = command.partition(" ")[0]
    known = {"EHLO": EHLO, "DATA": b"354 go\r\n", "QUIT": b"221 bye\r\n", "STARTTLS": b"220 go\r\n"}
    return known.get(verb, b"235 2.7.0 in\r\n" if verb == "AUTH" else b"250 2.0.0 ok\r\n")


def play(dialogue: Callable[[MemoryLoop], Awaitable[T]]) -> T:
    """Nothing may be raised on the way but by the dialogue itself."""
    loop = MemoryLoop()
    try:
        result = loop.run_until_complete(_as_coroutine(dialogue, loop))
        loop.no_trouble()
        return result
    finally:
        loop.close()


async def _as_coroutine(dialogue: Callable[[MemoryLoop], Awaitable[T]], loop: MemoryLoop) -> T:
    return await dialogue(loop)
