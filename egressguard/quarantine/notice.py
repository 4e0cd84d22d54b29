"""Tell a sender who logged in, at once, that a message is held: where the rules say so, and nobody else.

Contract
    Only users are told: any other sender's address may be forged (no backscatter). From the null reverse-path, never
    about one, and no more notices than `relay.dsn` allows.
    It is no part of the answer to the client: what cannot be told is logged, and the message is held all the same.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from egressguard.mail.envelope import NULL_REVERSE_PATH, Envelope
from egressguard.mail.trace import date_time
from egressguard.policy.model import Policy
from egressguard.quarantine.digest_text import shown
from egressguard.quarantine.hold import Quarantine
from egressguard.relay.allowance import Allowance
from egressguard.store.content import Content
from egressguard.store.interface import NewMessage, SpoolBroken, SpoolFull
from egressguard.store.queue_id import random_queue_id

log = logging.getLogger(__name__)


class TellingQuarantine:
    """`hold` as the handover calls it."""

    def __init__(
        self,
        quarantine: Quarantine,
        put: Callable[[NewMessage], Awaitable[str]],
        policy: Callable[[], Policy],
        hostname: str,
        *,
        sign: Callable[[Policy, NewMessage], Awaitable[NewMessage]],
        clock: Callable[[], float],
    ) -> None:
        self._quarantine = quarantine
        self._put = put
        self._policy = policy
        self._hostname = hostname
        self._sign = sign
        self._clock = clock
        self._allowance = Allowance()

    async def hold(self, queue_id: str, folder: str, content: Content, facts: Mapping[str, Any]) -> None:
        """As Quarantine.hold."""
        await self._quarantine.hold(queue_id, folder, content, facts)
        policy, sender = self._policy(), facts.get("reverse_path", NULL_REVERSE_PATH)
        if folder not in policy.site.quarantine.tell_senders or not facts.get("user") or sender == NULL_REVERSE_PATH:
            return
        now = self._clock()
        if self._allowance.take(policy.site.relay.dsn, sender, f"user {facts['user']}", now) is not None:
            return
        try:
            await self._put(await self._sign(policy, held_notice(queue_id, facts, self._hostname, now)))
        except (SpoolFull, SpoolBroken, OSError) as wrong:
            log.error("a sender is not told of a held message", extra={"fields": {"why": str(wrong)}})


def held_notice(queue_id: str, facts: Mapping[str, Any], hostname: str, now: float) -> NewMessage:
    """The notice as a message for the spool; of the message only its envelope goes in."""
    sender, notice_id = facts["reverse_path"], random_queue_id(now)
    lines = [
        f"From: EgressGuard <postmaster@{hostname}>",
        f"To: <{sender}>",
        "Subject: [EgressGuard] Your message is held",
        f"Date: {date_time(now)}",
        f"Message-ID: <{notice_id}@{hostname}>",
        "Auto-Submitted: auto-replied",
        "MIME-Version: 1.0",
        "Content-Type: text/plain; charset=utf-8",
        "Content-Transfer-Encoding: 8bit",
        "",
        f"The mail gateway {hostname} holds your message and has not sent it:",
        "",
        f"held as: {queue_id}",
        f"to: {shown(', '.join(facts.get('forward_paths', ())))}",
        f"by the rule: {shown(str(facts.get('rule', '')))}",
        "",
        "Your administrator can release it. Please do not send it again meanwhile.",
    ]
    text = "".join(f"{line}\r\n" for line in lines).encode("utf-8", "replace")
    envelope = Envelope(NULL_REVERSE_PATH, (sender,), smtputf8=not sender.isascii(), body_8bit=not text.isascii())
    return NewMessage(notice_id, envelope, Content.of(text), now, rule="held", source_id=f"held:{queue_id}")
