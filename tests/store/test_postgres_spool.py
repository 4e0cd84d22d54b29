"""What only the spool on PostgreSQL promises: several gateways, a database that goes away and comes back."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import psycopg
import pytest

from egressguard.mail.outcome import delivered
from egressguard.store.content import Content
from egressguard.store.draft import Draft
from egressguard.store.interface import Settlement, SpoolAway
from egressguard.store.postgres import session as session_module
from egressguard.store.postgres.schema import MIGRATIONS, migrate
from egressguard.store.postgres.spool import PostgresSpool
from egressguard.store.schema import SchemaTooNew
from tests.store.conftest import LARGE, in_an_hour, message
from tests.store.postgres_server import Server

PATIENCE_SECONDS = 30
HUGE = bytes(range(256)) * 8000  # 2 MB: pieces, and a draft that is a file

T = TypeVar("T")


@pytest.fixture
def url(postgres: Server) -> str:
    return postgres.new_database()


@pytest.fixture
def own_server() -> Iterator[Server]:
    """One that a test may kill."""
    with Server() as server:
        yield server


async def until(ask: Callable[[], Awaitable[T]], seconds: float = PATIENCE_SECONDS) -> T:
    """The answer, as soon as the database is there to give one."""
    async with asyncio.timeout(seconds):
        while True:
            try:
                return await ask()
            except SpoolAway:
                await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def nodes(url: str, folder: Path, count: int = 2) -> AsyncIterator[list[PostgresSpool]]:
    opened = [PostgresSpool(url, folder / str(number)) for number in range(count)]
    try:
        yield opened
    finally:
        for spool in opened:  # not on the loop: it may be the way to the database
            await asyncio.to_thread(spool.close)


def test_two_gateways_never_take_the_same_recipient(url: str, tmp_path: Path) -> None:
    async def walk() -> None:
        async with nodes(url, tmp_path, 3) as spools:
            await asyncio.gather(*(spools[n % 3].put(message(n)) for n in range(300)))
            taken: Counter[str] = Counter()

            async def take(spool: PostgresSpool) -> None:
                while claims := await spool.claim(1000.0, 7, in_an_hour):
                    for claim in claims:
                        taken[claim.queue_id] += 1
                        await spool.settle(Settlement(claim.queue_id, {"b@one.example": delivered("ok")}))

            await asyncio.gather(*(take(spool) for spool in spools))
            assert len(taken) == 300
            assert set(taken.values()) == {1}
            assert await spools[0].rows(10) == []

    asyncio.run(walk())


def test_what_a_dead_gateway_was_trying_is_due_when_its_claim_said(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("egressguard.store.postgres.spool.RELEASE_SECONDS", 0.0)

    async def walk() -> None:
        async with nodes(url, tmp_path) as (one, two):
            await one.put(message())
            assert len(await one.claim(1000.0, 10, in_an_hour)) == 1
            assert await two.claim(9e9, 10, in_an_hour) == []  # the other one lives
            with psycopg.connect(url, autocommit=True) as admin:  # cuts it off, as a dead machine would be
                admin.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND objid = %s",
                    (one._node,),
                )

            async def freed() -> float:
                await two.claim(0.0, 10, in_an_hour)
                due = await two.next_due()
                if due is None:
                    raise SpoolAway("not yet")
                return due

            assert await until(freed) == 4600.0
            assert await two.claim(1000.0, 10, in_an_hour) == []  # no second dial at once
            (claim,) = await two.claim(4600.0, 10, in_an_hour)
            assert claim.recipients[0].attempts == 2
            # The first one was only cut off: it comes back, and what it settles is settled.
            await until(lambda: one.settle(Settlement(claim.queue_id, {"b@one.example": delivered("ok")})))
            assert await two.rows(10) == []

    asyncio.run(walk())


@pytest.mark.parametrize("in_file", [False, True])
def test_large_contents_pass_from_one_gateway_to_another_in_pieces(url: str, tmp_path: Path, in_file: bool) -> None:
    async def walk() -> None:
        async with nodes(url, tmp_path) as (one, two):
            draft = Draft(tmp_path / "0" / "tmp")
            await draft.add(HUGE)
            content = await draft.content() if in_file else Content.of(HUGE)
            put = message(1)
            queue_id = await one.put(
                type(put)(put.queue_id, put.envelope, content.in_front(b"Received: x\r\n"), put.received_at)
            )
            draft.discard()
            for spool in (two, one, two):
                found = await spool.content(queue_id)
                assert found.file is not None
                assert found.size_octets == len(HUGE) + 13
                assert found.whole() == b"Received: x\r\n" + HUGE
            await two.claim(1000.0, 10, in_an_hour)
            await two.settle(Settlement(queue_id, {"b@one.example": delivered("ok")}))
            with pytest.raises(KeyError):
                await two.content(queue_id)
            with psycopg.connect(url) as admin:
                left = admin.execute("SELECT (SELECT count(*) FROM piece), (SELECT count(*) FROM body)").fetchone()
            assert left == (0, 0)

    asyncio.run(walk())
    assert list((tmp_path / "1" / "body").glob("*/*")) == []
    assert list((tmp_path / "1" / "tmp").iterdir()) == []


def test_what_was_acknowledged_survives_the_death_of_the_server(own_server: Server, tmp_path: Path) -> None:
    """Puts go on while it dies and comes back: refused ones may be there or not, acknowledged ones are."""
    url = own_server.new_database()
    acknowledged: set[str] = set()
    refused: set[str] = set()

    async def load(spool: PostgresSpool, first: int, stop: asyncio.Event) -> None:
        number = first
        while not stop.is_set():
            one = message(number, LARGE if number % 10 == 0 else b"small")
            try:
                acknowledged.add(await spool.put(one))
            except SpoolAway:
                refused.add(one.queue_id)
                await asyncio.sleep(0.02)
            number += 8

    async def walk() -> None:
        async with nodes(url, tmp_path, 1) as (spool,):
            for _ in range(3):
                stop, before = asyncio.Event(), len(acknowledged)
                base = 100_000 * (len(acknowledged) + len(refused) + 1)
                loads = [asyncio.create_task(load(spool, base + n, stop)) for n in range(8)]
                async with asyncio.timeout(PATIENCE_SECONDS):
                    while len(acknowledged) < before + 100:
                        await asyncio.sleep(0.01)
                await asyncio.to_thread(own_server.kill)
                async with asyncio.timeout(PATIENCE_SECONDS):
                    while not refused:
                        await asyncio.sleep(0.01)
                await asyncio.to_thread(own_server.start)
                stop.set()
                await asyncio.gather(*loads)
            there = {str(row["queue_id"]) for row in await until(lambda: spool.rows(1_000_000))}
            assert acknowledged <= there
            assert there <= acknowledged | refused
            for queue_id in list(acknowledged)[:20]:
                assert (await spool.content(queue_id)).whole() in (LARGE, b"small")

    asyncio.run(walk())


@contextlib.asynccontextmanager
async def cutting(server: Server, folder: Path) -> AsyncIterator[tuple[str, dict[str, int]]]:
    """A host in front of the server that passes on `left` octets of answers, and then cuts the connection."""
    state = {"left": 1 << 30}

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind = await asyncio.open_unix_connection(server.folder / ".s.PGSQL.5432")

        async def forth() -> None:
            while data := await reader.read(65536):
                behind[1].write(data)

        async def back() -> None:
            while data := await behind[0].read(65536):
                passed = data[: max(state["left"], 0)]
                state["left"] -= len(data)
                writer.write(passed)
                if state["left"] <= 0:
                    return

        tasks = [asyncio.create_task(forth()), asyncio.create_task(back())]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        writer.close()
        behind[1].close()

    folder.mkdir()
    listening = await asyncio.start_unix_server(serve, folder / ".s.PGSQL.5432")
    try:
        yield str(folder), state
    finally:
        listening.close()


def test_a_connection_cut_at_any_octet_of_a_commit_loses_nothing_acknowledged(
    postgres: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After so many octets of the server's answers there are no more: before, in and behind the answer to COMMIT."""
    monkeypatch.setattr(session_module, "RETRY_SECONDS", 0.0)
    url = postgres.new_database()

    async def walk() -> None:
        async with cutting(postgres, tmp_path / "cut") as (host, state):
            through = url.replace(str(postgres.folder), host)
            async with nodes(through, tmp_path, 1) as (spool,):
                acknowledged, refused = [await spool.put(message(1))], []
                for number in range(2, 62):
                    state["left"] = 30 * (number - 1)
                    try:
                        acknowledged.append(await spool.put(message(number)))
                    except SpoolAway:
                        refused.append(number)
                    state["left"] = 1 << 30
                there = [str(row["queue_id"]) for row in await until(lambda: spool.rows(1000))]
                assert len(set(there)) == len(there)
                assert set(acknowledged) <= set(there)
                assert refused
                assert len(acknowledged) > 1

    asyncio.run(walk())


def test_a_statement_that_waits_for_ever_is_no_acknowledgement(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "STATEMENT_SECONDS", 1)

    async def walk() -> None:
        async with nodes(url, tmp_path, 1) as (spool,):
            await spool.put(message(1))
            with psycopg.connect(url) as other:
                other.execute("LOCK TABLE message IN ACCESS EXCLUSIVE MODE")
                with pytest.raises(SpoolAway):
                    await spool.put(message(2))
            queue_id = await until(lambda: spool.put(message(3)))
            assert {row["queue_id"] for row in await spool.rows(10)} == {message(1).queue_id, queue_id}

    asyncio.run(walk())


def test_without_a_server_every_question_is_answered_soon(tmp_path: Path) -> None:
    async def walk() -> None:
        async with nodes(f"postgresql://eg:geheim@/spool?host={tmp_path}", tmp_path, 1) as (spool,):
            started = time.monotonic()
            for ask in (spool.put(message()), spool.claim(1.0, 1, in_an_hour), spool.next_due(), spool.depth()):
                with pytest.raises(SpoolAway) as found:
                    await ask
                assert "geheim" not in str(found.value)
            assert spool.broken is None
            assert time.monotonic() - started < PATIENCE_SECONDS

    asyncio.run(walk())


def test_whoever_only_looks_may_be_the_first_to_come(url: str, tmp_path: Path) -> None:
    async def walk() -> None:
        async with nodes(url, tmp_path, 4) as spools:
            assert await asyncio.gather(*(spool.suppressed(10) for spool in spools)) == [[]] * 4

    asyncio.run(walk())


def test_all_may_begin_at_once_and_a_newer_schema_is_refused(url: str, tmp_path: Path) -> None:
    async def walk() -> None:
        async with nodes(url, tmp_path, 4) as spools:
            await asyncio.gather(*(spool.put(message(n)) for n, spool in enumerate(spools)))
            assert len(await spools[0].rows(10)) == 4

    asyncio.run(walk())
    with psycopg.connect(url, autocommit=True) as admin:
        migrate(admin, (*MIGRATIONS, "ALTER TABLE message ADD colour TEXT"))
        with pytest.raises(SchemaTooNew, match="has schema 3, this program knows 2"):
            migrate(admin)


_OLD_MESSAGE = (
    'INSERT INTO message (id, reverse_path, smtputf8, body_8bit, "binary", requiretls, size_octets, received_at,'
    " client, listener, rule, policy_revision, tags, is_ascii, front)"
    " VALUES (%s, 'a@old.example', false, true, false, false, %s, 1000,"
    " '192.0.2.9', 'lan', 'r', 'abc', 'blue', true, %s) RETURNING number"
)
_OLD_RECIPIENT = (
    "INSERT INTO recipient (message_id, forward_path, destination, state, attempts, next_at, last_status, last_reply,"
    " via, holder) VALUES (%s, %s, 'mx:one.example', %s, %s, %s, '4.2.0', 'later', '', %s)"
)


def fill_1(db: psycopg.Connection[Any]) -> None:
    """As the program with schema 1 left it when its gateway died: one message is being tried."""
    (small,) = db.execute(_OLD_MESSAGE, ("SMALL1", 5, None)).fetchone() or ()
    db.execute("INSERT INTO body VALUES (%s, %s)", (small, b"small"))
    (large,) = db.execute(_OLD_MESSAGE, ("LARGE1", len(LARGE) + 5, b"front")).fetchone() or ()
    for part, octets in enumerate((LARGE[:4000], LARGE[4000:])):
        db.execute("INSERT INTO piece VALUES (%s, %s, %s)", (large, part, octets))
    for row in (
        ("SMALL1", "b@one.example", "queued", 2, 1000.0, None),
        ("SMALL1", "c@one.example", "held", 0, 1000.0, None),
        ("LARGE1", "b@one.example", "trying", 1, 4600.0, 7),
    ):
        db.execute(_OLD_RECIPIENT, row)
    db.execute("INSERT INTO source VALUES ('quarantine:7', 'GONE')")


def test_what_an_older_program_left_waits_on(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("egressguard.store.postgres.spool.RELEASE_SECONDS", 0.0)
    with psycopg.connect(url, autocommit=True) as admin:
        migrate(admin, MIGRATIONS[:1])
        fill_1(admin)

    async def walk() -> None:
        async with nodes(url, tmp_path, 1) as (spool,):
            (claim,) = await until(lambda: spool.claim(1000.0, 10, in_an_hour))
            assert (claim.queue_id, claim.reverse_path, claim.tags) == ("SMALL1", "a@old.example", ("blue",))
            assert [(due.forward_path, due.attempts) for due in claim.recipients] == [("b@one.example", 3)]
            (large,) = await spool.claim(4600.0, 10, in_an_hour)
            assert (large.queue_id, large.recipients[0].attempts) == ("LARGE1", 2)
            assert (await spool.content("SMALL1")).whole() == b"small"
            assert (await spool.content("LARGE1")).whole() == b"front" + LARGE
            states = {row["queue_id"]: [r["state"] for r in row["recipients"]] for row in await spool.rows(10)}
            assert states == {"SMALL1": ["trying", "held"], "LARGE1": ["trying"]}
            assert await spool.put(replace(message(1), source_id="quarantine:7")) == "GONE"
            assert await spool.suppressed(10) == [] == await spool.suspensions()

    asyncio.run(walk())
