"""What the relay answers to RCPT and to a message: facts, policy, and what a decision does.

Contract
    A positive reply to a message means that it is on stable storage: in the spool, or held in the quarantine. Both
    are said in the same words: a sender does not learn that its message is looked at.
    Whatever fails on our side is 4yz; a scanner that fails is a verdict that is not known, never a clean one.
    One reply speaks for all recipients after DATA: the strictest decision holds (docs/decisions/0003).
    Octets are added in front only (relay/stamp.py, a rule's `add_header`); nothing in a message is changed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Protocol

from prometheus_client import CollectorRegistry

from egressguard.mail.envelope import Envelope
from egressguard.mail.reply import Reply
from egressguard.mail.trace import count_hops
from egressguard.policy.decision import MailAction, MailDecision
from egressguard.policy.facts import ScanReport, ScanRequest
from egressguard.policy.mail import asks_for_block_lists, asks_for_scan, asks_of_engines, header_fields
from egressguard.policy.model import Policy
from egressguard.policy.routes import is_local
from egressguard.relay.accept_metrics import AcceptMetrics
from egressguard.relay.facts import OWN_SENDER, ContentFacts, SenderFacts, header_facts
from egressguard.relay.held import held_facts
from egressguard.relay.judge import Judgement, Limits, judge_message, judge_recipient
from egressguard.relay.judged import Judged, session_fields
from egressguard.relay.notice import Notices, rule_notice
from egressguard.relay.outgoing import Outgoing, Taken
from egressguard.relay.outside import Checked, Outside, is_of_the_world
from egressguard.relay.return_paths import ReturnPaths
from egressguard.relay.stamp import Stamp
from egressguard.senderauth.sign_keys import KeyTrouble
from egressguard.smtp.hooks import SessionFacts, Stage
from egressguard.store.content import Content
from egressguard.store.interface import NewMessage, SpoolAway, SpoolBroken, SpoolFull
from egressguard.store.queue_id import random_queue_id

log = logging.getLogger(__name__)

UNKNOWN_SENDER = SenderFacts(authentication=None)
"""At RCPT, where no rule asks for block lists."""
TAKEN = Reply(250, "2.1.5", "OK")
CANNOT_LOOK_UP = Reply(451, "4.3.0", "The mailbox cannot be looked up now, try again later")
TOO_MANY_HOPS = Reply(554, "5.4.6", "Too many hops: the message goes round in a loop")
NO_ROOM = Reply(452, "4.3.1", "No room for the message now, try again later")
CANNOT_COUNT = Reply(451, "4.3.0", "Limits cannot be counted now, try again later")
NOT_SIGNED = Reply(451, "4.3.5", "The message cannot be signed now, try again later")
NOT_STORED = Reply(451, "4.3.0", "The message cannot be stored now, try again later")

_COUNTED = {
    MailAction.ACCEPT: "accepted",
    MailAction.QUARANTINE: "quarantined",
    MailAction.HOLD: "held",
    MailAction.REJECT: "refused",
    MailAction.DEFER: "deferred",
}


class Scanner(Protocol):
    async def scan(self, content: Content, request: ScanRequest) -> ScanReport:
        """Bounded in time; a scanner that cannot answer gives a report without a verdict."""
        ...


class Putter(Protocol):
    """relay.queue.Queue, as far as taking mail needs it."""

    def has_room(self, size_octets: int) -> bool: ...

    async def put(self, message: NewMessage) -> str:
        """Durable when it returns. Raises SpoolFull, SpoolBroken."""
        ...


class Holder(Protocol):
    """quarantine.hold.Quarantine, as far as taking mail needs it."""

    async def hold(self, queue_id: str, folder: str, content: Content, facts: Mapping[str, Any]) -> None:
        """Durable when it returns. Raises OSError."""
        ...


class Mailboxes(Protocol):
    """mailbox.recipients.Recipients, as far as taking mail needs it."""

    def refusal(self, policy: Policy, forward_path: str) -> Reply | None:
        """Of an address of the site's domains, or a bare postmaster, that is nobody's. Raises OSError."""
        ...

    def surely_fits(self, policy: Policy, forward_path: str, size_octets: int) -> bool:
        """False: `no_room` says. Raises OSError."""
        ...

    def no_room(self, policy: Policy, forward_path: str, size_octets: int) -> Reply | None:
        """Of one whose mailbox is full. May take its time. Raises OSError."""
        ...


class Acceptance:
    """smtp.hooks.SessionHooks. `policy` is replaced as a whole on reload; each message is judged by one policy.

    `record` is the journal's; `hostname` names us in Received and Message-ID when the rules do not.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        hostname: str,
        spool: Putter,
        holder: Holder,
        scanner: Scanner,
        limits: Limits,
        outside: Outside,
        outgoing: Outgoing,
        return_paths: ReturnPaths,
        mailboxes: Mailboxes,
        record: Callable[[str, Mapping[str, object]], None],
        registry: CollectorRegistry,
        clock: Callable[[], float] = time.time,
        new_queue_id: Callable[[float], str] = random_queue_id,
    ) -> None:
        self.policy = policy
        self._hostname = hostname
        self._spool = spool
        self._holder = holder
        self._scanner = scanner
        self._limits = limits
        self._outside = outside
        self._outgoing = outgoing
        self._return_paths = return_paths
        self._notices = Notices()
        self._mailboxes = mailboxes
        self._record = record
        self._clock = clock
        self._new_queue_id = new_queue_id
        self._metrics = AcceptMetrics(registry, policy)

    # MAIL and RCPT.

    def has_room(self, size_octets: int) -> bool:
        return self._spool.has_room(size_octets)

    def on_recipient(
        self, session: SessionFacts, reverse_path: str, forward_path: str, size_octets: int | None
    ) -> Reply | Awaitable[Reply]:
        """Policy first: a stranger whom the rules refuse learns nothing about who has a mailbox here."""
        policy = self.policy
        outside = is_of_the_world(policy, session)
        if outside and asks_for_block_lists(policy):
            return self._looked_up(policy, session, reverse_path, forward_path, size_octets)
        sender = UNKNOWN_SENDER if outside else OWN_SENDER
        reply = self._recipient(policy, session, reverse_path, forward_path, size_octets, sender)
        if reply is not TAKEN or self._surely_fits(policy, forward_path, size_octets or 0):
            return reply
        return self._with_room(policy, session, reverse_path, forward_path, size_octets)

    async def _looked_up(
        self, policy: Policy, session: SessionFacts, reverse_path: str, forward_path: str, size_octets: int | None
    ) -> Reply:
        """As `_recipient`, for a client of the world that block lists are asked of first."""
        sender = await self._outside.at_rcpt(policy, session)
        reply = self._recipient(policy, session, reverse_path, forward_path, size_octets, sender)
        if reply is not TAKEN or self._surely_fits(policy, forward_path, size_octets or 0):
            return reply
        return await self._with_room(policy, session, reverse_path, forward_path, size_octets)

    def _surely_fits(self, policy: Policy, forward_path: str, size_octets: int) -> bool:
        if not policy.site.mailboxes.has_quotas or not is_local(policy, forward_path):
            return True
        try:
            return self._mailboxes.surely_fits(policy, forward_path, size_octets)
        except OSError:  # `no_room` will say so
            return False

    async def _with_room(
        self, policy: Policy, session: SessionFacts, reverse_path: str, forward_path: str, size_octets: int | None
    ) -> Reply:
        """TAKEN, or that the mailbox is full."""
        try:
            full = await asyncio.to_thread(self._mailboxes.no_room, policy, forward_path, size_octets or 0)
        except OSError as wrong:
            full = _cannot_look_up(wrong)
        if full is None:
            return TAKEN
        more = {"rule": "", "decided_at": self._clock()}
        self._refused_at_rcpt(session, reverse_path, forward_path, size_octets, full, more)
        return full

    def _recipient(
        self,
        policy: Policy,
        session: SessionFacts,
        reverse_path: str,
        forward_path: str,
        size_octets: int | None,
        sender: SenderFacts,
    ) -> Reply:
        now, size = self._clock(), size_octets or 0
        rule, reply = "", None
        try:
            decision = judge_recipient(policy, self._limits, session, reverse_path, forward_path, size, now, sender)
        except OSError as wrong:
            log.error("limits cannot be counted", extra={"fields": {"why": str(wrong)}})
            decision, reply = None, CANNOT_COUNT
        if decision is not None:
            rule, reply = decision.rule, _refusal(decision)
            self._metrics.limited(decision)
        elif reply is None and self._return_paths.is_ours(policy, forward_path):
            reply = self._return_paths.refusal(policy, reverse_path, forward_path, now)
        elif reply is None and is_local(policy, forward_path):
            reply = self._no_mailbox(policy, forward_path)
        if reply is None:
            return TAKEN
        more: dict[str, object] = {"rule": rule, "decided_at": now}
        if sender is not OWN_SENDER and sender.listed is not None and asks_for_block_lists(policy):
            more["block_lists"] = sorted(sender.listed)
        self._refused_at_rcpt(session, reverse_path, forward_path, size_octets, reply, more)
        return reply

    def _refused_at_rcpt(
        self,
        session: SessionFacts,
        reverse_path: str,
        forward_path: str,
        size_octets: int | None,
        reply: Reply,
        more: Mapping[str, object],
    ) -> None:
        kind = "mail.deferred" if reply.is_transient else "mail.refused"
        fields = session_fields(session) | {"sender": reverse_path, "recipients": [forward_path]}
        fields |= {"recipient_count": 1, "reply": str(reply), "size_octets": size_octets}
        self._record(kind, {**fields, "stage": "rcpt", **more})

    def _no_mailbox(self, policy: Policy, forward_path: str) -> Reply | None:
        try:
            return self._mailboxes.refusal(policy, forward_path)
        except OSError as wrong:
            return _cannot_look_up(wrong)

    # The message.

    async def on_message(self, session: SessionFacts, envelope: Envelope, content: Content) -> Reply:
        judged = await self._judge(session, envelope, content)
        reply = await self._do(judged)
        self._note(judged, reply)
        await self._notify(judged, reply)
        return reply

    async def _judge(self, session: SessionFacts, envelope: Envelope, content: Content) -> Judged:
        policy, now = self.policy, self._clock()
        section = await _header_section(content)
        queue_id = self._new_queue_id(now)
        judged = partial(
            Judged,
            session,
            envelope,
            content,
            section,
            received_at=now,
            policy=policy,
            queue_id=queue_id,
        )
        asked = partial(_scan_request, policy, session, envelope, queue_id)
        report = ScanReport(None, ("not scanned",), score=None)
        if count_hops(section) > policy.site.relay.max_hops:
            decision = MailDecision(MailAction.REJECT, "(hops)", "over max_hops", text=TOO_MANY_HOPS.text)
            return judged(report=report, judgement=Judgement(decision, {}))
        checked: Checked | None = None
        if is_of_the_world(policy, session):
            hostname = policy.site.relay.hostname or self._hostname
            checking = self._outside.check(policy, session, envelope, content, section, hostname)
            if asks_for_scan(policy):
                report, checked = await asyncio.gather(self._scan(content, asked()), checking)
            else:
                checked = await checking
        elif asks_for_scan(policy):
            report = await self._scan(content, asked())
        headers = header_facts(section) if header_fields(policy) else {}
        known = ContentFacts(content.size_octets, headers, report, checked.facts if checked else OWN_SENDER)
        try:
            judgement = judge_message(policy, self._limits, session, envelope, known, now)
        except OSError as wrong:
            log.error("limits cannot be counted", extra={"fields": {"why": str(wrong)}})
            trouble = MailDecision(MailAction.DEFER, "(limits)", str(wrong), text=CANNOT_COUNT.text)
            judgement = Judgement(trouble, {})
        return judged(report=report, judgement=judgement, checked=checked, headers=headers)

    async def _scan(self, content: Content, request: ScanRequest) -> ScanReport:
        try:
            return await self._scanner.scan(content, request)
        except (OSError, TimeoutError) as wrong:
            log.error("the scanner does not answer", extra={"fields": {"why": str(wrong)}})
            return ScanReport(None, ("the scanner does not answer",), score=None)

    async def _do(self, judged: Judged) -> Reply:
        if judged.decision.refuses:
            return TOO_MANY_HOPS if judged.decision.rule == "(hops)" else _refusal(judged.decision)
        try:
            queue_id = await self._store(judged)
        except SpoolAway as wrong:
            log.error("a message cannot be stored now", extra={"fields": {"why": str(wrong)}})
            return NOT_STORED
        except SpoolFull as wrong:
            log.error("no room for a message", extra={"fields": {"why": str(wrong)}})
            return NO_ROOM
        except KeyTrouble:  # told where it happened
            return NOT_SIGNED
        except (SpoolBroken, OSError) as wrong:
            log.error("a message could not be stored", extra={"fields": {"why": str(wrong)}})
            return NOT_STORED
        return Reply(250, "2.0.0", f"Taken as {queue_id}")

    async def _store(self, judged: Judged) -> str:
        session = judged.session
        hostname = judged.policy.site.relay.hostname or self._hostname
        stamp = Stamp(hostname, judged.queue_id, judged.received_at)
        taken = Taken(
            judged.envelope,
            judged.content,
            judged.header_section,
            stamp.in_front(session, judged.envelope, judged.header_section),
            judged.decision.effects,
            judged.checked,
            judged.received_at,
        )
        stored = await self._outgoing.stored(judged.policy, taken)
        content, envelope = stored.content, stored.envelope
        via = {stored.renamed.get(path, path): names for path, names in judged.judgement.via.items()}
        if judged.decision.action is MailAction.QUARANTINE:
            facts = held_facts(session, envelope, judged.decision, judged.report, judged.received_at, via)
            facts["told"] = judged.told
            facts["added_octets"] = content.size_octets - judged.content.size_octets
            await self._holder.hold(judged.queue_id, judged.decision.folder or "Held", content, facts)
            return judged.queue_id
        message = NewMessage(
            queue_id=judged.queue_id,
            envelope=envelope,
            content=content,
            received_at=judged.received_at,
            client=session.client_text,
            listener=session.listener,
            user=session.user,
            rule=judged.decision.rule,
            policy_revision=judged.policy.revision,
            source_id=session.source_id or None,
            tags=judged.decision.effects.tags,
            via=via,
            held=judged.decision.action is MailAction.HOLD,
            verdict=judged.report.verdict.value if judged.report.verdict else "",
        )
        return await self._spool.put(message)

    def _note(self, judged: Judged, reply: Reply) -> None:
        """What it came to: a message that policy takes and storage does not is a deferred one."""
        decided = _COUNTED[judged.decision.action]
        counted = "deferred" if reply.is_transient else decided
        self._metrics.answered(judged.session.listener, counted, judged.decision)
        fields = judged.told
        if not reply.is_positive:
            fields |= {"reply": str(reply), "stage": "data"}
        if counted != decided:
            fields["decided"] = judged.decision.action.value
        self._record(f"mail.{counted}", fields)

    async def _notify(self, judged: Judged, reply: Reply) -> None:
        """Tell whom the rules name. It is no part of the answer: what cannot be stored is only logged."""
        hostname = judged.policy.site.relay.hostname or self._hostname
        for rule, address in judged.decision.effects.notify:
            left_out = self._notices.due(rule, address, judged.received_at)
            if left_out is None:
                continue
            notice = rule_notice(
                rule=rule,
                address=address,
                told=judged.summary | {"reply": reply},
                left_out=left_out,
                hostname=hostname,
                notice_id=self._new_queue_id(judged.received_at),
                now=judged.received_at,
            )
            try:
                await self._spool.put(await self._outgoing.notice(judged.policy, notice))
            except (SpoolFull, SpoolBroken, OSError) as wrong:
                log.error("a notice could not be stored", extra={"fields": {"rule": rule, "why": str(wrong)}})

    def on_refused(self, session: SessionFacts, stage: Stage, reply: Reply, about: str) -> None:
        """What the server refused before it came to a decision of ours: strangers, bad grammar, wrong passwords."""
        kind = "mail.deferred" if reply.is_transient else "mail.refused"
        fields = {"stage": stage, "reply": str(reply), "about": about, "rule": ""}
        self._record(kind, session_fields(session) | fields)


def _scan_request(policy: Policy, session: SessionFacts, envelope: Envelope, queue_id: str) -> ScanRequest:
    return ScanRequest(
        client=session.client_text,
        helo=session.helo,
        user=session.user or "",
        reverse_path=envelope.reverse_path,
        forward_paths=envelope.forward_paths,
        queue_id=queue_id,
        asks=asks_of_engines(policy),
    )


def _cannot_look_up(wrong: OSError) -> Reply:
    log.error("mailboxes cannot be looked up", extra={"fields": {"why": str(wrong)}})
    return CANNOT_LOOK_UP


async def _header_section(content: Content) -> bytes:
    if content.file is None:
        return content.header_section()
    return await asyncio.to_thread(content.header_section)


def _refusal(decision: MailDecision) -> Reply:
    """The rule's own words, or its name: whoever is refused can say to the administrator by what."""
    if decision.action is MailAction.DEFER:
        return Reply(451, "4.7.1", decision.text or f"Deferred by rule {decision.rule}, try again later")
    return Reply(550, "5.7.1", decision.text or f"Refused by rule {decision.rule}")
