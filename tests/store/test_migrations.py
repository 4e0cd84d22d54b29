"""A spool as an older program left it, opened by this one: nothing of what waits is lost or changed.

The older ones are made by the steps as they were released, and filled as those programs did.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from egressguard.store.schema import MIGRATIONS
from egressguard.store.spool import SqliteSpool
from tests.store.conftest import LARGE, in_an_hour

SMALL = b"Subject: small\r\n\r\nwaits\r\n"


def at_version(folder: Path, version: int) -> sqlite3.Connection:
    db = sqlite3.connect(folder / "spool.sqlite", isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    for number, step in enumerate(MIGRATIONS[:version]):
        db.executescript(f"BEGIN; {step} PRAGMA user_version = {number + 1}; COMMIT;")
    return db


_OLD_MESSAGE = (
    "INSERT INTO message (id, reverse_path, smtputf8, body_8bit, size_octets, received_at, client, listener, user,"
    " rule, policy_revision, body{names}) VALUES"
    " (?, 'a@old.example', 0, 1, ?, 1000.0, '192.0.2.9', 'lan', 'anna', 'users', 'abc', ?{places})"
)


def old_message(db: sqlite3.Connection, queue_id: str, body: bytes | None, size: int, *tags: str) -> None:
    query = _OLD_MESSAGE.format(names=", tags" if tags else "", places=", ?" if tags else "")
    db.execute(query, (queue_id, size, body, *tags))


def fill_1(db: sqlite3.Connection, folder: Path) -> None:
    old_message(db, "SMALL1", SMALL, len(SMALL))
    old_message(db, "LARGE1", None, len(LARGE))
    rows = [
        ("SMALL1", "b@one.example", "one.example", "queued", 0, 1000.0, "", ""),
        ("SMALL1", "c@two.example", "two.example", "queued", 3, 5000.0, "4.2.0", "mx: later"),
        ("LARGE1", "b@one.example", "one.example", "trying", 1, 4600.0, "", ""),
    ]
    db.executemany("INSERT INTO recipient VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)
    body_file(folder)


def fill_2(db: sqlite3.Connection, folder: Path) -> None:
    old_message(db, "SMALL1", SMALL, len(SMALL), "bulk seen")
    old_message(db, "LARGE1", None, len(LARGE), "")
    rows = [
        ("SMALL1", "b@one.example", "one.example", "queued", 0, 1000.0, "", "", ""),
        ("SMALL1", "c@two.example", "two.example", "queued", 3, 5000.0, "4.2.0", "mx: later", "provider mx"),
        ("SMALL1", "d@two.example", "two.example", "held", 0, 1000.0, "", "", ""),
        ("LARGE1", "b@one.example", "one.example", "trying", 1, 4600.0, "", "", ""),
    ]
    db.executemany("INSERT INTO recipient VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
    body_file(folder)


def fill_3(db: sqlite3.Connection, folder: Path) -> None:
    insert = (
        "INSERT INTO message (id, reverse_path, smtputf8, body_8bit, binary, requiretls, size_octets, received_at,"
        " client, listener, user, rule, policy_revision, tags, is_ascii, front)"
        " VALUES (?, 'a@old.example', 0, ?, 0, 0, ?, ?, '192.0.2.7', 'lan', ?, ?, 'abc', ?, 0, ?)"
    )
    db.execute(insert, ("SMALL1", 1, len(SMALL), 1000.0, "anna", "users", "blue", None))
    db.execute(insert, ("LARGE1", 0, len(LARGE), 1001.0, None, "lan", "", b""))
    db.execute("INSERT INTO body SELECT number, ? FROM message WHERE id = 'SMALL1'", (SMALL,))
    rows = [
        ("SMALL1", "b@one.example", "mx:one.example", "queued", 0, 1000.0, "", "", "", None, None),
        (
            "SMALL1",
            "c@two.example",
            "provider,mx",
            "queued",
            3,
            5000.0,
            "4.4.1",
            "mx: later",
            "provider mx",
            None,
            None,
        ),
        ("SMALL1", "d@two.example", "mx:two.example", "held", 0, 1000.0, "", "", "", None, None),
        ("LARGE1", "b@one.example", "mx:one.example", "trying", 1, 4600.0, "", "", "", None, None),
    ]
    db.executemany("INSERT INTO recipient VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
    body_file(folder)


def body_file(folder: Path) -> None:
    place = folder / "body" / "E1"
    place.mkdir(parents=True)
    (place / "LARGE1").write_bytes(LARGE)


@pytest.mark.parametrize(("version", "fill"), [(1, fill_1), (2, fill_2), (3, fill_3)])
def test_what_waited_waits_on(version: int, fill: Callable[[sqlite3.Connection, Path], None], tmp_path: Path) -> None:
    db = at_version(tmp_path, version)
    fill(db, tmp_path)
    db.execute("INSERT INTO source VALUES ('quarantine:7', 'GONE')")
    db.close()

    async def walk() -> None:
        spool = SqliteSpool(tmp_path)
        rows = {row["queue_id"]: row for row in await spool.rows(10)}
        assert rows.keys() == {"SMALL1", "LARGE1"}
        small = {r["address"]: r for r in rows["SMALL1"]["recipients"]}
        assert (small["c@two.example"]["attempts"], small["c@two.example"]["last_reply"]) == (3, "mx: later")
        assert small["c@two.example"]["via"] == ("provider mx" if version >= 2 else "")
        assert ("d@two.example" in small) is (version >= 2)
        if version >= 2:
            assert small["d@two.example"]["state"] == "held"
        assert (rows["SMALL1"]["user"], rows["SMALL1"]["rule"]) == ("anna", "users")
        assert (await spool.content("SMALL1")).whole() == SMALL
        assert (await spool.content("LARGE1")).whole() == LARGE
        assert await spool.next_due() == 1000.0
        (first,) = await spool.claim(1000.0, 10, in_an_hour)
        assert (first.queue_id, first.reverse_path, first.body_8bit) == ("SMALL1", "a@old.example", True)
        assert [(r.forward_path, r.attempts) for r in first.recipients] == [("b@one.example", 1)]
        (large,) = await spool.claim(4600.0, 10, in_an_hour)
        assert (large.queue_id, large.recipients[0].attempts) == ("LARGE1", 2)
        (last,) = await spool.claim(5000.0, 10, in_an_hour)
        assert (last.recipients[0].forward_path, last.recipients[0].attempts) == ("c@two.example", 4)
        spool.close()

    asyncio.run(walk())
    kept = sqlite3.connect(tmp_path / "spool.sqlite")
    assert kept.execute("SELECT * FROM source").fetchall() == [("quarantine:7", "GONE")]
    assert kept.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert kept.execute("PRAGMA foreign_key_check").fetchall() == []
    kept.close()
