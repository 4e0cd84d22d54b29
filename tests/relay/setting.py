"""What the relay's tests have in common: a policy, DNS answers from a table, letters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from egressguard.mail.envelope import Envelope, RecipientOptions
from egressguard.policy.model import Policy
from egressguard.relay.route import AddressAnswer, Answer, MxAnswer
from egressguard.store.content import Content
from egressguard.store.interface import Claim, Due, NewMessage
from egressguard.store.queue_id import new_queue_id

NOTHING_THERE = MxAnswer(Answer.NOTHING)


def policy_of(
    *, relay: Mapping[str, Any] | None = None, routes: Sequence[Mapping[str, Any]] = (), **site: Any
) -> Policy:
    site = {"zones": {"lan": {"networks": ["192.0.2.0/24"]}}, "relay": relay or {}} | site
    return Policy.model_validate({"site": site, "routes": list(routes)})


def claim_of(*paths: str, reverse_path: str = "a@example.org", attempts: int = 1) -> Claim:
    return Claim("0ABC", reverse_path, 1000.0, 100, False, False, tuple(Due(path, attempts) for path in paths))


def message_to(
    *paths: str,
    number: int = 1,
    reverse_path: str = "a@example.org",
    at: float = 1000.0,
    notify: tuple[str, ...] | None = None,
) -> NewMessage:
    content = b"Subject: x\r\n\r\nhello\r\n"
    envelope = Envelope(reverse_path, paths, recipients=dict.fromkeys(paths, RecipientOptions(notify)))
    return NewMessage(new_queue_id(at, number), envelope, Content.of(content), at)


class Table:
    """DNS as a table: domain -> MX records, host -> addresses; what is missing does not exist."""

    def __init__(
        self,
        mx: Mapping[str, Sequence[tuple[int, str]]] | None = None,
        hosts: Mapping[str, Sequence[str]] | None = None,
        failing: Sequence[str] = (),
    ) -> None:
        self._mx = mx or {}
        self._hosts = hosts or {}
        self._failing = failing

    async def resolve_mx(self, domain: str) -> MxAnswer:
        if domain in self._failing:
            return MxAnswer(Answer.FAILED)
        if domain in self._mx:
            return MxAnswer(Answer.FOUND, tuple(self._mx[domain]))
        return MxAnswer(Answer.NOTHING if domain in self._hosts else Answer.NO_SUCH_NAME)

    async def resolve_addresses(self, host: str) -> AddressAnswer:
        if host in self._failing:
            return AddressAnswer(Answer.FAILED)
        if host.replace(".", "").isdigit() or ":" in host:
            return AddressAnswer(Answer.FOUND, (host,))
        if host in self._hosts:
            return AddressAnswer(Answer.FOUND, tuple(self._hosts[host]))
        return AddressAnswer(Answer.NO_SUCH_NAME)
