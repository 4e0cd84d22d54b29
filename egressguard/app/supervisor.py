"""`egressguard run`: all roles of one gateway under one process.

Contract
    The wall comes up before the relay, and stays up when everything else stops or dies; so does who scans mail.
    What need not wait for each other starts at the same time.
    A role that ends is started again, after 1, 2, 4 ... RESTART_SECONDS_MOST seconds.
    SIGINT or SIGTERM stops the roles in reverse order and returns 0.
    SIGHUP is `egressguard apply`; rules that are refused leave the old ones in force.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass

from egressguard.app.candidate import Candidate
from egressguard.app.children import ROLES, Child
from egressguard.app.keeping import keeping
from egressguard.app.notify import notify
from egressguard.app.places import Places
from egressguard.app.roles.keeper import apply

log = logging.getLogger(__name__)

READY_SECONDS = 30
RESTART_SECONDS_MOST = 30
METRICS_SOCKET = "metrics"
FIRST = frozenset({"gate", "scan"})
"""Roles without which no mail is to be taken: the others are started when these are ready."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run: `arguments` go to each role as they are (--high-ports ...); `policy` is shown to them already."""

    places: Places
    policy: Candidate
    sockets: dict[str, list[socket.socket]]
    as_root: bool
    arguments: tuple[str, ...] = ()
    only_signed: bool = False


class Supervisor:
    def __init__(self, plan: Plan, say_ready: Callable[[], None]) -> None:
        self._plan = plan
        self._say_ready = say_ready
        self._stopping = asyncio.Event()
        self._children = [self._child(index) for index in range(len(ROLES))]

    def _child(self, index: int) -> Child:
        role = ROLES[index]
        plan = self._plan
        sockets = {name: group for name, group in plan.sockets.items() if _takes(role.name, name)}
        return Child(role, plan.places, sockets, arguments=plan.arguments, as_root=plan.as_root)

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stopping.set)
        places, only_signed = self._plan.places, self._plan.only_signed
        async with (
            keeping(places, self._plan.policy, only_signed=only_signed) as keeper,
            asyncio.TaskGroup() as group,
        ):
            loop.add_signal_handler(signal.SIGHUP, lambda: group.create_task(apply(keeper)))
            keepers: dict[str, asyncio.Task[None]] = {}
            for together in self._in_turn():
                keepers |= {child.role.name: group.create_task(self._keep(child)) for child in together}
                await asyncio.gather(*map(self._until_ready, together))
            if not self._stopping.is_set():
                notify("READY=1")
                await asyncio.to_thread(self._say_ready)
            await self._stopping.wait()
            notify("STOPPING=1")
            for child in reversed(self._children):
                await child.stop()
                await keepers[child.role.name]
        return 0

    def _in_turn(self) -> tuple[list[Child], list[Child]]:
        """Most of a start is the processor's work, of one process on one processor."""
        first = [child for child in self._children if child.role.name in FIRST]
        return first, [child for child in self._children if child not in first]

    async def _until_ready(self, child: Child) -> None:
        waits = {asyncio.create_task(child.ready.wait()), asyncio.create_task(self._stopping.wait())}
        done, pending = await asyncio.wait(waits, timeout=READY_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        if not done:
            log.warning("a role is not ready yet, going on", extra={"fields": {"role": child.role.name}})

    async def _keep(self, child: Child) -> None:
        pause = 1.0
        while not self._stopping.is_set():
            started = asyncio.get_running_loop().time()
            status = await child.run_once()
            if self._stopping.is_set():
                return
            lived = asyncio.get_running_loop().time() - started
            pause = 1.0 if lived > RESTART_SECONDS_MOST else min(pause * 2, RESTART_SECONDS_MOST)
            fields = {"child": child.role.name, "exit_status": status, "again_in_seconds": pause}
            log.error("a role ended by itself", extra={"fields": fields})
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._stopping.wait()


def _takes(role_name: str, socket_name: str) -> bool:
    """The console gets the metrics socket, the relay all SMTP listeners, the others none."""
    return role_name == ("console" if socket_name == METRICS_SOCKET else "relay")
