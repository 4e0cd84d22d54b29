"""The keeper at work: its command socket, its way to the roles, and what a start begins with."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

from egressguard.app.candidate import Candidate, Refused, read_candidate
from egressguard.app.children import ROLES
from egressguard.app.control import CommandError, Commands, DaemonUnreachable, ask_later, serve_commands
from egressguard.app.generations import Generations
from egressguard.app.keeper import Keeper, Means, settle, show
from egressguard.app.places import Places
from egressguard.app.provenance import why_not_signed, write_provenance
from egressguard.app.rules import read_rules, write_snapshot
from egressguard.store.journal import Journal

log = logging.getLogger(__name__)

KEEPER = "keeper"
TAKE_SECONDS = 120
WATCH_SECONDS = 5
ADOPT_SECONDS = 1
JOURNAL_ROWS = 100_000


def start_with(places: Places, *, take_rules: bool, only_signed: bool) -> Candidate:
    """Decide with which policy the gateway starts, and show it to the roles. Raises Refused.

    The last confirmed one; the rules directory where there is none yet, or where `take_rules` says so and that very
    revision was not rolled back."""
    generations = Generations(places.policy)
    confirmed = settle(generations, now=time.time())
    if confirmed and (not take_rules or _was_refused(places, generations)):
        kept = _kept(places, generations, confirmed, only_signed=only_signed)
        if kept is not None:
            return kept
    candidate = read_candidate(places, only_signed=only_signed, force=True, judged=False)
    write_snapshot(candidate.files, candidate.source, places.snapshot)
    write_provenance(candidate.provenance, places.provenance)
    return candidate


def _was_refused(places: Places, generations: Generations) -> bool:
    there, _ = read_rules(places.rules, places.site)
    return there.policy is not None and there.policy.revision in generations.refused()


def _kept(places: Places, generations: Generations, revision: str, *, only_signed: bool) -> Candidate | None:
    """The confirmed policy; None when this program does not understand it any more, or may not take it."""
    loaded, files = read_rules(generations.rules(revision), places.site)
    if loaded.policy is None:
        log.error("the confirmed policy cannot be read any more", extra={"fields": {"fault": str(loaded.faults[0])}})
        return None
    found = generations.provenance(revision)
    if only_signed and (why := why_not_signed(found)) is not None:
        log.error("the confirmed policy is not taken", extra={"fields": {"why": why}})
        return None
    show(places, generations, revision)
    loaded.policy._origin = found.short
    return Candidate(loaded.policy, files, generations.rules(revision), found, [])


@contextlib.asynccontextmanager
async def keeping(places: Places, started_with: Candidate, *, only_signed: bool) -> AsyncIterator[Keeper]:
    """Serve the keeper's commands, adopt what the gateway was started with, and follow the git checkout."""
    journal = Journal(places.journal(KEEPER), max_rows=JOURNAL_ROWS)
    means = Means(
        tell_roles=lambda: _tell_roles(places),
        ask_gate=lambda command, **arguments: _ask(places, "gate", command, **arguments),
        record=lambda kind, fields: journal.record(time.time(), kind, fields),
        now=time.time,
    )
    keeper = Keeper(places, Generations(places.policy), means, only_signed=only_signed)
    server = await serve_commands(places.control(KEEPER), _commands(keeper))
    tasks = [
        asyncio.create_task(_adopt(keeper, places, started_with)),
        asyncio.create_task(keeper.watch(WATCH_SECONDS)),
    ]
    try:
        yield keeper
    finally:
        await keeper.stop()
        server.close()
        for task in tasks:
            task.cancel()
        for ended in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(ended, Exception):
                log.error("the keeper had trouble", exc_info=ended)
        places.control(KEEPER).unlink(missing_ok=True)
        journal.close()


def _commands(keeper: Keeper) -> Commands:
    def answered(work: Callable[..., Awaitable[Any]]) -> Callable[..., Coroutine[Any, Any, Any]]:
        async def answer(**arguments: Any) -> Any:
            try:
                return await work(**arguments)
            except Refused as wrong:
                raise CommandError(str(wrong), wrong.kind) from wrong

        return answer

    changes = {name: answered(getattr(keeper, name)) for name in ("plan", "apply", "confirm", "rollback")}
    return Commands({"status": answered(keeper.status)}, changes)


async def _adopt(keeper: Keeper, places: Places, candidate: Candidate) -> None:
    """Once the gate runs with it."""
    while True:
        with contextlib.suppress(Refused):
            if (await _ask(places, "gate", "status"))["revision"] == candidate.policy.revision:
                break
        await asyncio.sleep(ADOPT_SECONDS)
    await keeper.adopt(candidate)


async def _tell_roles(places: Places) -> None:
    """The gate first: what it refuses, nobody takes."""
    for role in ROLES:
        try:
            await _ask(places, role.name, "reload")
        except Refused as wrong:
            if role.name != "gate" and wrong.kind == "temporary":
                log.warning("a role takes the policy when it is back", extra={"fields": {"why": str(wrong)}})
                continue
            raise


async def _ask(places: Places, role: str, command: str, **arguments: Any) -> Any:
    try:
        return await ask_later(places.control(role), command, TAKE_SECONDS, **arguments)
    except CommandError as wrong:
        raise Refused(f"the {role} role refuses: {wrong}") from wrong
    except DaemonUnreachable as wrong:
        raise Refused(f"the {role} role does not answer ({wrong})", "temporary") from wrong
