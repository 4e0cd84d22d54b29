"""A spool for a test, on each engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest

from egressguard.mail.envelope import Envelope
from egressguard.store.content import Content
from egressguard.store.interface import NewMessage, Spool
from egressguard.store.postgres.spool import PostgresSpool
from egressguard.store.queue_id import new_queue_id
from egressguard.store.spool import INLINE_OCTETS, SqliteSpool
from tests.store.postgres_server import Server

LARGE = b"x" * (INLINE_OCTETS + 1)


def message(number: int = 1, content: bytes = b"Subject: x\r\n\r\nhello\r\n", **more: object) -> NewMessage:
    paths = more.pop("forward_paths", ("b@one.example",))
    envelope = Envelope("a@example.org", paths)  # type: ignore[arg-type]
    return NewMessage(new_queue_id(1000.0, number), envelope, Content.of(content), 1000.0, **more)  # type: ignore[arg-type]


def in_an_hour(received_at: float, attempts: int) -> float:
    return received_at + 3600 * attempts


class Opener(Protocol):
    def __call__(self, *, reserve_octets: int = 0) -> Spool:
        """The test's one spool, opened (again)."""
        ...


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    with Server() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgres"])
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Opener:
    if request.param == "sqlite":
        return lambda *, reserve_octets=0: SqliteSpool(tmp_path, reserve_octets=reserve_octets)
    url = request.getfixturevalue("postgres").new_database()
    return lambda *, reserve_octets=0: PostgresSpool(url, tmp_path, reserve_octets=reserve_octets)


@pytest.fixture
def spool(opener: Opener) -> Iterator[Spool]:
    opened = opener()
    yield opened
    opened.close()
