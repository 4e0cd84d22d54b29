"""The spool's write-ahead log and the disk: what SQLite itself would wait for at each COMMIT, apart from it.

Contract
    What was committed before `sync` began is on the disk when it returns. A failed sync says so to every one that was
    under way or comes later: each lane has a descriptor of its own, and the kernel tells an error once to each.
    A checkpoint needs the connection for itself; syncs may go on meanwhile.

With synchronous=NORMAL a COMMIT is written, not synced, and a checkpoint syncs log and database as with FULL
(https://www.sqlite.org/pragma.html#pragma_synchronous).
"""

from __future__ import annotations

import os
import queue
import sqlite3
from pathlib import Path

from egressguard.store.schema import give_back_free_pages

LARGE_LOG_OCTETS, SMALL_LOG_OCTETS = 16 * 1024 * 1024, 4 * 1024 * 1024
"""A checkpoint is due when the log has grown so far. A large one is left in its place, and written over: that is on the
disk sooner than what is added to a file. While it is moved its contents exist twice."""
PLENTY_OCTETS = 8 * LARGE_LOG_OCTETS
"""With less free space the log is small, and gives its space back whenever it was moved."""
SPARE_PAGES = 2000
"""Free pages the file may keep; more are given back to the file system, which others fill too."""


class Wal:
    """The log of an open database in WAL mode without automatic checkpoints."""

    def __init__(self, db: sqlite3.Connection, path: Path, lanes: int) -> None:
        """`path` is the database's. Raises OSError, sqlite3.Error."""
        self._db = db
        db.execute("PRAGMA synchronous = NORMAL")
        self._folder = path.parent
        self.due_octets = SMALL_LOG_OCTETS
        self._look_for_room()
        self._begin()
        self._lanes: queue.SimpleQueue[int] = queue.SimpleQueue()
        for _ in range(lanes):
            self._lanes.put(os.open(f"{path}-wal", os.O_RDWR | os.O_CLOEXEC))

    def close(self) -> None:
        while not self._lanes.empty():
            os.close(self._lanes.get())

    def sync(self) -> None:
        """Raises OSError."""
        lane = self._lanes.get()
        try:
            os.fdatasync(lane)
        finally:
            self._lanes.put(lane)

    def checkpoint(self, *, give_back: bool) -> None:
        """Move the log into the database, and see its errors (SQLite's own checkpoints hide them).

        `give_back`: the log's own space, too, however much is free. Raises sqlite3.Error, OSError."""
        self._look_for_room()
        mode = "TRUNCATE" if give_back or self.due_octets < LARGE_LOG_OCTETS else "RESTART"
        self._move(mode)
        if self._db.execute("PRAGMA freelist_count").fetchone()[0] > SPARE_PAGES:
            give_back_free_pages(self._db)
            self._move(mode)
        if mode == "RESTART":
            self._begin()

    def _look_for_room(self) -> None:
        """Before each checkpoint, for what comes next."""
        found = os.statvfs(self._folder)
        plenty = found.f_bavail * found.f_frsize >= PLENTY_OCTETS
        self.due_octets = LARGE_LOG_OCTETS if plenty else SMALL_LOG_OCTETS

    def _move(self, mode: str) -> None:
        self._db.execute(f"PRAGMA wal_checkpoint({mode})").fetchall()

    def _begin(self) -> None:
        """The first write behind a checkpoint begins the log anew, and waits for the disk: let it be one of ours."""
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        self._db.execute(f"PRAGMA user_version = {version}")
