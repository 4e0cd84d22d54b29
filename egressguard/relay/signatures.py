"""Sign what leaves in our name, seal what we only hand on.

Contract
    Mail of the site's own gets the signatures of its author's domain, as the rules have it; a message that cannot be
    signed safely goes unsigned, which is logged and counted.
    A key that cannot be read is trouble of our own: KeyTrouble, and the mail waits at its sender. Our own notices do
    not wait: their news is worth more than their signature.
    Octets are only looked at: content in a file in a thread, piece by piece.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from prometheus_client import CollectorRegistry, Counter

from egressguard.policy.model import Policy
from egressguard.policy.signers import Signing, signings_for
from egressguard.relay.mapped import octets_of
from egressguard.senderauth.author import author_of
from egressguard.senderauth.sign_fields import dkim_signature, names_to_sign, signable
from egressguard.senderauth.sign_keys import KeyRing, KeyTrouble, SigningKey
from egressguard.senderauth.sign_seal import arc_set
from egressguard.senderauth.verdict import Refused
from egressguard.store.content import Content
from egressguard.store.interface import NewMessage

log = logging.getLogger(__name__)

Kind = Literal["dkim", "arc"]
Result = Literal["made", "unsignable", "failed"]


@dataclass(frozen=True, slots=True)
class Letter:
    """A message and what will stand in front of it; `section` is its own header section."""

    front: bytes
    section: bytes
    content: Content
    at: float


class Signatures:
    """`component` tells the processes that sign apart in metrics. `secrets` is where "file:NAME" keys lie below."""

    def __init__(self, secrets: Path, registry: CollectorRegistry, component: Literal["smtpd", "relay"]) -> None:
        self._keys = KeyRing(secrets)
        self._component = component
        self._made = Counter(
            "egressguard_senderauth_signatures_total",
            "DKIM signatures and ARC sets by result: made; unsignable (the message's fault); failed (ours: no key).",
            ["component", "kind", "result"],
            registry=registry,
        )

    async def reload(self, policy: Policy) -> None:
        """Keys may be others. What cannot be read now is told now, not when mail comes."""
        self._keys.forget()
        for name, signer in policy.site.signing.items():
            try:
                await self._keys.key(signer.key)
            except KeyTrouble as wrong:
                log.error("a signing key cannot be read", extra={"fields": {"signer": name, "why": str(wrong)}})

    async def signed(self, policy: Policy, letter: Letter) -> bytes:
        """The DKIM-Signature fields of a message of ours; b"" = nobody signs for its author. Raises KeyTrouble."""
        if not policy.site.signing:
            return b""
        author = author_of(letter.section)
        if not author.domain:
            self._unsignable("dkim", author.fault)
            return b""
        signings = signings_for(policy, author.domain)
        if not signings:
            return b""
        with_keys = [(signing, await self._key("dkim", signing.signer.key)) for signing in signings]
        return await self._run("dkim", letter.content, lambda: _dkim(with_keys, letter))

    async def sealed(self, policy: Policy, letter: Letter, results: bytes, chain_result: str) -> bytes:
        """The ARC set of a message that is handed on; b"" = none. Raises KeyTrouble.

        `results` is our Authentication-Results field."""
        seal = policy.site.forwarding.seal
        if seal is None:
            return b""
        signer = policy.site.signing[seal]
        key, value = await self._key("arc", signer.key), results.partition(b":")[2]

        def work() -> bytes:
            return arc_set(
                key,
                signer.domains[0].lower(),
                signer.selector,
                signable(letter.front, letter.section, octets_of(letter.content)),
                signer.headers,
                results=value,
                chain_result=chain_result,
                now=letter.at,
            )

        return await self._run("arc", letter.content, work)

    async def signed_notice(self, policy: Policy, notice: NewMessage) -> NewMessage:
        """The same with our signature, where there is one to be had. Its content lies in memory."""
        letter = Letter(b"", notice.content.header_section(), notice.content, notice.received_at)
        try:
            fields = await self.signed(policy, letter)
        except KeyTrouble:
            return notice
        return replace(notice, content=notice.content.in_front(fields))

    async def _key(self, kind: Kind, reference: str) -> SigningKey:
        try:
            return await self._keys.key(reference)
        except KeyTrouble as wrong:
            self._count(kind, "failed")
            log.error("mail is not signed: the key cannot be read", extra={"fields": {"why": str(wrong)}})
            raise

    async def _run(self, kind: Kind, content: Content, work: Callable[[], bytes]) -> bytes:
        """Some hundred microseconds for what lies in memory, mostly outside of Python: not worth a thread's detours."""
        try:
            fields = work() if content.file is None else await asyncio.to_thread(work)
        except Refused as refused:
            self._unsignable(kind, refused.reason)
            return b""
        self._count(kind, "made")
        return fields

    def _unsignable(self, kind: Kind, why: str) -> None:
        self._count(kind, "unsignable")
        log.warning("a message goes without our signature", extra={"fields": {"kind": kind, "why": why}})

    def _count(self, kind: Kind, result: Result) -> None:
        self._made.labels(self._component, kind, result).inc()


def _dkim(signings: Sequence[tuple[Signing, SigningKey]], letter: Letter) -> bytes:
    """Raises Refused."""
    message = signable(letter.front, letter.section, octets_of(letter.content))
    return b"".join(
        dkim_signature(
            key,
            signing.domain,
            signing.signer.selector,
            message,
            names_to_sign(message.fields, signing.signer.headers, signing.signer.oversign),
            letter.at,
        )
        for signing, key in signings
    )
