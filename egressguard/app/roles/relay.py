"""The relay role: SMTP in, the spool, the queue, SMTP out, the quarantine and local delivery."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from egressguard.app.places import Places
from egressguard.app.roles.frame import Frame, framed, serve_until_stopped
from egressguard.policy.model import Policy
from egressguard.quarantine.hold import Quarantine
from egressguard.relay.accept import Acceptance
from egressguard.relay.queue import Queue
from egressguard.smtp.server import SmtpServer
from egressguard.store.spool import SqliteSpool

DRAIN_SECONDS = 10


@dataclass(slots=True)
class Relay:
    spool: SqliteSpool
    queue: Queue
    quarantine: Quarantine
    server: SmtpServer
    acceptance: Acceptance


async def run(places: Places, *, high_ports: bool) -> None:
    async with framed("relay", places, high_ports=high_ports) as frame, _relay(frame) as relay:

        async def reload(policy: Policy) -> None:
            relay.acceptance.policy = policy
            relay.queue.policy = policy
            relay.server.reload_certificate(*_certificate(policy, places))

        await serve_until_stopped(frame, _commands(relay), reload)


@contextlib.asynccontextmanager
async def _relay(frame: Frame) -> AsyncIterator[Relay]:
    yield NotImplemented  # type: ignore[misc]
