"""The form in which a message is stored, and so leaves: our fields in front of it, signed, sealed.

Contract
    Octets of the message itself are not changed, but for results that claim to be ours (relay.outside).
    Mail of the site is signed; mail of the world is sealed where it leaves again, and never signed.
"""

from __future__ import annotations

from dataclasses import dataclass

from egressguard.mail.envelope import Envelope
from egressguard.policy.decision import Effects
from egressguard.policy.model import Policy
from egressguard.policy.routes import is_local
from egressguard.relay.outside import Checked
from egressguard.relay.signatures import Letter, Signatures
from egressguard.store.content import Content


@dataclass(frozen=True, slots=True)
class Taken:
    """A message as it came, with what is known of it. `checked` None: it is of the site, not of the world.

    `stamp` are the fields that every message gets."""

    envelope: Envelope
    content: Content
    section: bytes
    stamp: bytes
    effects: Effects
    checked: Checked | None
    at: float


class Outgoing:
    def __init__(self, signatures: Signatures) -> None:
        self._signatures = signatures

    async def stored(self, policy: Policy, taken: Taken) -> tuple[Content, Envelope]:
        """Raises OSError; a KeyTrouble is one."""
        added = "".join(f"{name}: {value}\r\n" for name, value in taken.effects.headers).encode("ascii")
        if taken.checked is not None:
            return await self._of_the_world(policy, taken, taken.checked, added)
        front = taken.stamp + added
        fields = await self._signatures.signed(policy, Letter(front, taken.section, taken.content, taken.at))
        return taken.content.in_front(fields + front), taken.envelope

    async def _of_the_world(
        self, policy: Policy, taken: Taken, checked: Checked, added: bytes
    ) -> tuple[Content, Envelope]:
        content, envelope = await checked.as_taken(taken.content, taken.envelope)
        front = taken.stamp + checked.field + added
        if all(is_local(policy, path) for path in envelope.forward_paths):
            return content.in_front(front), envelope
        letter = Letter(front, taken.section, content, taken.at)
        fields = await self._signatures.sealed(policy, letter, checked.field, checked.arc)
        return content.in_front(fields + front), envelope
