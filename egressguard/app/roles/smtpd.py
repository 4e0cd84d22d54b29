"""The relay's other half: SMTP with whoever connects, policy, and the handover of what is taken to the relay.

What strangers say is parsed here, away from the queue and the connections to other hosts; and two processes use
two processors. The relay starts it, and goes down with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from egressguard.app.control import Commands
from egressguard.app.identity import access_user_id, certificate_of, hostname_of
from egressguard.app.listeners import TARPIT
from egressguard.app.places import Places
from egressguard.app.roles.frame import Frame, framed, serve_until_stopped
from egressguard.mailbox.accounts import Accounts
from egressguard.mailbox.metrics import over_quota_counter
from egressguard.mailbox.people import People
from egressguard.mailbox.quota import Usages
from egressguard.mailbox.recipients import Recipients
from egressguard.mailbox.sieve_mail import SieveMail
from egressguard.policy.model import Policy
from egressguard.relay.accept import Acceptance
from egressguard.relay.handover_ends import Handover
from egressguard.relay.outgoing import Outgoing
from egressguard.relay.outside import Outside
from egressguard.relay.pickup import Pickup
from egressguard.relay.return_paths import ReturnPaths
from egressguard.relay.signatures import Signatures
from egressguard.scan.client import ScanClient
from egressguard.senderauth.resolver import Resolver
from egressguard.smtp.auth import Authenticator
from egressguard.smtp.pam_accounts import PamAccounts
from egressguard.smtp.server import SmtpServer
from egressguard.smtp.settings import SmtpSettings
from egressguard.smtp.tarpit import Tarpit
from egressguard.smtp.tls import server_context
from egressguard.store.draft import Draft
from egressguard.store.free_space import FreeSpace
from egressguard.store.limits import LimitStore
from egressguard.store.passwd import PasswdFile
from egressguard.store.queue_id import random_queue_id

log = logging.getLogger(__name__)

DRAIN_SECONDS = 8
SCAN_GRACE_SECONDS = 5


@dataclass(slots=True)
class Smtpd:
    server: SmtpServer
    acceptance: Acceptance
    scanner: ScanClient
    outside: Outside
    outgoing: Outgoing
    handover: Handover


async def run(places: Places, *, high_ports: bool) -> None:
    async with framed("smtpd", places, high_ports=high_ports) as frame, _open(frame) as smtpd:

        async def reload(policy: Policy) -> None:
            certificate = await asyncio.to_thread(certificate_of, policy, places)
            smtpd.server.reload_certificate(*certificate)
            smtpd.server.settings = SmtpSettings.of(policy.site.relay, hostname_of(policy))
            await smtpd.outgoing.reload(policy)
            smtpd.acceptance.policy = policy
            smtpd.handover.room.reserve_octets = policy.site.relay.free_space_reserve_octets
            smtpd.scanner.reload(policy.site.scan.timeout_seconds + SCAN_GRACE_SECONDS, _scans_at_once(policy))

        async def status() -> dict[str, Any]:
            return {"summary": "takes mail"}

        pickup = Pickup(
            places.drop,
            smtpd.acceptance,
            _scripts(frame, smtpd),
            frame.record,
            max_octets=lambda: smtpd.acceptance.policy.site.relay.max_message_octets,
            clock=time.time,
        )
        picking_up = asyncio.create_task(pickup.run())
        picking_up.add_done_callback(lambda _ended: frame.stopping.set())
        try:
            await serve_until_stopped(frame, Commands({"status": status}), reload)
        finally:
            await smtpd.server.drain(DRAIN_SECONDS)
            picking_up.cancel()
            (ended,) = await asyncio.gather(picking_up, return_exceptions=True)
            if isinstance(ended, Exception):
                raise ended


@contextlib.asynccontextmanager
async def _open(frame: Frame) -> AsyncIterator[Smtpd]:
    places, site = frame.places, frame.policy.site
    handover = Handover(FreeSpace(places.spool, site.relay.free_space_reserve_octets))
    await handover.connect(places.handover, frame.stopping.set)
    smtpd = await _assemble(frame, handover)
    for name, listener in site.relay.listeners.items():
        await smtpd.server.start(name, listener, frame.sockets.get(name, []))
    tarpit = Tarpit(frame.registry)
    await tarpit.start(frame.sockets.get(TARPIT, []))
    try:
        yield smtpd
    finally:
        await tarpit.stop()
        handover.close()
        smtpd.outside.close()


def _scripts(frame: Frame, smtpd: Smtpd) -> SieveMail:
    return SieveMail(
        lambda: smtpd.acceptance.policy,
        smtpd.handover.put,
        frame.record,
        speaker=access_user_id(),
        clock=time.time,
        new_queue_id=random_queue_id,
    )


def _accounts(policy: Policy, places: Places) -> PasswdFile | PamAccounts:
    file, service = PasswdFile(places.accounts), policy.site.relay.pam_service
    return file if service is None else PamAccounts(file, service)


def _scans_at_once(policy: Policy) -> int:
    """Twice as many as workers: the next message is there when one is done."""
    return 2 * policy.site.scan.workers


async def _assemble(frame: Frame, handover: Handover) -> Smtpd:
    policy, places, registry = frame.policy, frame.places, frame.registry
    hostname = hostname_of(policy)
    over_quota = over_quota_counter(registry).labels("rcpt").inc
    people = People(Accounts(places.accounts), lambda: frame.policy.site.access.pam_service is not None)
    mailboxes = Recipients(people, Usages(places.mailboxes), over_quota)
    limits = await asyncio.to_thread(LimitStore, places.limits)
    timeout = policy.site.scan.timeout_seconds + SCAN_GRACE_SECONDS
    outside = Outside(Resolver(policy.site.resolvers), registry)
    return_paths = ReturnPaths(places.secrets, registry, "smtpd")
    outgoing = Outgoing(Signatures(places.secrets, registry, "smtpd"), return_paths)
    await outgoing.reload(policy)
    scanner = ScanClient(places.scanner, timeout_seconds=timeout, registry=registry, concurrency=_scans_at_once(policy))
    acceptance = Acceptance(
        policy,
        spool=handover,
        scanner=scanner,
        holder=handover,
        limits=limits,
        outside=outside,
        outgoing=outgoing,
        return_paths=return_paths,
        mailboxes=mailboxes,
        record=frame.record,
        registry=registry,
        hostname=hostname,
    )
    certificate = await asyncio.to_thread(certificate_of, policy, places)
    server = SmtpServer(
        acceptance,
        SmtpSettings.of(policy.site.relay, hostname),
        server_context(*certificate),
        Authenticator(_accounts(policy, places)),
        registry,
        partial(Draft, places.drafts),
    )
    return Smtpd(server, acceptance, scanner, outside, outgoing, handover)
