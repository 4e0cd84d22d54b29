"""Orders about held messages, on disks that fail at every step, by processes that are killed: none lost, none twice."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from egressguard.quarantine.hold import NotFound, Quarantine
from egressguard.quarantine.index import Wanted
from egressguard.quarantine.order import EXPIRE, Order
from egressguard.store.content import Content
from egressguard.store.durable import Disk
from egressguard.store.interface import NewMessage, SpoolAway, SpoolFull
from egressguard.store.spool import SqliteSpool
from tests.quarantine.test_quarantine import CONTENT, ID, hold, quarantine, with_spool

B, C = "b@y.example", "c@y.example"
NAMES = ("open", "write", "fsync", "close", "rename", "unlink")


class Failing:
    """A Disk whose k-th call fails, and whose later ones fail, too, as a dead disk's do, if `stays`."""

    def __init__(self, fail_at: int, *, stays: bool = False) -> None:
        self.calls = 0
        self._fail_at, self._stays = fail_at, stays

    def disk(self) -> type[Disk]:
        return type("FailingDisk", (Disk,), {name: staticmethod(self._counting(name)) for name in NAMES})

    def _counting(self, name: str) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            self.calls += 1
            if self.calls == self._fail_at or (self._stays and self.calls > self._fail_at and name != "close"):
                if name == "close":
                    os.close(*arguments)
                raise OSError(5, "Input/output error")
            return getattr(os, name)(*arguments)

        return call


def addresses(rows: list[dict[str, Any]]) -> list[str]:
    return sorted(one["address"] for row in rows for one in row["recipients"])


async def refused(message: NewMessage, why: str) -> NewMessage | None:
    from egressguard.mail.envelope import Envelope

    envelope = Envelope("", (message.envelope.reverse_path,))
    return NewMessage("NOTICE00001", envelope, Content.of(why.encode()), 1.0)


def opened(root: Path, spool: Any, **others: Any) -> Quarantine:
    return Quarantine(root / "q", spool, lambda _kind, _fields: None, CollectorRegistry(), **others)


STEPS = 24
"""More calls than hold or any order makes: the walk ends behind the last one (a test says so)."""


@pytest.mark.parametrize("stays", [False, True], ids=["once", "for-good"])
@pytest.mark.parametrize("k", range(1, STEPS + 1))
def test_hold_on_a_disk_that_fails_at_step_k_holds_one_or_says_so(tmp_path: Path, k: int, stays: bool) -> None:
    async def work(spool: SqliteSpool) -> None:
        disk = Disk
        failing = Failing(k, stays=stays)
        where = opened(tmp_path, spool)
        where._maildir._disk = failing.disk()
        told = True
        try:
            await hold(where)
        except OSError:
            told = False
        after = opened(tmp_path, spool, disk=disk)  # the process starts anew
        rows = await after.rows()
        found = [row["recipients"] for row in rows]
        # A disk that fails for good cannot take back what it has: the client sends again, and one is held twice.
        assert found == [[B, C]] if told else found in ([[], [[B, C]]] if stays else [[]])
        if rows:
            assert Path((await after.show(ID))["file"]).read_bytes() == CONTENT
        assert told == (failing.calls < k)

    with_spool(tmp_path, work)


@pytest.mark.parametrize(
    ("verb", "stays"),
    [
        ("release", False),
        ("release", True),
        ("reject", True),
        ("delete", False),
        ("release-to", False),
        ("release-some", False),
        ("release-some", True),
    ],
)
@pytest.mark.parametrize("k", range(1, 13))
def test_an_order_on_a_disk_that_fails_at_step_k_is_carried_out_once_or_not_at_all(
    tmp_path: Path, k: int, verb: str, stays: bool
) -> None:
    async def work(spool: SqliteSpool) -> None:
        await hold(opened(tmp_path, spool))
        where = opened(tmp_path, spool, refusal=refused)
        disk = Failing(k, stays=stays).disk()
        where._maildir._disk = disk
        where._orders._disk = disk
        to = ("d@z.example",) if verb == "release-to" else ()
        some = (B,) if verb == "release-some" else ()
        order = Order(verb.partition("-")[0], ID, "x", "no", to, some)
        done = True
        try:
            await where.act(order)
        except OSError:
            done = False
        after = opened(tmp_path, spool, refusal=refused)
        await after.finish()
        held = [row["id"] for row in await after.rows()]
        sent = addresses(await spool.rows(10))
        meant = {"release": [B, C], "reject": ["a@x.example"], "delete": [], "release-to": ["d@z.example"]}
        if verb == "release-some":
            assert (held, sent) in [([ID], [B]), ([ID], [])]
            assert not done or sent == [B]
        else:
            assert (held, sent) in [([], meant[verb]), ([ID], [])]
            assert not done or held == []
        for message_id in held:  # whatever became of it: what is left is released, and nobody has it twice
            await after.release(message_id, "after")
        if verb != "delete" and (held or verb.startswith("release")):
            assert addresses(await spool.rows(10)) == (meant[verb] if not held else [B, C])
        assert list((tmp_path / "q" / "orders").iterdir()) == []

    with_spool(tmp_path, work)


def test_the_walks_reach_behind_the_last_step(tmp_path: Path) -> None:
    async def work(spool: SqliteSpool) -> None:
        counting = Failing(0)
        where = opened(tmp_path, spool, disk=counting.disk())
        before = counting.calls
        await hold(where)
        assert counting.calls - before < STEPS
        before = counting.calls
        await where.release(ID, "x")
        assert 5 < counting.calls - before <= 12

    with_spool(tmp_path, work)


def with_held(tmp_path: Path, work: Callable[[Quarantine, SqliteSpool], Awaitable[None]], **others: Any) -> None:
    async def run(spool: SqliteSpool) -> None:
        where = opened(tmp_path, spool, **others)
        await hold(where)
        await work(where, spool)

    with_spool(tmp_path, run)


def test_released_to_another_address_it_goes_to_nobody_else_and_only_once(tmp_path: Path) -> None:
    async def work(where: Quarantine, spool: SqliteSpool) -> None:
        answer = await where.act(Order("release", ID, "root", "for the lab", ("lab@z.example",)))
        assert answer["recipients"] == ["lab@z.example"]
        assert (await spool.content(answer["queue_id"])).whole() == CONTENT
        assert addresses(await spool.rows(10)) == ["lab@z.example"]
        with pytest.raises(NotFound):
            await where.release(ID, "root")

    with_held(tmp_path, work)


def test_released_to_one_recipient_it_waits_for_the_other(tmp_path: Path) -> None:
    async def work(where: Quarantine, spool: SqliteSpool) -> None:
        await where.act(Order("release", ID, "b", "", (), (B,)))
        assert addresses(await spool.rows(10)) == [B]
        with pytest.raises(NotFound):
            await where.act(Order("release", ID, "b", "", (), (B,)))
        (row,) = await where.rows()
        assert row["released"] == [B]
        await where.release(ID, "root")
        assert addresses(await spool.rows(10)) == [B, C]
        assert await where.rows() == []

    with_held(tmp_path, work)


def test_a_released_message_is_not_held_again(tmp_path: Path) -> None:
    """It goes into the spool, where no rule looks at it: due, and not held."""

    async def work(where: Quarantine, spool: SqliteSpool) -> None:
        await where.release(ID, "root")
        (row,) = await spool.rows(10)
        assert {one["state"] for one in row["recipients"]} == {"queued"}
        (claimed,) = await spool.claim(2e9, 10, lambda _at, _attempts: 3e9)
        assert {due.forward_path for due in claimed.recipients} == {B, C}
        assert await where.rows() == []

    with_held(tmp_path, work)


def test_a_message_whose_envelope_is_lost_is_released_to_somebody_only(tmp_path: Path) -> None:
    async def work(where: Quarantine, spool: SqliteSpool) -> None:
        where.close()
        for file in (tmp_path / "q" / "envelopes").iterdir():
            file.unlink()
        again = opened(tmp_path, spool)
        with pytest.raises(NotFound, match="--to"):
            await again.release(ID, "root")
        await again.act(Order("release", ID, "root", "", ("lab@z.example",)))
        assert addresses(await spool.rows(10)) == ["lab@z.example"]

    with_held(tmp_path, work)


def test_a_full_spool_withdraws_the_order_and_one_that_is_away_does_not(tmp_path: Path) -> None:
    class Trouble:
        def __init__(self, spool: SqliteSpool) -> None:
            self.spool, self.trouble = spool, [SpoolFull("full"), SpoolAway("away")]

        async def put(self, message: NewMessage) -> str:
            if self.trouble:
                raise self.trouble.pop(0)
            return await self.spool.put(message)

    async def work(spool: SqliteSpool) -> None:
        where = opened(tmp_path, Trouble(spool))
        await hold(where)
        orders = tmp_path / "q" / "orders"
        with pytest.raises(SpoolFull):
            await where.release(ID, "x")
        assert list(orders.iterdir()) == []
        with pytest.raises(SpoolAway):
            await where.release(ID, "x")
        with pytest.raises(NotFound, match="earlier order"):  # it may be in the spool: it must not be deleted instead
            await where.delete(ID, "y")
        assert addresses(await spool.rows(10)) == [B, C]
        assert (await where.rows(), list(orders.iterdir())) == ([], [])

    with_spool(tmp_path, work)


def test_expiry_takes_the_old_and_the_oldest_of_too_much_and_says_so(tmp_path: Path) -> None:
    async def work(spool: SqliteSpool) -> None:
        now = [0.0]
        journal: list[tuple[str, Any]] = []
        where = Quarantine(
            tmp_path / "q",
            spool,
            lambda kind, fields: journal.append((kind, dict(fields))),
            CollectorRegistry(),
            clock=lambda: now[0],
        )
        for now[0] in (10.0, 20.0, 30.0, 40.0):
            await hold(where, f"EXPIRE{int(now[0]):04d}")
        assert await where.expire("Infected", 5.0, None) == 0
        assert await where.expire("Denied", 50.0, 0) == 0
        assert await where.expire("Infected", 10.0, None) == 1
        assert await where.expire("Infected", None, 2 * len(CONTENT)) == 1
        assert [row["id"] for row in await where.rows()] == ["EXPIRE0030", "EXPIRE0040"]
        told = [(fields["queue_id"], fields["why"]) for kind, fields in journal if kind == f"quarantine.{EXPIRE}"]
        assert told == [("EXPIRE0010", "kept long enough"), ("EXPIRE0020", "no room for more in this folder")]
        assert await spool.rows(10) == []

    with_spool(tmp_path, work)


def test_a_full_quarantine_defers_and_gives_nothing_up(tmp_path: Path) -> None:
    async def work(spool: SqliteSpool) -> None:
        where = opened(tmp_path, spool, max_octets=2 * len(CONTENT))
        await hold(where, "ROOM000001")
        await hold(where, "ROOM000002")
        with pytest.raises(SpoolFull):
            await hold(where, "ROOM000003")
        await where.delete("ROOM000001", "x")
        await hold(where, "ROOM000004")
        assert [row["id"] for row in await where.rows()] == ["ROOM000002", "ROOM000004"]

    with_spool(tmp_path, work)


def test_everything_is_journaled_with_who_and_why(tmp_path: Path) -> None:
    async def work(spool: SqliteSpool) -> None:
        where, journal = quarantine(tmp_path, spool)
        for verb in ("release", "reject", "delete"):
            await hold(where, f"JOURNAL{verb.upper()}")
            await where.act(Order(verb, f"JOURNAL{verb.upper()}", "anna", f"because {verb}"))
        told = [(kind, fields["by"], fields["why"]) for kind, fields in journal if "by" in fields]
        assert told == [(f"quarantine.{v}", "anna", f"because {v}") for v in ("release", "reject", "delete")]

    with_spool(tmp_path, work)


KILLED = """
import asyncio, sys
from pathlib import Path
from egressguard.quarantine.order import Order
from egressguard.store.spool import SqliteSpool
from tests.quarantine.test_orders import hold, opened, refused
folder, ids = Path(sys.argv[1]), sys.argv[2:]
async def run():
    where = opened(folder, spool, refusal=refused)
    await where.finish()
    for number, one in enumerate(ids):
        await hold(where, one)
        print("held", one, flush=True)
        to = ("d@z.example",) if number % 3 == 1 else ()
        some = ("b@y.example",) if number % 3 == 2 else ()
        await where.act(Order("release", one, "x", "", to, some))
        print("done", one, flush=True)
spool = SqliteSpool(folder / "spool")
asyncio.run(run())
"""
ROUNDS = int(os.environ.get("EGRESSGUARD_KILLS", "4"))
SEED = int(os.environ.get("EGRESSGUARD_SEED", "7"))


def test_killed_at_any_moment_over_and_over_nothing_is_lost_and_nothing_is_sent_twice(tmp_path: Path) -> None:
    """One state directory, killed ROUNDS times in the middle of work."""
    chance = random.Random(SEED)
    said: dict[str, set[str]] = {"held": set(), "done": set()}
    for round_ in range(ROUNDS):
        ids = [f"KILL{round_:04d}N{n:05d}" for n in range(2000)]
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(tmp_path), *ids], stdout=subprocess.PIPE, text=True, env=os.environ
        )
        assert process.stdout is not None
        enough = 1 + chance.randrange(30)
        for number, line in enumerate(process.stdout):
            if line.endswith("\n"):
                verb, one = line.split()
                said[verb].add(one)
            if number == enough:
                process.send_signal(signal.SIGKILL)
        process.stdout.close()
        process.wait()

    async def work(spool: SqliteSpool) -> None:
        where = opened(tmp_path, spool, refusal=refused)
        await where.finish()
        held = {one.message_id: one for one in await where.page(Wanted())}
        got: dict[str, list[str]] = {}
        for (source,) in sources(tmp_path):
            got.setdefault(source.split(":")[1], []).append(source)
        for one in said["held"]:
            assert one in held or one in got, f"{one} is lost"
        for one in said["done"]:
            assert one in got, f"{one} was to be sent"
        assert all(len(found) == 1 for found in got.values())
        for held_one in held.values():
            await where.release(held_one.message_id, "after")
        rows = await spool.rows(100_000)
        sent = addresses(rows)
        assert len(rows) == len({row["queue_id"] for row in rows})
        assert sent.count(B) <= len(said["held"]) + ROUNDS
        partly = [one for one in held.values() if one.facts.get("released")]
        assert sent.count(B) == sent.count(C), "each message went to both, or to somebody else"
        assert partly or ROUNDS == 0

    with_spool(tmp_path, work)


def sources(folder: Path) -> list[tuple[str]]:
    import sqlite3

    db = sqlite3.connect(folder / "spool" / "spool.sqlite")
    try:
        return db.execute("SELECT source_id FROM source WHERE source_id LIKE 'quarantine:%'").fetchall()
    finally:
        db.close()
