"""What a session leaves behind when it is over: nothing that only the garbage collector could find.

Thousands of connections a second would otherwise be thousands of walks over all that the process has.
"""

from __future__ import annotations

import asyncio
import gc
from collections import Counter

from egressguard.smtp.dialogue import Dialogue
from egressguard.smtp.engine import Engine
from egressguard.smtp.wire import Wire
from tests.smtp.conftest import Stand
from tests.smtp.test_server import begin, until

SESSIONS = 5


def alive() -> Counter[str]:
    return Counter(type(thing).__name__ for thing in gc.get_objects() if isinstance(thing, Engine | Wire | Dialogue))


async def converse(stand: Stand) -> None:
    async with stand.serve() as running:
        gc.collect()
        before = alive()
        for number in range(SESSIONS):
            async with stand.client(running) as client:
                await begin(client)
                assert await client.say(f"Subject: {number}\r\n\r\nx\r\n.") == "250 2.0.0 Taken"
                if number % 2:
                    assert (await client.say("QUIT"))[:3] == "221"
            await until(lambda: not running.server._sessions)
            del client
        await until(lambda: not alive() - before)


def test_an_ended_session_is_gone_without_the_collector(stand: Stand) -> None:
    gc.disable()
    try:
        asyncio.run(converse(stand))
    finally:
        gc.enable()
