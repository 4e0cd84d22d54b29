"""The relay role: queue, delivery, quarantine; what talks SMTP with clients is its child smtpd."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sqlite3
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial

from egressguard.app.children import SMTPD, Child
from egressguard.app.control import CommandError, Commands, DaemonUnreachable, ask_later
from egressguard.app.identity import hostname_of
from egressguard.app.places import Places
from egressguard.app.roles.frame import Frame, framed, serve_until_stopped
from egressguard.app.roles.quarantine_commands import quarantine_commands
from egressguard.app.roles.queue_commands import queue_commands, test_commands
from egressguard.app.roles.relay_commands import commands, limit_commands, suppression_commands, suspension_commands
from egressguard.mailbox.accounts import Accounts
from egressguard.mailbox.delivery import MaildirDelivery
from egressguard.mailbox.deposit import Store
from egressguard.mailbox.forwarding import Forwarder
from egressguard.mailbox.lmtp_delivery import LmtpDelivery
from egressguard.mailbox.local import LocalMail
from egressguard.mailbox.mbox_delivery import MboxDelivery
from egressguard.mailbox.metrics import MailboxMetrics
from egressguard.mailbox.people import People
from egressguard.mailbox.quota import Usages
from egressguard.mailbox.recipients import Recipients
from egressguard.mailbox.rule_files import RuleFiles
from egressguard.observe.metrics import exposition, merge
from egressguard.policy.mailboxes import Target
from egressguard.policy.model import Policy
from egressguard.quarantine.digest import Digests
from egressguard.quarantine.hold import Quarantine
from egressguard.quarantine.moves import Moves
from egressguard.quarantine.notice import TellingQuarantine
from egressguard.quarantine.refusal import Refusals
from egressguard.quarantine.showing import Showing
from egressguard.quarantine.views import Views
from egressguard.relay.attempt import Means
from egressguard.relay.dns import Resolver
from egressguard.relay.handover_ends import HandoverServer
from egressguard.relay.metrics import RelayMetrics
from egressguard.relay.mta_sts import MtaSts
from egressguard.relay.orders import Orders
from egressguard.relay.outgoing import Outgoing
from egressguard.relay.queue import Queue
from egressguard.relay.rates import Rates
from egressguard.relay.return_paths import ReturnPaths
from egressguard.relay.signatures import Signatures
from egressguard.relay.tls_report import TlsReport
from egressguard.scan.learning import Teachers
from egressguard.smtp.client import Send, SmtpClient
from egressguard.store.interface import NewMessage, Spool, SpoolBroken, SpoolFull
from egressguard.store.limits import LimitStore, LimitTrouble
from egressguard.store.queue_id import random_queue_id
from egressguard.store.secret import read_secret
from egressguard.store.spool import SqliteSpool
from egressguard.store.state_file import StateFile

log = logging.getLogger(__name__)

ATTEMPTS_SECONDS = 2
"""An attempt that is cut is tried again after the start: nobody has to wait long for a slow host at stop."""
MEASURE_SECONDS = 10
REINDEX_SECONDS = 60
"""Mail programs move and expunge what is held."""
VIEWS_SECONDS = 1
"""How soon what is gone is gone from mail programs' view of the quarantine; an order of theirs is seen at once."""
VIEWS_ANEW_SECONDS = 600
"""Mail programs take links out of their views."""
READY_SECONDS = 30
ANSWER_SECONDS = 5


class SmtpdEnded(Exception):
    """The other half is gone: this one ends too, as a failure, and both are started again."""


@dataclass(slots=True)
class Relay:
    spool: Spool
    queue: Queue
    quarantine: Quarantine
    showing: Showing
    moves: Moves
    digests: Digests
    limits: LimitStore
    outgoing: Outgoing
    smtpd: Child
    rates: StateFile

    async def keep_rates(self) -> None:
        """What is sent after this is not counted if the process dies."""
        await asyncio.to_thread(self.rates.write, self.queue.turns.rates.state())


async def run(places: Places, *, high_ports: bool) -> None:
    async with framed("relay", places, high_ports=high_ports) as frame, _open(frame) as relay:

        async def reload(policy: Policy) -> None:
            await relay.outgoing.reload(policy)
            relay.queue.policy = policy
            relay.quarantine.max_octets = policy.site.quarantine.max_octets
            try:
                await ask_later(places.control(SMTPD.name), "reload", READY_SECONDS)
            except (CommandError, DaemonUnreachable) as wrong:
                raise OSError(f"smtpd does not take the policy: {wrong}") from wrong

        works = (relay.queue.run(), _keep_house(relay), _keep_views(relay), _live_with(relay.smtpd, frame))
        working = [asyncio.create_task(work) for work in works]
        for task in working:
            task.add_done_callback(lambda _ended: frame.stopping.set())  # what ends early ends the role
        try:
            await _until_ready(relay.smtpd, frame)
            await serve_until_stopped(frame, _commands(frame, relay), reload)
        finally:
            await relay.smtpd.stop()
            await relay.queue.stop(ATTEMPTS_SECONDS)
            for task in working:
                task.cancel()
            for ended in await asyncio.gather(*working, return_exceptions=True):
                if isinstance(ended, Exception):
                    raise ended


async def _live_with(smtpd: Child, frame: Frame) -> None:
    """Raises SmtpdEnded: systemd starts again what failed, and leaves alone what ended in peace."""
    status = await smtpd.run_once()
    if not frame.stopping.is_set():
        raise SmtpdEnded(f"exit status {status}")


async def _until_ready(smtpd: Child, frame: Frame) -> None:
    waits = {asyncio.create_task(smtpd.ready.wait()), asyncio.create_task(frame.stopping.wait())}
    done, pending = await asyncio.wait(waits, timeout=READY_SECONDS, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    if not done:
        log.warning("smtpd is not ready yet, going on")


@contextlib.asynccontextmanager
async def _open(frame: Frame) -> AsyncIterator[Relay]:
    policy, places = frame.policy, frame.places
    spool = await asyncio.to_thread(_open_spool, policy, places)
    try:
        relay = await _assemble(frame, spool)
        handover = HandoverServer(relay.queue, _telling(frame, relay).hold)
        await handover.start(places.handover)
        try:
            yield relay
        finally:
            await handover.stop()
            await relay.keep_rates()
            relay.quarantine.close()
    finally:
        spool.close()


def _open_spool(policy: Policy, places: Places) -> Spool:
    """Raises OSError, ValueError, sqlite3.Error, SchemaTooNew."""
    relay = policy.site.relay
    if relay.spool is None:
        return SqliteSpool(places.spool, reserve_octets=relay.free_space_reserve_octets)
    from egressguard.store.postgres.spool import PostgresSpool  # noqa: PLC0415 -- memory that others do not need

    url = read_secret(relay.spool, places.secrets)
    return PostgresSpool(url, places.spool, reserve_octets=relay.free_space_reserve_octets)


def _commands(frame: Frame, relay: Relay) -> Commands:
    async def metrics() -> str:
        """Of both halves."""
        texts = {"relay": await asyncio.to_thread(exposition, frame.registry)}
        with contextlib.suppress(CommandError, DaemonUnreachable):
            texts[SMTPD.name] = await ask_later(frame.places.control(SMTPD.name), "metrics", ANSWER_SECONDS)
        return merge(texts)

    mail = commands(relay.spool, relay.queue, relay.quarantine)
    held = quarantine_commands(relay.quarantine, relay.digests, relay.moves.look_soon)
    queue = queue_commands(relay.spool, relay.queue, Orders(relay.spool, relay.queue, frame.record))
    limits = limit_commands(relay.limits, lambda: frame.policy, time.time)
    suspensions = suspension_commands(relay.queue)
    suppressions = suppression_commands(relay.queue, time.time)
    tests = test_commands(relay.queue, relay.outgoing.notice, frame.record, time.time)
    every = (mail, held, queue, tests, limits, suspensions, suppressions)
    reads = {name: handler for some in every for name, handler in some.reads.items()}
    changes = {name: handler for some in every for name, handler in some.changes.items()}
    return Commands(reads | {"metrics": metrics}, changes, held.proven)


async def _assemble(frame: Frame, spool: Spool) -> Relay:
    policy, places, registry = frame.policy, frame.places, frame.registry
    hostname = hostname_of(policy)
    accounts = Accounts(places.accounts)
    return_paths = ReturnPaths(places.secrets, registry, "relay")
    outgoing = Outgoing(Signatures(places.secrets, registry, "relay"), return_paths)
    await outgoing.reload(policy)
    resolver = Resolver(policy.site.resolvers)
    if policy.site.dnssec and not resolver.is_trusted:
        log.warning("site.dnssec is set, but the system's name servers are elsewhere: nothing is known for sure")
    report = TlsReport(resolver, lambda: frame.policy.site.relay.tlsrpt_socket, registry)
    sts = MtaSts(resolver, places.mta_sts)
    await asyncio.to_thread(sts.load)
    send = SmtpClient(report.observe).send

    async def put(message: NewMessage) -> str:
        return await queue.put(message)

    forwarder = Forwarder(put, return_paths, hostname, clock=time.time, new_queue_id=random_queue_id)
    means = Means(
        resolver,
        hostname,
        places.secrets,
        _local_mail(frame, forwarder, send),
        send=send,
        notice=outgoing.notice,
        sts=sts,
        told=report.refused,
    )
    kept = StateFile(places.rates)
    rates = Rates.restored(await asyncio.to_thread(kept.read))
    queue = Queue(spool, policy, means, frame.record, RelayMetrics(registry), rates=rates)

    recipients = Recipients(accounts, Usages(places.mailboxes))

    def account_of(policy: Policy, path: str) -> str | None:
        """An alias for several is nobody's."""
        whom = recipients.whom(policy, path)
        return None if whom is None or whom.others else whom.account or None

    showing = Showing(Views(places.quarantine_views), lambda: queue.policy, account_of, accounts.names)
    quarantine = await asyncio.to_thread(
        partial(
            Quarantine,
            places.quarantine,
            spool,
            frame.record,
            registry,
            released=queue.wake,
            refusal=Refusals(queue),
            teachers=Teachers(lambda: queue.policy.site.scan, places.secrets),
            viewer=showing,
            max_octets=policy.site.quarantine.max_octets,
        )
    )
    limits = await asyncio.to_thread(LimitStore, places.limits)
    digests = Digests(
        quarantine,
        spool,
        lambda: queue.policy,
        StateFile(places.digest),
        places.secrets,
        hostname,
        sign=outgoing.notice,
        clock=time.time,
        sent=queue.wake,
    )
    moves = Moves(quarantine, showing)
    return Relay(spool, queue, quarantine, showing, moves, digests, limits, outgoing, _smtpd(frame), kept)


def _local_mail(frame: Frame, forwarder: Forwarder, send: Send) -> LocalMail:
    places, metrics = frame.places, MailboxMetrics(frame.registry)
    usages = Usages(places.mailboxes)
    stores: dict[Target, Store] = {
        "maildir": MaildirDelivery(places.mailboxes, os.getegid(), added=usages.added),
        "mbox": MboxDelivery(places.mbox_notes),
        "lmtp": LmtpDelivery(places.lmtp, send, hostname_of(frame.policy)),
    }
    people = People(Accounts(places.accounts), lambda: frame.policy.site.access.pam_service is not None)
    recipients = Recipients(people, usages)
    rules = RuleFiles(places.mailbox_rules, metrics.broken_rules)
    return LocalMail(recipients, rules, stores, forwarder, usages, metrics, frame.record)


def _telling(frame: Frame, relay: Relay) -> TellingQuarantine:
    return TellingQuarantine(
        relay.quarantine,
        relay.queue.put,
        lambda: relay.queue.policy,
        hostname_of(frame.policy),
        sign=relay.outgoing.notice,
        clock=time.time,
    )


def _smtpd(frame: Frame) -> Child:
    directory = frame.places.role(SMTPD.name)
    directory.mkdir(mode=0o750, exist_ok=True)
    arguments = ("--high-ports",) if frame.high_ports else ()
    return Child(SMTPD, frame.places, frame.sockets, arguments, notify_path=directory / "notify.sock")


async def _keep_house(relay: Relay) -> None:
    reindexed_at = time.monotonic()
    while True:
        is_due = time.monotonic() - reindexed_at >= REINDEX_SECONDS
        await _keep_quarantine(relay, reindex=is_due)
        reindexed_at = time.monotonic() if is_due else reindexed_at
        try:
            await asyncio.to_thread(relay.limits.prune, time.time())
        except LimitTrouble as wrong:
            log.error("limits cannot be tidied up", extra={"fields": {"why": str(wrong)}})
        await relay.keep_rates()
        await asyncio.sleep(MEASURE_SECONDS)


async def _keep_views(relay: Relay) -> None:
    """Orders that lie there from before the start are seen with the first look everywhere."""
    looked_at = anew_at = time.monotonic() - MEASURE_SECONDS
    while True:
        now = time.monotonic()
        everywhere = now - looked_at >= MEASURE_SECONDS
        looked_at = now if everywhere else looked_at
        if now - anew_at >= VIEWS_ANEW_SECONDS:
            anew_at = now
            relay.showing.out_of_date()
        try:
            await relay.moves.look(everywhere=everywhere)
            await relay.showing.bring_up_to_date(relay.quarantine.every)
        except (OSError, sqlite3.Error) as wrong:
            log.error("views of the quarantine cannot be kept", extra={"fields": {"why": str(wrong)}})
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(VIEWS_SECONDS):
                await relay.moves.awake.wait()


async def _keep_quarantine(relay: Relay, *, reindex: bool) -> None:
    quarantine = relay.quarantine
    try:
        await quarantine.finish()
        for folder, rule in relay.queue.policy.site.quarantine.retention.items():
            before = None if rule.days is None else time.time() - rule.days * 86400
            await quarantine.expire(folder, before, rule.max_octets)
        if reindex:
            await quarantine.reindex()
        await quarantine.measure()
        await relay.digests.send_if_due()
    except (OSError, sqlite3.Error, SpoolFull, SpoolBroken) as wrong:
        log.error("the quarantine cannot be tidied up", extra={"fields": {"why": str(wrong)}})
