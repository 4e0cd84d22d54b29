"""The keeper as a process of its own, as systemd runs it; `egressguard run` keeps the policy itself."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys

from egressguard.app.candidate import Refused
from egressguard.app.keeper import Keeper
from egressguard.app.keeping import keeping, start_with
from egressguard.app.notify import feed_watchdog, notify, watch_lifeline
from egressguard.app.places import Places

log = logging.getLogger(__name__)


async def run(places: Places, *, high_ports: bool) -> None:  # noqa: ARG001 -- every role's form
    """Show the roles a policy, say READY, and keep it until told to stop. SIGHUP is `egressguard apply`."""
    os.umask(0o027)
    only_signed = bool(os.environ.get("EGRESSGUARD_ONLY_SIGNED"))
    try:
        candidate = await asyncio.to_thread(start_with, places, take_rules=False, only_signed=only_signed)
    except Refused as wrong:
        sys.exit(f"egressguard: {wrong}; nothing was started")
    stopping, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)
    watch_lifeline(loop, stopping.set)
    async with keeping(places, candidate, only_signed=only_signed) as keeper, asyncio.TaskGroup() as group:
        loop.add_signal_handler(signal.SIGHUP, lambda: group.create_task(apply(keeper)))
        watchdog = group.create_task(feed_watchdog())
        notify("READY=1")
        await stopping.wait()
        notify("STOPPING=1")
        watchdog.cancel()


async def apply(keeper: Keeper) -> None:
    """What a signal asks for; there is nobody to answer but the log."""
    try:
        await keeper.apply()
    except Refused as wrong:
        log.error("rules not applied, the old ones stay in force", extra={"fields": {"why": str(wrong)}})
