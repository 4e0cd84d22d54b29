"""A message that has a decision: all that is known of it until it is stored, and what is told of it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from egressguard.mail.envelope import Envelope
from egressguard.policy.decision import MailDecision
from egressguard.policy.facts import ScanReport
from egressguard.policy.model import Policy
from egressguard.relay.judge import Judgement
from egressguard.relay.outside import Checked
from egressguard.smtp.hooks import SessionFacts
from egressguard.store.content import Content

JOURNALED_RECIPIENTS = 5

_MESSAGE_ID = re.compile(rb"^message-id[ \t]*:[ \t\r\n]*(<[!-;=?-~]{1,250}>)", re.IGNORECASE | re.MULTILINE)


@dataclass(frozen=True, slots=True)
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

    @property
    def decision(self) -> MailDecision:
        return self.judgement.decision

    @property
    def told(self) -> dict[str, object]:
        """For the journal."""
        paths, decision = self.envelope.forward_paths, self.decision
        fields = session_fields(self.session) | {
            "queue_id": self.queue_id,
            "sender": self.envelope.reverse_path,
            "recipients": list(paths[:JOURNALED_RECIPIENTS]),
            "recipient_count": len(paths),
            "size_octets": self.content.size_octets,
            "rule": decision.rule,
            "reason": decision.reason,
            "findings": list(self.report.findings),
            "policy_revision": self.policy.revision,
        }
        fields |= self.checked.told if self.checked else {}
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
        "client": str(session.client),
        "listener": session.listener,
        "helo": session.helo,
        "tls": session.tls,
        "user": session.user,
        "original_destination": session.original_destination,
    }
