"""One connection to PostgreSQL that store.statements can use: opened when it is needed, given up when it fails.

Contract
    A Session belongs to one thread. What happens to a connection is SpoolAway: nothing is known of what was under way,
    and the next use begins a new one, RETRY_SECONDS later at the earliest. A full disk is SpoolFull. Trouble with one
    statement (psycopg.IntegrityError, psycopg.DataError) goes to whoever asked for it.
    Every wait has an end: to connect, for a statement, for a peer that says nothing.
    The URL's password stands in no message: libpq does not repeat it, and neither do we.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any, TypeVar

import psycopg
import psycopg.errors
import psycopg.pq

from egressguard.store.interface import SpoolAway, SpoolFull
from egressguard.store.statements import Rows

T = TypeVar("T")

CONNECT_SECONDS = 5
STATEMENT_SECONDS = 20
SILENCE_SECONDS = 15
ANSWER_SECONDS = 30
"""The server's own time-outs are no help where the server hangs."""
RETRY_SECONDS = 1.0

OWN_FAULT = (psycopg.IntegrityError, psycopg.DataError, psycopg.ProgrammingError, psycopg.NotSupportedError)
"""A statement, or its values; the rest of psycopg.Error is about the database."""

_PLACES = re.compile(r"\?([0-9]*)")
_LIST = ("(SELECT value FROM json_each(?))", "(SELECT jsonb_array_elements_text(CAST(? AS jsonb)))")


class _Connection(psycopg.Connection[Any]):
    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        """As psycopg's, which would wait for ever. Raises psycopg.OperationalError."""
        return super().wait(gen, interval, ANSWER_SECONDS if timeout is None else timeout)


class Session:
    """statements.Database on `url` (libpq's); `greet` is called with each new connection before it is used."""

    def __init__(self, url: str, greet: Callable[[psycopg.Connection[Any]], None]) -> None:
        self._url = url
        self._greet = greet
        self._connection: psycopg.Connection[Any] | None = None
        self._not_before = 0.0

    @property
    def is_open(self) -> bool:
        return self._connection is not None

    def transaction(self, work: Callable[[Session], T]) -> T:
        """Run `work` between BEGIN and COMMIT. Raises SpoolAway, SpoolFull, and what `work` raises."""
        try:
            connection = self._open()
            with connection.transaction():
                return work(self)
        except OWN_FAULT:
            raise
        except psycopg.errors.DiskFull as wrong:
            raise SpoolFull(f"the database's disk is full: {_words(wrong)}") from wrong
        except psycopg.Error as wrong:
            self._give_up()
            raise SpoolAway(_words(wrong)) from wrong

    def alone(self, work: Callable[[], T]) -> T:
        """Run a part of a transaction so that its failure undoes only itself."""
        assert self._connection is not None
        with self._connection.transaction():
            return work()

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def execute(self, sql: str, parameters: Sequence[Any] = (), /) -> Rows:
        assert self._connection is not None
        query, named = translated(sql)
        given = {f"p{n}": value for n, value in enumerate(parameters, 1)} if named else parameters
        return self._connection.execute(query, given)

    def executemany(self, sql: str, parameters: Iterable[Sequence[Any]], /) -> Rows:
        assert self._connection is not None
        cursor = self._connection.cursor()
        cursor.executemany(translated(sql)[0], list(parameters))
        return cursor

    def _open(self) -> psycopg.Connection[Any]:
        if self._connection is not None:
            return self._connection
        if time.monotonic() < self._not_before:
            raise SpoolAway("the database is away")
        self._not_before = time.monotonic() + RETRY_SECONDS
        connection = _Connection.connect(
            self._url,
            autocommit=True,
            connect_timeout=CONNECT_SECONDS,
            keepalives_idle=SILENCE_SECONDS,
            keepalives_interval=SILENCE_SECONDS // 3,
            tcp_user_timeout=SILENCE_SECONDS * 1000,
            application_name="egressguard",
        )
        try:
            connection.execute("SET synchronous_commit = on")
            connection.execute(f"SET statement_timeout = {STATEMENT_SECONDS * 1000}".encode())
            self._greet(connection)
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        return connection

    def _give_up(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self._not_before = time.monotonic() + RETRY_SECONDS


@lru_cache(100)
def translated(sql: str) -> tuple[bytes, bool]:
    """(a statement of store.statements as psycopg takes it, whether its parameters have names)."""
    text = sql.replace(*_LIST).replace("%", "%%")
    named = bool(re.search(r"\?[0-9]", text))
    return _PLACES.sub(r"%(p\1)s" if named else "%s", text).encode(), named


def _words(wrong: psycopg.Error) -> str:
    return " ".join(str(wrong).split())[:300] or type(wrong).__name__
