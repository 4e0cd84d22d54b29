"""What every role does around its work: policy, journal, metrics, command socket, signals, readiness."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry

from egressguard import __version__
from egressguard.app.control import CommandError, Commands, serve_commands
from egressguard.app.notify import feed_watchdog, inherited_sockets, notify, watch_lifeline
from egressguard.app.places import Places
from egressguard.app.provenance import read_provenance
from egressguard.app.rules import read_rules
from egressguard.firewall.nft import NftError
from egressguard.observe.metrics import LoadedPolicy, exposition, new_registry
from egressguard.policy.model import Policy
from egressguard.store.journal import Journal

log = logging.getLogger(__name__)

JOURNAL_ROWS = 1_000_000
YOUNG_OBJECTS = 5_000
"""So many more objects than before, and the collector looks at the new ones. At Python's 700 it does so after every few
messages, and finds those that are still under way."""

Reload = Callable[[Policy], Awaitable[None]]


class BadRules(Exception):
    """The rules a role was given do not load; the message names the first fault."""


@dataclass(slots=True)
class Frame:
    """What a role's own code gets. `policy` is replaced as a whole on reload."""

    name: str
    places: Places
    policy: Policy
    registry: CollectorRegistry
    journal: Journal
    sockets: dict[str, list[socket.socket]]
    high_ports: bool
    loaded: LoadedPolicy
    stopping: asyncio.Event = field(default_factory=asyncio.Event)

    def record(self, kind: str, fields: Mapping[str, object]) -> None:
        self.journal.record(time.time(), kind, fields)


def load_policy(places: Places) -> Policy:
    """The policy of the rules directory given. Raises BadRules."""
    loaded, _ = read_rules(places.rules, places.site, compiles=False)
    if loaded.policy is None:
        raise BadRules(str(loaded.faults[0]))
    loaded.policy._origin = read_provenance(places.provenance, places.rules).short
    return loaded.policy


def _take(frame: Frame, policy: Policy) -> None:
    """Tell metrics and journal which policy is in force."""
    found = read_provenance(frame.places.provenance, frame.places.rules)
    frame.policy = policy
    kept = policy.site.journal
    frame.journal.keep_seconds, frame.journal.max_octets = kept.keep_days * 86400, kept.max_octets
    frame.loaded.loaded(
        frame.name, policy.revision, found.commit, found.signature, modified=found.modified, now=time.time()
    )


@contextlib.asynccontextmanager
async def framed(name: str, places: Places, *, high_ports: bool) -> AsyncIterator[Frame]:
    """Open what every role needs, and close it whatever happens."""
    os.umask(0o007)
    policy = load_policy(places)
    registry = new_registry(name, __version__)
    journal = Journal(places.journal(name), max_rows=JOURNAL_ROWS)
    frame = Frame(name, places, policy, registry, journal, inherited_sockets(), high_ports, LoadedPolicy(registry))
    _take(frame, policy)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, frame.stopping.set)
    watch_lifeline(loop, frame.stopping.set)
    try:
        yield frame
    finally:
        journal.close()


async def serve_until_stopped(frame: Frame, commands: Commands, reload: Reload) -> None:
    """Say READY, answer commands, take another policy when asked; return when it is time to stop."""
    changes = {"reload": _reloads(frame, reload), **commands.changes}
    every = Commands({"metrics": _metrics(frame), **commands.reads}, changes, commands.proven)
    server = await serve_commands(frame.places.control(frame.name), every)
    watchdog = asyncio.create_task(feed_watchdog())
    gc.freeze()  # programs and policy stay: the collector need not walk over them again and again
    gc.set_threshold(YOUNG_OBJECTS)
    notify("READY=1")
    try:
        await frame.stopping.wait()
    finally:
        notify("STOPPING=1")
        server.close()
        watchdog.cancel()
        await asyncio.gather(watchdog, return_exceptions=True)
        frame.places.control(frame.name).unlink(missing_ok=True)


def _metrics(frame: Frame) -> Callable[[], Awaitable[str]]:
    async def metrics() -> str:
        return await asyncio.to_thread(exposition, frame.registry)

    return metrics


def _reloads(frame: Frame, reload: Reload) -> Callable[[], Awaitable[str]]:
    """The command that takes the policy that now lies in the rules directory; one at a time."""
    one = asyncio.Lock()

    async def take() -> str:
        async with one:
            try:
                policy = load_policy(frame.places)
                await reload(policy)
            except (BadRules, NftError, OSError) as wrong:
                log.error("policy not taken, the old one stays", extra={"fields": {"why": str(wrong)}})
                raise CommandError(str(wrong)) from wrong
            _take(frame, policy)
            log.info("policy taken", extra={"fields": {"revision": policy.revision}})
            return policy.revision

    return take
