"""Forged senders: what of a thousand bounces leaves, whatever is refused."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from egressguard.mail.outcome import permanent
from egressguard.relay import queue
from egressguard.relay.metrics import NOTICES
from tests.relay.setting import message_to, policy_of
from tests.relay.test_queue import House, Sender, house

ALL = ("SUCCESS", "FAILURE", "DELAY")
REFUSED = permanent("5.1.1", "no such user", "mx.one.example")
RULE = {"per_address": 10, "per_client": 20, "in_all": 50}


async def flood(here: House, senders: Sequence[str], client: str, notify: tuple[str, ...] | None, first: int) -> None:
    for number, sender in enumerate(senders):
        message = message_to("nobody@one.example", number=first + number, reverse_path=sender, notify=notify)
        await here.spool.put(replace(message, client=client))
    here.queue.wake()


async def all_settled(here: House, attempts: int, notices: int) -> None:
    """The messages, and the notices about them."""
    await here.until(lambda: len(here.events) >= attempts + notices, seconds=60)


def fates(here: House) -> dict[str, float | None]:
    return {fate: here.metric("dsns_total", fate=fate) for fate in NOTICES}


@pytest.mark.parametrize("notify", [None, ALL])
def test_a_thousand_forged_senders_get_no_more_than_the_rules_allow(
    tmp_path: Path, notify: tuple[str, ...] | None
) -> None:
    async def walk() -> None:
        sender = Sender({"mx.one.example": REFUSED})
        async with house(tmp_path, policy_of(relay={"dsn": RULE}), send=sender) as here:
            await flood(here, [f"victim{n}@two.example" for n in range(500)], "192.0.2.1", notify, 1)
            await flood(here, [f"victim{n}@two.example" for n in range(500)], "192.0.2.2", notify, 501)
            await all_settled(here, 1000, 40)
            left = [paths for host, paths in sender.sent if host == "mx.two.example"]
            assert len(left) == 2 * RULE["per_client"]
            assert fates(here) == {"told": 40, "over-limit": 960, "undeliverable": 0}
            assert not await here.waiting()

    asyncio.run(walk())


def test_one_victim_is_spared_and_another_host_still_hears(tmp_path: Path) -> None:
    async def walk() -> None:
        sender = Sender({"mx.one.example": REFUSED})
        async with house(tmp_path, policy_of(relay={"dsn": RULE}), send=sender) as here:
            await flood(here, ["victim@two.example"] * 100, "192.0.2.1", None, 1)
            await all_settled(here, 100, 10)
            await flood(here, ["honest@two.example"], "192.0.2.2", None, 101)
            await all_settled(here, 111, 1)
            assert fates(here)["told"] == RULE["per_address"] + 1

    asyncio.run(walk())


@pytest.mark.parametrize("notify", [None, ALL, ("SUCCESS",), ("NEVER",)])
def test_a_notice_that_cannot_be_delivered_is_dropped_and_seen(tmp_path: Path, notify: tuple[str, ...] | None) -> None:
    """Nobody is told of it, whatever was asked for: not the postmaster, not its sender, which has no address."""

    async def walk() -> None:
        sender = Sender({"mx.one.example": REFUSED, "mx.two.example": permanent("5.1.1", "neither", "mx")})
        async with house(tmp_path, send=sender) as here:
            await flood(here, [""] * 3 + ["victim@two.example"] * 2, "192.0.2.1", notify, 1)
            told = 2 if notify in {None, ALL} else 0
            await all_settled(here, 5, told)
            assert [host for host, _ in sender.sent].count("mx.two.example") == told
            assert fates(here) == {"told": told, "over-limit": 0, "undeliverable": 3 + told}
            assert not await here.waiting()

    asyncio.run(walk())


def test_no_sender_never_hears_of_success(tmp_path: Path) -> None:
    async def walk() -> None:
        sender = Sender()
        async with house(tmp_path, send=sender) as here:
            await flood(here, ["", "a@two.example"], "192.0.2.1", ("SUCCESS",), 1)
            await all_settled(here, 2, 1)
            assert [paths for host, paths in sender.sent if host == "mx.two.example"] == [("a@two.example",)]
            assert fates(here)["told"] == 1

    asyncio.run(walk())


def test_a_notice_waits_for_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "LONGEST_SLEEP_SECONDS", 1000.0)

    async def walk() -> None:
        sender = Sender({"mx.one.example": REFUSED})
        async with house(tmp_path, send=sender) as here:
            await flood(here, ["a@two.example"], "192.0.2.1", None, 1)
            await all_settled(here, 1, 1)
            assert ("mx.two.example", ("a@two.example",)) in sender.sent

    asyncio.run(walk())
