"""Which messages an order means, and what it may do to them in each state, on both engines."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from egressguard.mail.envelope import Envelope
from egressguard.mail.outcome import permanent, transient
from egressguard.store.content import Content
from egressguard.store.interface import BeingTried, NewMessage, Settlement, Spool
from egressguard.store.postgres.spool import PostgresSpool
from egressguard.store.queue_id import new_queue_id
from egressguard.store.selection import WINDOW_MESSAGES, Change, Move, Selection
from egressguard.store.spool import SqliteSpool
from tests.store.conftest import LARGE, in_an_hour

NOW = 5000.0
ONE, TWO, THREE = (new_queue_id(1000.0, number) for number in (1, 2, 3))
B, C, D = "b@one.example", "C@Two.example", "100%_d@two.example"
MESSAGES = (
    (ONE, "a@org.example", 1000.0, (B, C), False),
    (TWO, "", 2000.0, (D,), False),
    (THREE, "A_x@sub.org.example", 3000.0, (B,), True),
)


async def filled(spool: Spool) -> None:
    """ONE's B is being tried and its C waits for another try, TWO's D is new, THREE is held."""
    for queue_id, sender, at, paths, held in MESSAGES:
        places = {path: f"mx:{path.rpartition('@')[2].lower()}" for path in paths}
        envelope = Envelope(sender, paths)
        message = NewMessage(queue_id, envelope, Content.of(b"x"), at, held=held, destinations=places)
        await spool.put(message)
        if queue_id == ONE:
            await spool.claim(1000.0, 10, in_an_hour)
            outcomes = {C: transient("4.2.0", "later", "mx.two.example")}
            await spool.settle(Settlement(ONE, outcomes, {C: 9000.0}, (), "mx:two.example"))


async def states(spool: Spool) -> dict[str, tuple[str, float]]:
    rows = await spool.rows(10)
    return {
        f"{row['queue_id'][-1]} {r['address'][0]}": (r["state"], r["next_at"])
        for row in rows
        for r in row["recipients"]
    }


async def picked(spool: Spool, selection: Selection, limit: int = 1000) -> list[tuple[str, int, int]]:
    found: list[tuple[str, int, int]] = []
    after: int | None = 0
    while after is not None:
        page = await spool.pick(selection, after, limit)
        assert len(page.picked) <= limit
        found += [(one.queue_id, one.recipients, one.trying) for one in page.picked]
        after = page.after
    return found


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def looked_at(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Spool]:
    """One that nobody changes."""
    directory, opened = tmp_path_factory.mktemp("spool"), None
    if request.param == "postgres":
        opened = PostgresSpool(request.getfixturevalue("postgres").new_database(), directory)
    spool: Spool = opened or SqliteSpool(directory)
    asyncio.run(filled(spool))
    yield spool
    spool.close()


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        (Selection(), [(ONE, 2, 1), (TWO, 1, 0), (THREE, 1, 0)]),
        (Selection(queue_ids=(THREE, "NOSUCH", ONE)), [(ONE, 2, 1), (THREE, 1, 0)]),
        (Selection(queue_ids=()), []),
        (Selection(queue_ids=("' OR 1=1 --",)), []),
        (Selection(sender="A@ORG.example"), [(ONE, 2, 1)]),
        (Selection(sender="*@org.example"), [(ONE, 2, 1)]),
        (Selection(sender="axx@sub.org.example"), []),  # _ is no joker
        (Selection(sender="a_x@sub.org.example"), [(THREE, 1, 0)]),
        (Selection(sender=""), [(TWO, 1, 0)]),
        (Selection(recipient=B), [(ONE, 1, 1), (THREE, 1, 0)]),
        (Selection(recipient="*@two.EXAMPLE"), [(ONE, 1, 0), (TWO, 1, 0)]),
        (Selection(recipient="%d@two.example"), []),
        (Selection(recipient=D), [(TWO, 1, 0)]),
        (Selection(destination="mx:one.example"), [(ONE, 1, 1), (THREE, 1, 0)]),
        (Selection(destination="two.example"), [(ONE, 1, 0), (TWO, 1, 0)]),
        (Selection(destination="nowhere"), []),
        (Selection(state="active"), [(ONE, 1, 1)]),
        (Selection(state="deferred"), [(ONE, 1, 0)]),
        (Selection(state="incoming"), [(TWO, 1, 0)]),
        (Selection(state="held"), [(THREE, 1, 0)]),
        (Selection(received_before=2000.0), [(ONE, 2, 1), (TWO, 1, 0)]),
        (Selection(received_after=2000.0), [(TWO, 1, 0), (THREE, 1, 0)]),
        (Selection(sender="a@org.example", recipient=C, state="deferred"), [(ONE, 1, 0)]),
        (Selection(sender="a@org.example", recipient=D), []),
        (Selection(queue_ids=(ONE,), recipient=C), [(ONE, 1, 0)]),
    ],
    ids=str,
)
@pytest.mark.parametrize("limit", [1, 1000])
def test_a_selection_means(
    looked_at: Spool, selection: Selection, limit: int, expected: Sequence[tuple[str, int, int]]
) -> None:
    assert asyncio.run(picked(looked_at, selection, limit)) == list(expected)


UNTOUCHED = {
    "1 b": ("trying", 4600.0),
    "1 C": ("queued", 9000.0),
    "2 1": ("queued", 2000.0),
    "3 b": ("held", 3000.0),
}


@pytest.mark.parametrize(
    ("move", "becomes", "messages"),
    [
        (Move.RETRY, {"1 C": ("queued", NOW), "2 1": ("queued", NOW)}, {ONE: 1, TWO: 1}),
        (Move.HOLD, {"1 C": ("held", 9000.0), "2 1": ("held", 2000.0)}, {ONE: 1, TWO: 1}),
        (Move.RELEASE, {"3 b": ("queued", NOW)}, {THREE: 1}),
        (Move.REROUTE, {"1 C": ("queued", NOW), "2 1": ("queued", NOW)}, {ONE: 1, TWO: 1, THREE: 1}),
        (Move.DELETE, dict.fromkeys(UNTOUCHED), {ONE: 2, TWO: 1, THREE: 1}),
    ],
)
def test_a_move_does_what_the_table_says(
    spool: Spool, move: Move, becomes: dict[str, Any], messages: dict[str, int]
) -> None:
    async def walk() -> None:
        await filled(spool)
        changed = await spool.change(Selection(), [ONE, TWO, THREE], Change(move, NOW, ("backup",)))
        assert changed.recipients == messages
        assert changed.trying == (1 if move is Move.DELETE else 0)
        expected = {key: state for key, state in (UNTOUCHED | becomes).items() if state is not None}
        assert await states(spool) == expected

    asyncio.run(walk())


def test_a_move_leaves_the_other_recipients_and_messages_alone(spool: Spool) -> None:
    async def walk() -> None:
        await filled(spool)
        changed = await spool.change(Selection(recipient=C), [ONE, TWO], Change(Move.DELETE, NOW))
        assert changed.recipients == {ONE: 1}
        assert set(await states(spool)) == {"1 b", "2 1", "3 b"}

    asyncio.run(walk())


def test_a_selection_by_state_is_asked_again_when_it_is_changed(spool: Spool) -> None:
    async def walk() -> None:
        await filled(spool)
        await spool.claim(2000.0, 10, in_an_hour)  # D is taken between the look and the order
        changed = await spool.change(Selection(state="incoming"), [TWO], Change(Move.DELETE, NOW))
        assert changed.recipients == {}

    asyncio.run(walk())


def test_what_is_rerouted_goes_by_the_new_way_and_back_by_the_routes(spool: Spool) -> None:
    async def walk() -> None:
        await filled(spool)
        for via in (("backup", "other"), ()):
            await spool.change(Selection(), [TWO], Change(Move.REROUTE, NOW, via))
            (claim,) = await spool.claim(NOW, 10, in_an_hour, skip={"mx:two.example"})  # it goes there no more
            assert [due.via for due in claim.recipients] == [via]
            await spool.unclaim(TWO, [D], NOW, "mx:two.example")

    asyncio.run(walk())


def test_a_deleted_message_takes_its_file_along(tmp_path: Any, spool: Spool) -> None:
    async def walk() -> None:
        await spool.put(NewMessage(ONE, Envelope("a@org.example", (B,)), Content.of(LARGE), 1000.0))
        await spool.change(Selection(), [ONE], Change(Move.DELETE, NOW))
        with pytest.raises(KeyError):
            await spool.content(ONE)

    asyncio.run(walk())
    assert not [path for path in tmp_path.glob("body/*/*") if path.is_file()]


def test_what_waits_is_given_up_with_its_notice_and_what_is_being_tried_is_not(spool: Spool) -> None:
    async def walk() -> None:
        await filled(spool)
        claims = await spool.waiting(Selection(), [ONE, TWO, THREE])
        assert [(c.queue_id, [r.forward_path for r in c.recipients]) for c in claims] == [
            (ONE, [C]),
            (TWO, [D]),
            (THREE, [B]),
        ]
        notice = NewMessage("DSN1", Envelope("", ("a@org.example",)), Content.of(b"sorry"), NOW, source_id="dsn:1")
        both = dict.fromkeys((B, C), permanent("5.7.1", "no"))
        with pytest.raises(BeingTried):
            await spool.give_up(Settlement(ONE, both, notices=(notice,)))
        assert await states(spool) == UNTOUCHED
        await spool.give_up(Settlement(ONE, {C: permanent("5.7.1", "no")}, notices=(notice,)))
        await spool.give_up(Settlement(THREE, {B: permanent("5.7.1", "no")}))
        left = await states(spool)
        assert {"1 b", "2 1"} <= set(left) and "1 C" not in left and "3 b" not in left
        assert [row["queue_id"] for row in await spool.rows_of(["DSN1", THREE])] == ["DSN1"]

    asyncio.run(walk())


def test_a_long_queue_is_looked_at_in_windows(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("egressguard.store.selection.WINDOW_MESSAGES", 3)
    assert WINDOW_MESSAGES > 3

    async def walk() -> None:
        ids = [new_queue_id(1000.0, number) for number in range(20)]
        for queue_id in ids:
            await spool.put(NewMessage(queue_id, Envelope(f"{queue_id}@x.example", (B,)), Content.of(b"x"), 1000.0))
        await spool.delete(ids[4])
        newest = await spool.newest()
        assert [one for one, _, _ in await picked(spool, Selection())] == [one for one in ids if one != ids[4]]
        assert [one for one, _, _ in await picked(spool, Selection(sender=f"{ids[17]}@x.example"))] == [ids[17]]
        page = await spool.pick(Selection(sender="nobody@x.example"), 0, 10)
        assert page.picked == () and page.after is not None and page.after < newest

    asyncio.run(walk())
