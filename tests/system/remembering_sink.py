"""A small SMTP server that remembers all it ever took, and the content each client meant to send.

Contract
    Not a line of it is the product's. Every message here has a number of its own, said by its reverse-path.
    An arrival counts when the final dot was read; `on_arrival` is called before the 250 is said.
    `epoch` is what the test says it is: the relay's life, counted. An arrival belongs to its connection's epoch.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections import defaultdict
from collections.abc import Callable

MESSAGE_OCTETS = 8 * 1024 * 1024
SENDER = "n%d@load.example"

Pair = tuple[str, str]
"""(reverse-path, forward-path)"""


def message_text(number: int, size_octets: int) -> bytes:
    """Content that no other number has: lines of many lengths, some of which begin with dots."""
    head = f"Subject: {number}\r\nFrom: <{SENDER % number}>\r\n\r\n".encode()
    line = b"%s%d %s\r\n" % (b"." * (number % 3), number, b"x" * (number * 7 % 70))
    return head + line * (size_octets // len(line) + 1) + b".\r\n..\r\nend\r\n"


class Sink:
    def __init__(self) -> None:
        self.epoch = 0
        self.arrivals: dict[Pair, list[int]] = defaultdict(list)
        self.damaged: list[str] = []
        self.digests: dict[str, bytes] = {}
        self.on_arrival: Callable[[], None] = lambda: None
        self._tasks: set[asyncio.Task[None]] = set()

    def expect(self, reverse_path: str, content: bytes) -> None:
        self.digests[reverse_path] = hashlib.sha256(content).digest()

    async def start(self) -> int:
        """Its port."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=MESSAGE_OCTETS, backlog=100)
        self._server = server
        return int(server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                await self._talk(reader, writer, self.epoch)
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, epoch: int) -> None:
        sender, paths = "", []
        writer.write(b"220 sink.example ESMTP\r\n")
        while True:
            line = (await reader.readuntil(b"\r\n")).decode()
            verb = line[:4].upper()
            if verb == "EHLO":
                writer.write(b"250-sink.example\r\n250-PIPELINING\r\n250 8BITMIME\r\n")
                continue
            if verb == "QUIT":
                writer.write(b"221 bye\r\n")
                return
            if verb == "DATA":
                writer.write(b"354 go on\r\n")
                self._arrived(epoch, sender, paths, await _content(reader))
                paths = []
            elif verb == "MAIL":
                sender, paths = _path(line), []
            elif verb == "RCPT":
                paths.append(_path(line))
            writer.write(b"250 ok\r\n")

    def _arrived(self, epoch: int, sender: str, paths: list[str], content: bytes) -> None:
        original = content[content.index(b"Subject: ") :]  # behind the relay's Received field
        if hashlib.sha256(original).digest() != self.digests[sender]:
            self.damaged.append(sender)
        for path in paths:
            self.arrivals[sender, path].append(epoch)
        self.on_arrival()


async def _content(reader: asyncio.StreamReader) -> bytes:
    """The message, without dot-stuffing."""
    octets = b"\r\n" + await reader.readuntil(b"\r\n.\r\n")
    return octets.replace(b"\r\n..", b"\r\n.").removeprefix(b"\r\n").removesuffix(b".\r\n")


def _path(line: str) -> str:
    return line[line.index("<") + 1 : line.index(">")]
