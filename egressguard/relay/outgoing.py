"""The form in which a message is stored, and so leaves: our fields in front of it, signed, sealed, its paths rewritten.

Contract
    Octets of the message itself are not changed, but for results that claim to be ours (relay.outside).
    Mail of the site is signed; mail of the world is sealed where it leaves again, and never signed.
    A bounce to a reverse-path that we made goes to whom that stands for.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import replace

from egressguard.mail.envelope import Envelope
from egressguard.policy.decision import Effects
from egressguard.policy.model import Policy
from egressguard.policy.routes import is_local
from egressguard.relay.outside import Checked
from egressguard.relay.return_paths import ReturnPaths
from egressguard.relay.signatures import Letter, Signatures
from egressguard.senderauth.sign_keys import KeyTrouble
from egressguard.store.content import Content
from egressguard.store.interface import NewMessage
from egressguard.values import value


@value(frozen=True, slots=True)
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


@value(frozen=True, slots=True)
class Stored:
    """`renamed` has those recipients for whom others stand in `envelope`."""

    content: Content
    envelope: Envelope
    renamed: Mapping[str, str]


class Outgoing:
    def __init__(self, signatures: Signatures, return_paths: ReturnPaths) -> None:
        self._signatures = signatures
        self._return_paths = return_paths

    async def reload(self, policy: Policy) -> None:
        """Read keys and secrets again."""
        await asyncio.to_thread(self._return_paths.reload, policy)
        await self._signatures.reload(policy)

    async def stored(self, policy: Policy, taken: Taken) -> Stored:
        """Raises OSError; a KeyTrouble is one."""
        added = b""
        if taken.effects.headers:
            added = "".join(f"{name}: {value}\r\n" for name, value in taken.effects.headers).encode("ascii")
        envelope, renamed = self._return_paths.returned(policy, taken.envelope, taken.at)
        if taken.checked is None:
            front, fields = taken.stamp + added, b""
            if policy.site.signing:
                letter = Letter(front, taken.section, taken.content, taken.at)
                fields = await self._signatures.signed(policy, letter)
            return Stored(taken.content.in_front(fields + front), envelope, renamed)
        content, envelope = await self._of_the_world(policy, taken, envelope, taken.checked, added)
        return Stored(content, envelope, renamed)

    async def _of_the_world(
        self, policy: Policy, taken: Taken, envelope: Envelope, checked: Checked, added: bytes
    ) -> tuple[Content, Envelope]:
        content, envelope = await checked.as_taken(taken.content, envelope)
        front = taken.stamp + checked.field + added
        if all(is_local(policy, path) for path in envelope.forward_paths):
            return content.in_front(front), envelope
        if taken.effects.rewrite_sender:
            path = self._return_paths.rewritten(policy, envelope.reverse_path, taken.at)
            envelope = replace(envelope, reverse_path=path)
        letter = Letter(front, taken.section, content, taken.at)
        fields = await self._signatures.sealed(policy, letter, checked.field, checked.arc)
        return content.in_front(fields + front), envelope

    async def notice(self, policy: Policy, notice: NewMessage) -> NewMessage:
        """A notice of our own as it is stored; whatever cannot be done to it is left."""
        with contextlib.suppress(KeyTrouble):
            envelope, _ = self._return_paths.returned(policy, notice.envelope, notice.received_at)
            notice = replace(notice, envelope=envelope)
        return await self._signatures.signed_notice(policy, notice)
