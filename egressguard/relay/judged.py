"""A message that has a decision: all that is known of it until it is stored, and what is told of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import field

from egressguard.mail.envelope import Envelope
from egressguard.policy.decision import MailDecision
from egressguard.policy.facts import ScanReport
from egressguard.policy.mail import asks_for_block_lists, asks_for_scan, asks_of_engines, header_fields
from egressguard.policy.model import Policy
from egressguard.policy.recorded import told_headers, told_recipients, told_scan
from egressguard.relay.judge import Judgement
from egressguard.relay.outside import Checked
from egressguard.smtp.hooks import SessionFacts
from egressguard.store.content import Content
from egressguard.values import value

JOURNALED_RECIPIENTS = 5

_MESSAGE_ID = re.compile(rb"^message-id[ \t]*:[ \t\r\n]*(<[!-;=?-~]{1,250}>)", re.IGNORECASE | re.MULTILINE)


@value(frozen=True, slots=True)
class Judged:
    session: SessionFacts
    envelope: Envelope
    content: Content
    header_section: bytes
    queue_id: str
    received_at: float
    report: ScanReport
    judgement: Judgement
    policy: Policy
    checked: Checked | None = None
    headers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def decision(self) -> MailDecision:
        return self.judgement.decision

    @property
    def told(self) -> dict[str, object]:
        """For the journal: what a message came to, and all that its rules looked at (policy.recorded reads it)."""
        paths, decision, policy = self.envelope.forward_paths, self.decision, self.policy
        fields = session_fields(self.session) | {
            "queue_id": self.queue_id,
            "sender": self.envelope.reverse_path,
            "recipients": list(paths[:JOURNALED_RECIPIENTS]),
            "recipient_count": len(paths),
            "size_octets": self.content.size_octets,
            "rule": decision.rule,
            "reason": decision.reason,
            "findings": list(self.report.findings),
            "policy_revision": policy.revision,
            "decided_at": self.received_at,
        }
        if len(paths) > JOURNALED_RECIPIENTS:
            fields |= told_recipients(paths, JOURNALED_RECIPIENTS)
        if self.checked:
            fields |= self.checked.told
            fields |= {"block_lists": sorted(self.checked.facts.listed or ())} if asks_for_block_lists(policy) else {}
        if asks_for_scan(policy):
            fields |= told_scan(self.report, asks_of_engines(policy))
        if names := header_fields(policy):
            fields |= told_headers(self.headers, names)
        fields |= {"message_id": found[1].decode()} if (found := _MESSAGE_ID.search(self.header_section)) else {}
        fields |= {"tags": list(decision.effects.tags)} if decision.effects.tags else {}
        fields |= {"limit": decision.limit} if decision.limit else {}
        if would := decision.would:
            fields |= {"would": [f"{w.rule}: {w.action}" for w in would]}
        return fields

    @property
    def summary(self) -> dict[str, object]:
        """For an administrator whom a rule names."""
        return {
            "client": self.session.client,
            "user": self.session.user or "-",
            "sender": self.envelope.reverse_path or "<>",
            "recipients": self.envelope.forward_paths[:JOURNALED_RECIPIENTS],
            "size": f"{self.content.size_octets} octets",
            "findings": self.report.findings or "none",
            "decision": f"{self.decision.action.value} by rule {self.decision.rule}",
        }


def session_fields(session: SessionFacts) -> dict[str, object]:
    return {
        "client": session.client_text,
        "listener": session.listener,
        "helo": session.helo,
        "tls": session.tls,
        "user": session.user,
        "original_destination": session.original_destination,
    }
