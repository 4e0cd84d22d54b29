"""What limits have counted so far, and which hosts are shut out: an SQLite file that several processes share.

Contract
    `step` holds the file for one look, decision and charge: of many at once exactly as many pass as may.
    What was charged outlives the process, however it ends; a power cut may take the last moments with it
    (synchronous=NORMAL: a limit is no message).
    Names of recipients are kept as keyed digests: the file tells nobody who wrote to whom.
    A clock that goes back frees nothing that was counted in the last window, and locks nothing for longer than one.
    At most MAX_ROWS rows: beyond, a key that nobody has seen is above its limit; those that are known go on.
    Whatever SQLite cannot do is LimitTrouble.
"""

from __future__ import annotations

import hashlib
import secrets
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from egressguard.net.flow import IPAddress
from egressguard.policy.facts import Excess
from egressguard.policy.limits import NEW_DESTINATION_SECONDS, SLOTS, WINDOWS, Amounts, Quota, key_of, quotas
from egressguard.policy.model import Limit, Policy
from egressguard.store.schema import migrate

MAX_ROWS = 2_000_000  # about 100 MB
NAMED = frozenset({"distinct_recipients", "new_destinations"})

_MIGRATIONS: Sequence[str] = (
    """
    CREATE TABLE counted (
        limit_name TEXT NOT NULL,
        key TEXT NOT NULL,
        unit TEXT NOT NULL,
        slot INTEGER NOT NULL,
        window_seconds INTEGER NOT NULL,
        amount INTEGER NOT NULL,
        PRIMARY KEY (limit_name, key, unit, slot)
    ) WITHOUT ROWID;
    CREATE TABLE named (
        limit_name TEXT NOT NULL,
        key TEXT NOT NULL,
        unit TEXT NOT NULL,
        digest BLOB NOT NULL,
        last INTEGER NOT NULL,  -- slot for distinct_recipients, seconds for new_destinations
        window_seconds INTEGER NOT NULL,
        PRIMARY KEY (limit_name, key, unit, digest)
    ) WITHOUT ROWID;
    CREATE TABLE contained (host TEXT PRIMARY KEY, until REAL NOT NULL, limit_name TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE secret (key BLOB NOT NULL);
    """,
)


class LimitTrouble(OSError):
    """Counting is not possible now; the message says why."""


@dataclass(frozen=True, slots=True)
class Containment:
    """`until` is seconds since 1970; `limit` names the limit that the host was above."""

    host: str
    until: float
    limit: str


class LimitStore:
    """Blocking, and short: a look and a charge take some ten microseconds. Raises LimitTrouble."""

    def __init__(self, path: Path, *, max_rows: int = MAX_ROWS) -> None:
        self._max_rows = max_rows
        with _as_trouble():
            self._db = _connect(path)
            try:
                migrate(self._db, path, _MIGRATIONS)
                self._secret = self._read_secret()
                self._rows = self._count_rows()
                self._aside = _connect(path)  # for other threads: housekeeping, and what people ask
            except BaseException:
                self._db.close()
                raise

    def close(self) -> None:
        self._aside.close()
        self._db.close()

    @contextmanager
    def step(self) -> Iterator[None]:
        """Look, decide and charge as one; what is raised inside undoes it."""
        with _as_trouble():
            self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        with _as_trouble():
            self._db.execute("COMMIT")

    def exceeded(
        self, policy: Policy, client: IPAddress, user: str | None, reverse_path: str, amounts: Amounts, now: float
    ) -> dict[str, Excess]:
        """The limits (by name) that would be above with `amounts` added; of each the first number that would."""
        found: dict[str, Excess] = {}
        with _as_trouble():
            for limit in policy.limits:
                key = key_of(policy, limit, client, user, reverse_path)
                excess = None if key is None else self._excess(limit, key, amounts, now)
                if excess is not None:
                    found[limit.name] = excess
        return found

    def charge(
        self,
        policy: Policy,
        limit_names: Sequence[str],
        client: IPAddress,
        user: str | None,
        reverse_path: str,
        amounts: Amounts,
        now: float,
    ) -> None:
        """Count `amounts` for each of these limits that has a key here."""
        with _as_trouble():
            for limit in policy.limits:
                if limit.name not in limit_names:
                    continue
                key = key_of(policy, limit, client, user, reverse_path)
                for quota in quotas(limit) if key is not None else ():
                    self._add(limit.name, str(key), quota, amounts, now)

    def contain(self, host: str, until: float, limit: str) -> None:
        """Shut `host` out until then; a later end that stands already is kept."""
        with _as_trouble():
            self._db.execute(
                "INSERT INTO contained VALUES (?, ?, ?) ON CONFLICT (host) DO UPDATE"
                " SET until = excluded.until, limit_name = excluded.limit_name WHERE excluded.until > until",
                (host, until, limit),
            )

    def contained(self, host: str, now: float) -> Containment | None:
        with _as_trouble():
            query = "SELECT host, until, limit_name FROM contained WHERE host = ? AND until > ?"
            row = self._db.execute(query, (host, now)).fetchone()
        return None if row is None else Containment(*row)

    def containments(self, now: float) -> list[Containment]:
        """Who is shut out, the longest still to go first."""
        with _as_trouble():
            query = "SELECT host, until, limit_name FROM contained WHERE until > ? ORDER BY until DESC LIMIT 10000"
            return [Containment(*row) for row in self._aside.execute(query, (now,))]

    def uncontain(self, host: str) -> bool:
        with _as_trouble():
            return self._db.execute("DELETE FROM contained WHERE host = ?", (host,)).rowcount > 0

    def usage(self, policy: Policy, now: float, most_rows: int = 1000) -> list[dict[str, Any]]:
        """What is counted now, the fullest first: limit, key, unit, used, most."""
        limits = {(limit.name, quota.unit): quota for limit in policy.limits for quota in quotas(limit)}
        rows: list[dict[str, Any]] = []
        with _as_trouble():
            for (name, unit), quota in limits.items():
                for key, used in self._used(name, quota, now, most_rows):
                    rows.append({"limit": name, "key": key, "unit": unit, "used": used, "most": quota.most})
        rows.sort(key=lambda row: (-row["used"] / row["most"], row["limit"], row["key"], row["unit"]))
        return rows[:most_rows]

    def prune(self, now: float) -> None:
        """Forget what counts no more."""
        db = self._aside
        with _as_trouble():
            for seconds in WINDOWS.values():
                slot = int(now // (seconds // SLOTS))
                words = "window_seconds = ? AND (%s < ? OR %s > ?)"
                span = (seconds, slot - SLOTS, slot + SLOTS)
                db.execute(f"DELETE FROM counted WHERE {words % ('slot', 'slot')}", span)  # noqa: S608
                db.execute(
                    f"DELETE FROM named WHERE unit LIKE 'distinct%' AND {words % ('last', 'last')}",  # noqa: S608
                    span,
                )
            oldest = int(now) - NEW_DESTINATION_SECONDS
            db.execute("DELETE FROM named WHERE unit LIKE 'new%' AND last <= ?", (oldest,))
            db.execute("DELETE FROM contained WHERE until <= ?", (now,))
            self._rows = self._count_rows()
            db.executescript("PRAGMA incremental_vacuum;")

    # One number of one key.

    def _excess(self, limit: Limit, key: str, amounts: Amounts, now: float) -> Excess | None:
        if self._rows >= self._max_rows and not self._knows(limit.name, key):
            return Excess(key, "keys", self._max_rows, self._max_rows + 1)
        for quota in quotas(limit):
            found = self._would_be(limit.name, key, quota, amounts, now)
            if found > quota.most:
                return Excess(key, quota.unit, quota.most, found)
        return None

    def _would_be(self, name: str, key: str, quota: Quota, amounts: Amounts, now: float) -> int:
        slot = quota.slot(now)
        if quota.counted == "distinct_recipients":
            fresh = {self._digest(recipient) for recipient in amounts.names(quota.counted)}
            query = "SELECT digest FROM named WHERE limit_name = ? AND key = ? AND unit = ? AND last BETWEEN ? AND ?"
            known = self._db.execute(query, (name, key, quota.unit, slot - SLOTS, slot + SLOTS))
            return len(fresh.union(row[0] for row in known))
        query = "SELECT COALESCE(SUM(amount), 0) FROM counted WHERE limit_name = ? AND key = ? AND unit = ?"
        span = (name, key, quota.unit, slot - SLOTS, slot + SLOTS)
        total = int(self._db.execute(f"{query} AND slot BETWEEN ? AND ?", span).fetchone()[0])
        if quota.counted == "new_destinations":
            return total + len(self._new_destinations(name, key, quota, amounts, now))
        return total + amounts.plain(quota.counted)

    def _add(self, name: str, key: str, quota: Quota, amounts: Amounts, now: float) -> None:
        if quota.counted == "distinct_recipients":
            self._remember(name, key, quota, map(self._digest, amounts.names(quota.counted)), quota.slot(now))
            return
        amount = amounts.plain(quota.counted) if quota.counted not in NAMED else 0
        if quota.counted == "new_destinations":
            amount = len(self._new_destinations(name, key, quota, amounts, now))
            self._remember(name, key, quota, map(self._digest, amounts.names(quota.counted)), int(now))
        if amount:
            self._rows += 1
            self._db.execute(
                "INSERT INTO counted VALUES (?, ?, ?, ?, ?, ?)"
                " ON CONFLICT DO UPDATE SET amount = amount + excluded.amount",
                (name, key, quota.unit, quota.slot(now), quota.window_seconds, amount),
            )

    def _remember(self, name: str, key: str, quota: Quota, digests: Iterator[bytes], last: int) -> None:
        rows = [(name, key, quota.unit, digest, last, quota.window_seconds) for digest in digests]
        self._rows += len(rows)
        self._db.executemany(
            "INSERT INTO named VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET last = MAX(last, excluded.last)",
            rows,
        )

    def _new_destinations(self, name: str, key: str, quota: Quota, amounts: Amounts, now: float) -> set[bytes]:
        query = "SELECT 1 FROM named WHERE limit_name = ? AND key = ? AND unit = ? AND digest = ? AND last > ?"
        oldest = int(now) - NEW_DESTINATION_SECONDS
        digests = {self._digest(domain) for domain in amounts.names(quota.counted)}
        return {d for d in digests if self._db.execute(query, (name, key, quota.unit, d, oldest)).fetchone() is None}

    def _knows(self, name: str, key: str) -> bool:
        for table in ("counted", "named"):
            query = f"SELECT 1 FROM {table} WHERE limit_name = ? AND key = ? LIMIT 1"  # noqa: S608
            if self._db.execute(query, (name, key)).fetchone() is not None:
                return True
        return False

    def _used(self, name: str, quota: Quota, now: float, most_rows: int) -> list[tuple[str, int]]:
        slot = quota.slot(now)
        what, table, at = (
            ("COUNT(*)", "named", "last")
            if quota.counted == "distinct_recipients"
            else (
                "SUM(amount)",
                "counted",
                "slot",
            )
        )
        query = (
            f"SELECT key, {what} AS used FROM {table} WHERE limit_name = ? AND unit = ? AND {at} BETWEEN ? AND ?"  # noqa: S608
            " GROUP BY key ORDER BY used DESC LIMIT ?"
        )
        rows = self._aside.execute(query, (name, quota.unit, slot - SLOTS, slot + SLOTS, most_rows))
        return [(str(key), int(used)) for key, used in rows]

    def _digest(self, name: str) -> bytes:
        return hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8, key=self._secret).digest()

    def _read_secret(self) -> bytes:
        with self.step():
            row = self._db.execute("SELECT key FROM secret").fetchone()
            if row is None:
                row = (secrets.token_bytes(16),)
                self._db.execute("INSERT INTO secret VALUES (?)", row)
        return bytes(row[0])

    def _count_rows(self) -> int:
        query = "SELECT (SELECT COUNT(*) FROM counted) + (SELECT COUNT(*) FROM named)"
        return int(self._db.execute(query).fetchone()[0])


def _connect(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5)
    db.execute("PRAGMA auto_vacuum = INCREMENTAL")
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = NORMAL")
    return db


@contextmanager
def _as_trouble() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as wrong:
        raise LimitTrouble(f"the limits' file: {wrong}") from wrong
