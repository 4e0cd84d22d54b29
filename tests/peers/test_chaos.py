"""A line that cuts, half-closes, delays and dribbles, between our relay and a real Postfix: nothing is lost or changed,
and nothing comes twice but what was in doubt."""

from __future__ import annotations

import asyncio
import os
import random
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from egressguard.store.content import Content
from tests.peers.chaos import Chaos
from tests.peers.meeting import HEAD, SENDER, TABLE, Meeting, meeting_with
from tests.peers.mta import PLAIN
from tests.peers.postfix import Postfix
from tests.relay.setting import message_to
from tests.relay.test_queue import House, house

pytestmark = pytest.mark.peers

SEED = int(os.environ.get("EG_CHAOS_SEED", "7"))
MESSAGES = int(os.environ.get("EG_CHAOS_MESSAGES", "60"))
SECONDS = 100
SIZES = (10, 500, 2000, 8000)


@pytest.fixture(scope="module")
def meeting() -> Iterator[Meeting]:
    with meeting_with(Postfix) as met:
        yield met


def content(number: int) -> bytes:
    line = f".{number}\r\n".encode()
    return HEAD + f"X-Number: {number}\r\n\r\n".encode() + line * (SIZES[number % len(SIZES)] // len(line)) + b"end\r\n"


def number_of(arrived: bytes) -> int:
    """Of a message that arrived whole; what was added stands in front."""
    number = int(arrived.partition(b"X-Number: ")[2].partition(b"\r\n")[0])
    assert arrived.endswith(content(number)), f"number {number} was changed"
    return number


async def put_all(here: House) -> None:
    for number in range(MESSAGES):
        made = message_to(f"number{number}@{PLAIN}", number=number, reverse_path=SENDER)
        await here.queue.put(replace(made, content=Content.of(content(number))))


async def run_dry(here: House, chaos: Chaos) -> None:
    """Try what waits again and again, over a line that at last holds."""
    rounds = 0
    while await here.spool.rows(1):
        here.now += 600  # who was left alone is tried again
        await here.queue.retry()
        await asyncio.sleep(0.05)
        rounds += 1
        chaos.calm = rounds > 200


@pytest.mark.parametrize("by", ["clear", "verified"])
def test_nothing_is_lost_or_changed_and_only_what_was_in_doubt_comes_twice(meeting: Meeting, by: str) -> None:
    async def dialogue() -> None:
        chaos = Chaos(meeting.mta.place.port, random.Random(SEED))
        folder = Path(tempfile.mkdtemp(dir=meeting.folder))
        async with asyncio.timeout(SECONDS), chaos.running():
            async with house(folder, meeting.policy(by, chaos.port), resolver=TABLE) as here:
                await put_all(here)
                await run_dry(here, chaos)
                failed = Counter(str(f["recipient"]) for kind, f in here.events if kind == "delivery.transient")
                fates = {kind for kind, _ in here.events if kind.startswith("delivery.")}
                assert fates == {"delivery.transient", "delivery.delivered"}
            messages = meeting.running.hooks.messages
            while len({path for _, envelope, _ in messages for path in envelope.forward_paths}) < MESSAGES:
                await asyncio.sleep(0.02)
        copies = Counter(number_of(arrived) for _, _, arrived in messages)
        assert set(copies) == set(range(MESSAGES))
        for number, count in copies.items():
            assert count <= 1 + failed[f"number{number}@{PLAIN}"], f"number {number} came {count} times"
        assert sum(failed.values()) >= MESSAGES // 4  # else it was no chaos

    meeting.play(dialogue)
