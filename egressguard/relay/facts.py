"""The facts that message rules look at, gathered from a session, an envelope and octets. Pure.

Contract
    Bounded: at most FIELDS fields, VALUE_OCTETS of each; what is beyond is not seen by rules.
    The time of day is local time, as the machine has it: rules speak of office hours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from egressguard.mail.envelope import Envelope
from egressguard.mail.header import decode_words, fields
from egressguard.observe.clock import local_moment
from egressguard.policy.facts import Authentication, Excess, MailFacts, ScanReport
from egressguard.smtp.hooks import SessionFacts
from egressguard.values import value

FIELDS = 1000
VALUE_OCTETS = 8192


_NOT_CHECKED = Authentication()


@dataclass(frozen=True, slots=True)
class SenderFacts:
    """What is known of the sender besides what it says; None = not yet. As it stands: of somebody of the site."""

    authentication: Authentication | None = _NOT_CHECKED
    listed: frozenset[str] | None = frozenset()


OWN_SENDER = SenderFacts()


def header_facts(section: bytes) -> Mapping[str, tuple[str, ...]]:
    """A header section as lower-case field names -> their values, unfolded and decoded, in their order."""
    found: dict[str, list[str]] = {}
    for number, field in enumerate(fields(section)):
        if number >= FIELDS:
            break
        text = field.value[:VALUE_OCTETS].decode("utf-8", "replace")
        value = decode_words(" ".join(text.split()))
        found.setdefault(field.name.decode("ascii", "replace").lower(), []).append(value)
    return {name: tuple(values) for name, values in found.items()}


def recipient_facts(
    session: SessionFacts,
    reverse_path: str,
    forward_path: str,
    now: float,
    exceeded: Mapping[str, Excess],
    sender: SenderFacts = OWN_SENDER,
) -> MailFacts:
    """What is known at RCPT: nothing of the content, nor how many recipients will follow."""
    return MailFacts(
        client=session.client,
        listener=session.listener,
        helo=session.helo,
        tls=session.tls,
        user=session.user,
        redirected=session.redirected,
        reverse_path=reverse_path,
        forward_path=forward_path,
        moment=local_moment(now),
        authentication=sender.authentication,
        listed=sender.listed,
        exceeded=exceeded,
    )


@value(frozen=True, slots=True)
class ContentFacts:
    """What is known of a message's octets: the same for all its recipients."""

    size_octets: int
    headers: Mapping[str, tuple[str, ...]] | None
    report: ScanReport
    sender: SenderFacts = OWN_SENDER

    def facts(
        self,
        session: SessionFacts,
        envelope: Envelope,
        forward_path: str,
        now: float,
        exceeded: Mapping[str, Excess],
    ) -> MailFacts:
        return MailFacts(
            client=session.client,
            listener=session.listener,
            helo=session.helo,
            tls=session.tls,
            user=session.user,
            redirected=session.redirected,
            reverse_path=envelope.reverse_path,
            forward_path=forward_path,
            moment=local_moment(now),
            authentication=self.sender.authentication,
            listed=self.sender.listed,
            exceeded=exceeded,
            recipient_count=len(envelope.forward_paths),
            size_octets=self.size_octets,
            headers=self.headers,
            scan=self.report,
        )
