"""Mail for an address here that goes to others: by an alias, or by an account's own rule.

Contract
    It becomes a message of its own in the spool, once for each message and address (source_id), with retries and
    notices of its own; the octets are the same, but for Delivered-To and Received in front.
    A message that was here before (Delivered-To has this address) or has gone too far (relay.max_hops) goes round.
    Bounces go to the sender. Where it leaves the site, mail of others leaves under a reverse-path of ours, as far as
    `site.forwarding.srs` says so. Notices of success are the first message's: for the others nobody asked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from egressguard.mail.envelope import NEVER, Envelope, RecipientOptions
from egressguard.mail.header import find_fields
from egressguard.mail.trace import count_hops, forwarded_field
from egressguard.mail.xtext import encode_xtext
from egressguard.policy.model import Policy
from egressguard.policy.routes import is_local
from egressguard.relay.return_paths import ReturnPaths
from egressguard.store.content import Content
from egressguard.store.interface import Claim, Due, NewMessage

EXPANDED = "(expanded)"
"""The tag of what an alias has sent: for accounts only, no alias is asked again. No rule can give it."""
MAX_TRACES = 100


@dataclass(frozen=True, slots=True)
class Onward:
    """`by` says who sends it on: "alias", or "forward" of an account's rule."""

    by: str
    paths: tuple[str, ...]

    @property
    def tag(self) -> tuple[str, ...]:
        return (EXPANDED,) if self.by == "alias" else ()


def goes_round(policy: Policy, forward_path: str, section: bytes) -> bool:
    """Whether a message with this header section would go on for ever."""
    traces = find_fields(section, "Delivered-To", limit=MAX_TRACES)
    seen = {value.strip().lower() for value in traces}
    too_far = count_hops(section) >= policy.site.relay.max_hops
    return forward_path.lower().encode("utf-8", "replace") in seen or len(traces) == MAX_TRACES or too_far


class Forwarder:
    def __init__(
        self,
        put: Callable[[NewMessage], Awaitable[str]],
        return_paths: ReturnPaths,
        hostname: str,
        *,
        clock: Callable[[], float],
        new_queue_id: Callable[[float], str],
    ) -> None:
        self._put = put
        self._return_paths = return_paths
        self._hostname = hostname
        self._clock = clock
        self._new_queue_id = new_queue_id

    async def send(self, policy: Policy, claim: Claim, due: Due, content: Content, onward: Onward) -> str:
        """Its queue id, when it is durable. Raises SpoolFull, SpoolBroken, OSError (KeyTrouble)."""
        now = self._clock()
        queue_id = self._new_queue_id(now)
        hostname = policy.site.relay.hostname or self._hostname
        front = f"Delivered-To: {due.forward_path}\r\n".encode("utf-8", "replace")
        message = NewMessage(
            queue_id,
            self._envelope(policy, claim, due, onward, now),
            content.in_front(front + forwarded_field(host=hostname, queue_id=queue_id, at=now)),
            now,
            client=claim.client,
            listener=claim.listener,
            user=claim.user,
            rule=f"({onward.by})",
            source_id=_source_id(claim, due, onward),
            tags=(*(tag for tag in claim.tags if tag != EXPANDED), *onward.tag),
            verdict=claim.verdict,
        )
        return await self._put(message)

    def _envelope(self, policy: Policy, claim: Claim, due: Due, onward: Onward, now: float) -> Envelope:
        reverse_path = claim.reverse_path
        if not all(is_local(policy, path) for path in onward.paths):
            reverse_path = self._return_paths.rewritten(policy, reverse_path, now)
        return Envelope(
            reverse_path,
            onward.paths,
            smtputf8=claim.smtputf8 or not all(path.isascii() for path in (reverse_path, *onward.paths)),
            body_8bit=claim.body_8bit,
            ret=claim.ret,
            envid=claim.envid,
            requiretls=claim.requiretls,
            binary=claim.binary,
            recipients=dict.fromkeys(onward.paths, _options(due)),
        )


def _options(due: Due) -> RecipientOptions:
    """As RFC 3461 s5.2.7 has it for confidential addresses: success was told already."""
    options = due.options
    notify = options.notify
    if notify is not None and notify != (NEVER,):
        notify = tuple(event for event in notify if event != "SUCCESS") or (NEVER,)
    orcpt = options.orcpt
    if orcpt is None and due.forward_path.isascii():
        orcpt = f"rfc822;{encode_xtext(due.forward_path.encode())}"
    return replace(options, notify=notify, orcpt=orcpt)


def _source_id(claim: Claim, due: Due, onward: Onward) -> str:
    """The same for the same message, address and reason, whatever the rules say by then: it goes out once."""
    digest = hashlib.sha256(f"{onward.by} {due.forward_path}".encode("utf-8", "replace")).hexdigest()[:32]
    return f"{onward.by}:{claim.queue_id}:{digest}"
