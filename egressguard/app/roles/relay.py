"""The relay role: SMTP in, the spool, the queue, SMTP out, the quarantine and local delivery."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

from egressguard.app.control import Commands
from egressguard.app.identity import certificate_of, hostname_of
from egressguard.app.listeners import TARPIT
from egressguard.app.places import Places
from egressguard.app.roles.frame import Frame, framed, serve_until_stopped
from egressguard.app.roles.relay_commands import commands, limit_commands
from egressguard.mailbox.accounts import Accounts
from egressguard.mailbox.delivery import MaildirDelivery
from egressguard.policy.model import Policy
from egressguard.quarantine.hold import Quarantine
from egressguard.relay.accept import Acceptance
from egressguard.relay.attempt import Means
from egressguard.relay.dns import Resolver
from egressguard.relay.metrics import RelayMetrics
from egressguard.relay.pickup import Pickup
from egressguard.relay.queue import Queue
from egressguard.scan.client import ScanClient
from egressguard.smtp.auth import Authenticator
from egressguard.smtp.server import SmtpServer
from egressguard.smtp.settings import SmtpSettings
from egressguard.smtp.tarpit import Tarpit
from egressguard.smtp.tls import server_context
from egressguard.store.limits import LimitStore, LimitTrouble
from egressguard.store.passwd import PasswdFile
from egressguard.store.spool import SqliteSpool

log = logging.getLogger(__name__)

DRAIN_SECONDS = 8
ATTEMPTS_SECONDS = 2
"""An attempt that is cut is tried again after the start: nobody has to wait long for a slow host at stop."""
MEASURE_SECONDS = 10
SCAN_GRACE_SECONDS = 5


@dataclass(slots=True)
class Relay:
    spool: SqliteSpool
    queue: Queue
    quarantine: Quarantine
    server: SmtpServer
    acceptance: Acceptance
    scanner: ScanClient
    delivery: MaildirDelivery
    limits: LimitStore


async def run(places: Places, *, high_ports: bool) -> None:
    async with framed("relay", places, high_ports=high_ports) as frame, _open(frame) as relay:

        async def reload(policy: Policy) -> None:
            certificate = await asyncio.to_thread(certificate_of, policy, places)
            relay.server.reload_certificate(*certificate)
            relay.server.settings = SmtpSettings.of(policy.site.relay, hostname_of(policy))
            relay.acceptance.policy = policy
            relay.queue.policy = policy
            relay.scanner.timeout_seconds = policy.site.scan.timeout_seconds + SCAN_GRACE_SECONDS

        pickup = Pickup(
            places.drop,
            relay.acceptance,
            frame.record,
            max_octets=lambda: relay.acceptance.policy.site.relay.max_message_octets,
            clock=time.time,
        )
        works = (relay.queue.run(), _keep_house(relay), pickup.run())
        working = [asyncio.create_task(work) for work in works]
        for task in working:
            task.add_done_callback(lambda _ended: frame.stopping.set())  # a queue that ended ends the role
        try:
            await serve_until_stopped(frame, _commands(relay), reload)
        finally:
            await relay.server.drain(DRAIN_SECONDS)
            await relay.queue.stop(ATTEMPTS_SECONDS)
            for task in working:
                task.cancel()
            for ended in await asyncio.gather(*working, return_exceptions=True):
                if isinstance(ended, Exception):
                    raise ended


@contextlib.asynccontextmanager
async def _open(frame: Frame) -> AsyncIterator[Relay]:
    policy, places = frame.policy, frame.places
    spool = await asyncio.to_thread(
        lambda: SqliteSpool(places.spool, reserve_octets=policy.site.relay.free_space_reserve_octets)
    )
    try:
        relay = await _assemble(frame, spool)
        for name, listener in policy.site.relay.listeners.items():
            await relay.server.start(name, listener, frame.sockets.get(name, []))
        tarpit = Tarpit(frame.registry)
        await tarpit.start(frame.sockets.get(TARPIT, []))
        try:
            yield relay
        finally:
            await tarpit.stop()
    finally:
        spool.close()


def _commands(relay: Relay) -> Commands:
    mail = commands(relay.spool, relay.queue, relay.quarantine)
    limits = limit_commands(relay.limits, lambda: relay.acceptance.policy, time.time)
    return Commands({**mail.reads, **limits.reads}, {**mail.changes, **limits.changes})


async def _assemble(frame: Frame, spool: SqliteSpool) -> Relay:
    policy, places, registry = frame.policy, frame.places, frame.registry
    hostname = hostname_of(policy)
    admins = policy.site.access.quarantine_admins
    delivery = MaildirDelivery(
        places.mailboxes, Accounts(places.accounts), os.getegid(), postmaster=admins[0] if admins else None
    )
    means = Means(Resolver(policy.site.resolvers), hostname, places.secrets, delivery)
    queue = Queue(spool, policy, means, frame.record, RelayMetrics(registry))
    quarantine = Quarantine(places.quarantine, spool, frame.record, registry, released=queue.wake)
    limits = await asyncio.to_thread(LimitStore, places.limits)
    timeout = policy.site.scan.timeout_seconds + SCAN_GRACE_SECONDS
    scanner = ScanClient(places.scanner, timeout_seconds=timeout, registry=registry)
    acceptance = Acceptance(
        policy,
        spool=queue,
        scanner=scanner,
        holder=quarantine,
        limits=limits,
        local_exists=delivery.exists,
        record=frame.record,
        registry=registry,
        hostname=hostname,
    )
    certificate = await asyncio.to_thread(certificate_of, policy, places)
    server = SmtpServer(
        acceptance,
        SmtpSettings.of(policy.site.relay, hostname),
        server_context(*certificate),
        Authenticator(PasswdFile(places.accounts)),
        registry,
        spool.new_draft,
    )
    return Relay(spool, queue, quarantine, server, acceptance, scanner, delivery, limits)


async def _keep_house(relay: Relay) -> None:
    while True:
        await relay.quarantine.measure()
        try:
            await asyncio.to_thread(relay.limits.prune, time.time())
        except LimitTrouble as wrong:
            log.error("limits cannot be tidied up", extra={"fields": {"why": str(wrong)}})
        await asyncio.sleep(MEASURE_SECONDS)
