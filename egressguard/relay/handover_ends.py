"""The two ends of the handover: the desk that hands mail over, and the store that takes it.

Contract
    See relay.handover. The desk's end looks like a queue and a quarantine to relay.accept: what goes wrong comes as
    the same exceptions (SpoolFull, SpoolBroken, OSError).
    The store's end works on while the desk's process is gone: what was begun is finished, nobody hears of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from egressguard.relay.handover import (
    Frames,
    HandoverLost,
    Head,
    content_from_frame,
    content_to_frame,
    message_from_frame,
    message_to_frame,
)
from egressguard.store.content import Content
from egressguard.store.free_space import FreeSpace
from egressguard.store.interface import NewMessage, SpoolAway, SpoolBroken, SpoolFull

log = logging.getLogger(__name__)

_ERRORS: Mapping[str, type[Exception]] = {
    "away": SpoolAway,
    "full": SpoolFull,
    "broken": SpoolBroken,
    "trouble": OSError,
}


class Handover:
    """The desk's end. `room` is what it looks at before it takes a message."""

    def __init__(self, room: FreeSpace) -> None:
        self.room = room
        self._numbers = itertools.count()
        self._waiting: dict[int, asyncio.Future[Head]] = {}
        self._frames: Frames | None = None

    async def connect(self, path: Path, lost: Callable[[], None]) -> None:
        """`lost` is called when the other end goes away. Raises OSError."""

        def gone() -> None:
            waiting, self._waiting = self._waiting, {}
            for future in waiting.values():
                if not future.done():
                    future.set_exception(HandoverLost("the relay's store is gone"))
            lost()

        loop = asyncio.get_running_loop()
        _, self._frames = await loop.create_unix_connection(lambda: Frames(self._heard, gone), str(path))

    def close(self) -> None:
        if self._frames is not None:
            self._frames.close()

    def has_room(self, size_octets: int) -> bool:
        return self.room.has(size_octets)

    async def put(self, message: NewMessage) -> str:
        """As relay.queue.Queue.put. Raises SpoolFull, SpoolBroken, OSError."""
        head, body = message_to_frame(message)
        return str((await self._ask({"put": head}, body))["queue_id"])

    async def hold(self, queue_id: str, folder: str, content: Content, facts: Mapping[str, Any]) -> None:
        """As quarantine.hold.Quarantine.hold. Raises OSError."""
        described, body = content_to_frame(content)
        await self._ask({"hold": [queue_id, folder, described, facts]}, body)

    async def _ask(self, request: Head, body: bytes) -> Head:
        if self._frames is None:
            raise HandoverLost("not connected")
        number = next(self._numbers)
        future: asyncio.Future[Head] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        try:
            self._frames.send(request | {"id": number}, body)
            answer = await future
        finally:
            self._waiting.pop(number, None)
        if (error := answer.get("error")) is not None:
            raise _ERRORS.get(error, OSError)(answer["words"])
        return answer

    def _heard(self, head: Head, _body: bytes) -> None:
        future = self._waiting.get(head["id"])
        if future is not None and not future.done():
            future.set_result(head)


class Taker(Protocol):
    """relay.queue.Queue, as far as it is used here."""

    async def put(self, message: NewMessage) -> str: ...


Hold = Callable[[str, str, Content, Mapping[str, Any]], Awaitable[None]]


class HandoverServer:
    """The store's end."""

    def __init__(self, taker: Taker, hold: Hold) -> None:
        self._taker = taker
        self._hold = hold
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def start(self, path: Path) -> None:
        """Raises OSError."""
        await asyncio.to_thread(path.unlink, missing_ok=True)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(self._desk, str(path))
        await asyncio.to_thread(path.chmod, 0o600)

    async def stop(self) -> None:
        """Finish what was begun."""
        if self._server is not None:
            self._server.close()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _desk(self) -> Frames:
        frames = Frames(lambda head, body: self._heard(frames, head, body), lambda: None)
        return frames

    def _heard(self, frames: Frames, head: Head, body: bytes) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(frames, head, body))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, frames: Frames, head: Head, body: bytes) -> None:
        answer = await self._answer(head, body)
        with contextlib.suppress(HandoverLost):  # the desk is gone, and its client with it: it will come again
            frames.send(answer | {"id": head["id"]})

    async def _answer(self, head: Head, body: bytes) -> Head:
        try:
            if "put" in head:
                return {"queue_id": await self._taker.put(message_from_frame(head["put"], body))}
            queue_id, folder, content, facts = head["hold"]
            await self._hold(queue_id, folder, content_from_frame(content, body), facts)
        except SpoolAway as wrong:
            return {"error": "away", "words": str(wrong)}
        except SpoolFull as wrong:
            return {"error": "full", "words": str(wrong)}
        except SpoolBroken as wrong:
            return {"error": "broken", "words": str(wrong)}
        except Exception as wrong:  # whatever it was: the client hears 451, and the log the rest
            log.exception("a message was not taken over")
            return {"error": "trouble", "words": f"{type(wrong).__name__}: {wrong}"}
        return {}
