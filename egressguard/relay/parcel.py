"""A parcel: one way of one claimed message, and how urgent it is among what waits for the same destination.

Contract
    Pure. Notices go first (who waits for one has trouble), then small mail, then large mail; it is an order among
    what is due, and no guarantee. In the spool it is a head start: how much earlier than it came it counts as due.
"""

from __future__ import annotations

from dataclasses import dataclass

from egressguard.mail.envelope import NO_OPTIONS, NULL_REVERSE_PATH
from egressguard.policy.model import Policy
from egressguard.relay.attempt import Way
from egressguard.store.content import Content
from egressguard.store.interface import Claim, Due, NewMessage

SMALL_OCTETS = 256 * 1024
URGENT, SMALL, LARGE = 0, 1, 2
HEAD_START_SECONDS = (3600.0, 60.0, 0.0)
"""By urgency. Small mail overtakes large mail of the last minute, and a notice whatever came in the last hour."""


@dataclass(eq=False, slots=True)
class Parcel:
    """`dialled`: it counts as an attempt from here on.

    `content` is what was put just now and need not be read again. `sent_over` is the smart host that
    took it, or was tried last; `soon`: another one may be tried soon."""

    claim: Claim
    way: Way
    policy: Policy
    content: Content | None = None
    dialled: bool = False
    sent_over: str = ""
    soon: bool = False

    @property
    def kept_octets(self) -> int:
        return 0 if self.content is None else self.content.size_octets

    @property
    def transport(self) -> str:
        """For metrics and the journal."""
        return self.sent_over or self.way.transport

    @property
    def urgency(self) -> int:
        return urgency_of(self.claim.reverse_path, self.claim.size_octets)


def urgency_of(reverse_path: str, size_octets: int) -> int:
    """The lower, the sooner."""
    if size_octets > SMALL_OCTETS:
        return LARGE
    return URGENT if reverse_path == NULL_REVERSE_PATH else SMALL


def head_start(message: NewMessage) -> float:
    return HEAD_START_SECONDS[urgency_of(message.envelope.reverse_path, message.content.size_octets)]


def claim_of(message: NewMessage) -> Claim:
    """What claiming a message would give that was put just now."""
    envelope = message.envelope
    return Claim(
        message.queue_id,
        envelope.reverse_path,
        message.received_at,
        message.content.size_octets,
        envelope.smtputf8,
        envelope.body_8bit,
        tuple(
            Due(path, 1, tuple(message.via.get(path, ())), envelope.recipients.get(path, NO_OPTIONS))
            for path in envelope.forward_paths
        ),
        message.tags,
        envelope.ret,
        envelope.envid,
        envelope.requiretls,
        envelope.binary,
        message.client,
        message.listener,
        message.user,
        message.verdict,
    )
