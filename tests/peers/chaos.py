"""A line that cannot be relied on: a proxy that delays, cuts, half-closes and dribbles, each connection in its own way.

Contract
    What passes is passed in order and unchanged; what is lost is the end of it.
    The way of each connection is drawn from `chance`, so that a run can be had again. Nothing outlives `running`.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

PIECE_OCTETS = 4096
DELAY_SECONDS = 0.002


@dataclass(frozen=True, slots=True)
class Way:
    """`passes` octets of one direction, then `end`: "cut" (of both), "half" (of this one) or "" (none)."""

    end: str = ""
    passes: int = 0
    upwards: bool = True
    piece_octets: int = PIECE_OCTETS
    delay_seconds: float = 0


def drawn(chance: random.Random) -> Way:
    """Each connection ends in the middle of something; a third is slow, two thirds dribble for a while."""
    upwards = chance.random() < 0.5
    most_octets = chance.choice([1000, 5000, 25_000]) // (1 if upwards else 20)  # replies are short
    return Way(
        end=chance.choice(["cut", "half"]),
        passes=chance.randrange(most_octets),
        upwards=upwards,
        piece_octets=chance.choice([1, 7, PIECE_OCTETS]),
        delay_seconds=chance.choice([0, 0, DELAY_SECONDS]),
    )


@dataclass
class Chaos:
    """Stands before 127.0.0.1:`behind`. `calm`: everything passes."""

    behind: int
    chance: random.Random
    calm: bool = False
    port: int = 0
    ways: list[Way] = field(default_factory=list)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Chaos]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._tasks: set[asyncio.Task[None]] = set()
        try:
            yield self
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        way = Way() if self.calm else drawn(self.chance)
        self.ways.append(way)
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.behind)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pass(reader, far_writer, way, ends=way.upwards))
                group.create_task(self._pass(far_reader, writer, way, ends=not way.upwards))
        except* (ConnectionError, _Cut):
            pass
        finally:
            for end in (writer, far_writer):
                end.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: Way, *, ends: bool) -> None:
        left = way.passes if ends and way.end else None
        while octets := await reader.read(PIECE_OCTETS):
            octets, left = (octets, None) if left is None else (octets[:left], left - len(octets))
            await _write(writer, octets, way)
            if left is not None and left <= 0:
                break
        if left is not None and left <= 0 and way.end == "cut":
            raise _Cut
        writer.write_eof()


class _Cut(Exception):
    """Both directions are over."""


async def _write(writer: asyncio.StreamWriter, octets: bytes, way: Way) -> None:
    """In small pieces for the first few hundred of them: a megabyte octet by octet proves no more."""
    small = octets[: 200 * way.piece_octets] if way.piece_octets < PIECE_OCTETS else octets
    for start in range(0, len(small), way.piece_octets):
        writer.write(small[start : start + way.piece_octets])
        await writer.drain()
        await asyncio.sleep(0)
    await asyncio.sleep(way.delay_seconds)
    if len(small) < len(octets):
        writer.write(octets[len(small) :])
        await writer.drain()
