"""Questions to the spool's database on a connection and a thread of their own.

Contract
    An answer is what was committed when the question was put. However long it takes, writing goes on.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, Protocol, TypeVar

from egressguard.store.interface import SpoolBroken

T = TypeVar("T")


class Closable(Protocol):
    def close(self) -> None: ...


Connection = TypeVar("Connection", bound=Closable)


class Reader(Generic[Connection]):
    """Owns the connection from now on."""

    def __init__(self, db: Connection) -> None:
        self._db = db
        self._thread = ThreadPoolExecutor(1, "spool-reader")
        self._closed = False

    async def ask(self, question: Callable[[Connection], T]) -> T:
        """Raises SpoolBroken when the database cannot be read."""
        if self._closed:
            raise SpoolBroken("closed")
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, question, self._db)
        except sqlite3.Error as wrong:
            raise SpoolBroken(f"{type(wrong).__name__}: {wrong}") from wrong

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._thread.shutdown()
            self._db.close()
