"""Orders about many held messages: what stops them, what does not, and how much was done is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from egressguard.app.roles.quarantine_commands import quarantine_commands
from egressguard.quarantine.digest import Digests
from egressguard.quarantine.hold import NotFound
from egressguard.quarantine.order import Order
from egressguard.store.interface import NewMessage, SpoolAway, SpoolBroken, SpoolFull
from egressguard.store.spool import SqliteSpool
from tests.quarantine.test_orders import opened
from tests.quarantine.test_quarantine import hold, with_spool

IDS = [f"HELD00000{number}" for number in range(5)]


class Failing:
    """A spool whose third message, and all after it, raise."""

    def __init__(self, spool: SqliteSpool, error: Exception) -> None:
        self._spool, self._error, self._puts = spool, error, 0

    async def put(self, message: NewMessage) -> str:
        self._puts += 1
        if self._puts > 2:
            raise self._error
        return await self._spool.put(message)


@pytest.mark.parametrize(
    "error", [SpoolFull("full"), SpoolAway("away"), SpoolBroken("broken"), OSError(28, "no space")]
)
def test_where_the_spool_takes_no_more_the_rest_stays_held(tmp_path: Path, error: Exception) -> None:
    async def work(spool: SqliteSpool) -> None:
        where = opened(tmp_path, Failing(spool, error))
        for message_id in IDS:
            await hold(where, message_id)
        commands = quarantine_commands(where, cast(Digests, None))
        told = await commands.changes["quarantine.order"]("release", {}, "x", until=1 << 62)
        assert (told["messages"], told["after"], told["kind"]) == (2, None, "temporary")
        assert told["stopped"].startswith(IDS[2])
        after = opened(tmp_path, spool)  # the spool takes mail again
        await after.finish()
        for row in await after.rows():
            await after.release(row["id"], "y")
        assert sorted(row["queue_id"] for row in await spool.rows(10)) == IDS

    with_spool(tmp_path, work)


def test_one_that_somebody_released_meanwhile_is_skipped(tmp_path: Path) -> None:
    async def work(spool: SqliteSpool) -> None:
        where = opened(tmp_path, spool)
        for message_id in IDS:
            await hold(where, message_id)
        act = where.act

        async def somebody_is_faster(order: Order) -> dict[str, Any]:
            if order.message_id == IDS[1]:
                raise NotFound("gone")
            return await act(order)

        where.act = somebody_is_faster  # type: ignore[method-assign]
        commands = quarantine_commands(where, cast(Digests, None))
        told = await commands.changes["quarantine.order"]("delete", {}, "x", until=1 << 62)
        assert (told["messages"], told["skipped"], "stopped" in told) == (4, 1, False)

    with_spool(tmp_path, work)
