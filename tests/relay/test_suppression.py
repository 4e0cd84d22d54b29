"""Who gets on the suppression list, and what becomes of mail to them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from egressguard.mail.outcome import Outcome, delivered, permanent, transient
from egressguard.policy.bounces import Suppression
from egressguard.relay import suppression as module
from egressguard.relay.attempt import Way
from egressguard.relay.suppression import BETWEEN_SECONDS, Suppressions, TooMany
from egressguard.relay.suspension import Suspensions
from egressguard.store.interface import Suppressed
from egressguard.store.spool import SqliteSpool
from tests.relay.setting import policy_of
from tests.relay.test_queue import Sender, house

B, C = "b@one.example", "c@one.example"
UNKNOWN = permanent("5.1.1", "no such user", "mx.one.example")
RULE = Suppression(after=3, for_seconds=7 * 86400)


class List:
    """A list on a spool of its own, at a time that is told to it."""

    def __init__(self, directory: Path) -> None:
        self.spool = SqliteSpool(directory)
        self.events: list[tuple[str, Any]] = []
        self.list = self.again()
        self.now = 1000.0

    def again(self) -> Suppressions:
        """As another start would find it."""
        self.list = Suppressions(self.spool, lambda *event: self.events.append(event))
        return self.list

    async def hear(self, outcome: Outcome, hours: float = 1, path: str = B) -> bool:
        """After so many hours; whether the recipient is on the list now."""
        self.now += hours * 3600
        await self.list.heard(RULE, {path: outcome}, self.now)
        return bool(self.list.refused([path], self.now))


@pytest.mark.parametrize(
    ("outcomes", "listed"),
    [
        ([UNKNOWN] * 2, False),
        ([UNKNOWN] * 3, True),
        ([permanent("5.1.2", "no such domain")] * 3, True),
        ([permanent("5.1.10", "null MX")] * 3, True),
        ([permanent("5.2.1", "disabled", "mx")] * 3, True),
        ([permanent("5.2.2", "full", "mx")] * 9, False),
        ([permanent("5.7.1", "spam", "mx")] * 9, False),
        ([permanent("5.0.0", "no", "mx")] * 9, False),
        ([transient("4.1.1", "not yet", "mx")] * 9, False),
        ([UNKNOWN, UNKNOWN, delivered("ok"), UNKNOWN], False),
        ([UNKNOWN, UNKNOWN, transient("4.4.1", "away"), UNKNOWN], True),
    ],
)
def test_who_is_refused_as_unknown_again_and_again_gets_on_the_list(
    tmp_path: Path, outcomes: list[Outcome], listed: bool
) -> None:
    async def walk() -> None:
        here = List(tmp_path)
        answers = [await here.hear(outcome) for outcome in outcomes]
        assert answers == [False] * (len(outcomes) - 1) + [listed]
        here.spool.close()

    asyncio.run(walk())


def test_many_refusals_in_an_hour_are_one(tmp_path: Path) -> None:
    async def walk() -> None:
        here = List(tmp_path)
        minute = BETWEEN_SECONDS / 3600 / 60
        assert not any([await here.hear(UNKNOWN, hours=minute) for _ in range(59)])
        assert not await here.hear(UNKNOWN)
        assert await here.hear(UNKNOWN)
        here.spool.close()

    asyncio.run(walk())


def test_refusals_that_are_long_ago_do_not_count(tmp_path: Path) -> None:
    async def walk() -> None:
        here = List(tmp_path)
        assert [await here.hear(UNKNOWN, hours=8 * 24) for _ in range(6)] == [False] * 6
        here.spool.close()

    asyncio.run(walk())


def test_it_says_since_when_and_why_until_it_is_over(tmp_path: Path) -> None:
    async def walk() -> None:
        here = List(tmp_path)
        for _ in range(3):
            await here.hear(UNKNOWN)
        refusal = here.list.refused(["B@One.Example", C], here.now)["B@One.Example"]
        assert refusal.status == "5.7.1"
        assert "since Thu, 01 Jan 1970 03:16:40 +0000" in refusal.text
        assert "mx.one.example: no such user" in refusal.text
        assert not here.list.refused([B], here.now + RULE.for_seconds)
        await here.again().load_again(0.0, here.now)
        assert len(here.list) == 1
        await here.again().load_again(0.0, here.now + RULE.for_seconds)
        assert await here.spool.suppressed(10) == []
        here.spool.close()

    asyncio.run(walk())


def test_what_people_put_there_is_known_after_a_restart_and_journalled(tmp_path: Path) -> None:
    async def walk() -> None:
        here = List(tmp_path)
        assert await here.list.add("Bob@X.example", "asked", 0.0, "anna", 1000.0) == Suppressed(
            "bob@x.example", "asked", 1000.0, 0.0
        )
        await here.again().load_again(0.0, 1e12)
        assert here.list.refused(["bob@x.example"], 1e12)
        assert [await here.list.remove("BOB@x.example", "bert") for _ in range(2)] == [True, False]
        assert not here.list.refused(["bob@x.example"], 1e12)
        assert [kind for kind, _ in here.events] == ["suppression.added", "suppression.removed"]
        assert (here.events[0][1]["by"], here.events[1][1]["by"]) == ("anna", "bert")
        here.spool.close()

    asyncio.run(walk())


def test_what_another_gateway_put_there_is_known_after_a_while(tmp_path: Path) -> None:
    async def walk() -> None:
        here = List(tmp_path)
        await here.list.load_again(0.0, 1000.0)
        await here.spool.suppress(Suppressed(B, "", 1000.0, 0.0))
        await here.list.load_again(module.LOOK_SECONDS - 1, 1000.0)
        assert not here.list.refused([B], 1000.0)
        await here.list.load_again(module.LOOK_SECONDS, 1000.0)
        assert here.list.refused([B], 1000.0)
        here.spool.close()

    asyncio.run(walk())


def test_list_and_counting_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ENTRIES", 2)
    monkeypatch.setattr(module, "MAX_COUNTED", 2)

    async def walk() -> None:
        here = List(tmp_path)
        for path in ("a@x", "b@x", "b@x"):
            await here.list.add(path, "", 0.0, "", 0.0)
        with pytest.raises(TooMany):
            await here.list.add("c@x", "", 0.0, "", 0.0)
        for number in range(50):
            await here.hear(UNKNOWN, path=f"{number}@y")
        for _ in range(3):
            assert not await here.hear(UNKNOWN)  # it would be the third on the list
        assert len(here.list) == 2
        here.spool.close()

    asyncio.run(walk())


WAY = Way(("mx",), "one.example", (B, C))


@pytest.mark.parametrize(
    ("listed", "tried"), [((), (B, C)), ((B,), (C,)), (("other@one.example",), (B, C)), ((B, C), None)]
)
def test_a_way_goes_without_those_on_the_list(tmp_path: Path, listed: tuple[str, ...], tried: object) -> None:
    async def walk() -> None:
        here = List(tmp_path)
        for path in listed:
            await here.list.add(path, "", 0.0, "", 0.0)
        way, refused = here.list.parted(WAY, 0.0)
        assert (way.forward_paths if way else None) == tried
        assert set(refused) == set(listed) & {B, C}
        here.spool.close()

    asyncio.run(walk())


class Late:
    """Reads of a spool whose answers come late: when the test says so."""

    def __init__(self, read: Callable[..., Awaitable[Any]]) -> None:
        self._read = read
        self.has_read = asyncio.Event()
        self.let_go = asyncio.Event()

    async def __call__(self, *arguments: Any) -> Any:
        found = await self._read(*arguments)
        self.has_read.set()
        await self.let_go.wait()
        return found

    async def answers_behind(self, look: Awaitable[Any], change: Awaitable[Any]) -> None:
        """The look begins before the change, and hears the answer behind it: unless the change waits for the look."""
        looking = asyncio.ensure_future(look)
        await self.has_read.wait()
        changing = asyncio.ensure_future(change)
        await asyncio.wait((changing,), timeout=0.2)
        self.let_go.set()
        await asyncio.gather(looking, changing)


@pytest.mark.parametrize("added", [True, False])
def test_a_look_that_began_before_a_change_does_not_undo_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, added: bool
) -> None:
    async def walk() -> None:
        here = List(tmp_path)
        orders = Suspensions(here.spool)
        if not added:
            await here.list.add(B, "", 0.0, "", 0.0)
            await orders.add("mx:one.example", "", "", 0.0)
        late = Late(here.spool.suppressed)
        monkeypatch.setattr(here.spool, "suppressed", late)
        change = here.list.add(B, "", 0.0, "", 0.0) if added else here.list.remove(B, "")
        await late.answers_behind(here.list.load_again(0.0, 0.0), change)
        assert bool(here.list.refused([B], 0.0)) == added
        late = Late(here.spool.suspensions)
        monkeypatch.setattr(here.spool, "suspensions", late)
        order = orders.add("mx:one.example", "", "", 0.0) if added else orders.remove("mx:one.example")
        await late.answers_behind(orders.load(0.0), order)
        assert ("mx:one.example" in orders) == added
        here.spool.close()

    asyncio.run(walk())


def test_mail_to_a_suppressed_recipient_bounces_and_nobody_is_dialled(tmp_path: Path) -> None:
    async def walk() -> None:
        sender = Sender()
        async with house(tmp_path, send=sender) as here:
            await here.queue.suppressions.add(B, "asked not to be written to", 0.0, "anna", here.now)
            await here.put(B, number=1)
            await here.settled(1)
            await here.put(B, C, number=2)
            await here.settled(4)  # and the DSN to the first one's sender, whose domain does not exist
            assert [paths for _, paths in sender.sent if "one.example" in paths[0]] == [(C,)]
            told = [(kind, fields["recipient"]) for kind, fields in here.events if "one.example" in str(fields)]
            assert sorted(set(told)) == [("delivery.delivered", C), ("delivery.permanent", B), ("suppression.added", B)]
            assert here.metric("dsns_total", fate="told") == 2
            assert here.metric("suppression_entries") == 1

    asyncio.run(walk())


def test_the_rules_say_whether_recipients_get_there_by_themselves(tmp_path: Path) -> None:
    async def walk(folder: Path, relay: dict[str, Any], expected: int) -> None:
        sender = Sender({"mx.one.example": UNKNOWN})
        async with house(folder, policy_of(relay=relay), send=sender) as here:
            await here.put(B)
            await here.settled(1)
            await here.until(lambda: len(here.queue.suppressions) == expected)

    asyncio.run(walk(tmp_path / "off", {}, 0))
    asyncio.run(walk(tmp_path / "on", {"suppression": {"after": 1}}, 1))
