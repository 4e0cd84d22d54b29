"""Whether the sender of a held message hears that it is refused: a DSN with 5.7.1, or nothing.

Contract
    Only senders that we vouch for are told: who logged in; addresses of the site's domains that wrote from the site's
    zones or this machine. Any other address may be forged, and a notice would be backscatter. Never about the null
    reverse-path, never against NOTIFY, and no more notices than `relay.dsn` allows (relay.notify, relay.allowance).
"""

from __future__ import annotations

import ipaddress

from egressguard.policy.model import Policy
from egressguard.policy.networks import zones_of
from egressguard.policy.routes import is_local
from egressguard.relay.parcel import claim_of
from egressguard.relay.queue import Queue
from egressguard.store.interface import NewMessage


class Refusals:
    """quarantine.hold.Refusal."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue

    async def __call__(self, message: NewMessage, why: str) -> NewMessage | None:
        sender = message.envelope.reverse_path
        if not is_vouched_for(self._queue.policy, sender, message.user, message.client):
            return None
        return await self._queue.refusal(claim_of(message), why, message.content)


def is_vouched_for(policy: Policy, reverse_path: str, user: str | None, client: str) -> bool:
    """Whether whoever has this address may be told of a message that came so."""
    if user is not None:
        return True
    if not is_local(policy, reverse_path):
        return False
    try:
        address = ipaddress.ip_address(client)
    except ValueError:
        return False
    return address.is_loopback or bool(zones_of(policy, address, "", frozenset()))
