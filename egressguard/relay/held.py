"""What is written down beside a message that the quarantine holds: all that its release needs, and why it is there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from egressguard.mail.envelope import Envelope
from egressguard.policy.decision import MailDecision
from egressguard.policy.facts import ScanReport
from egressguard.smtp.hooks import SessionFacts


def held_facts(
    session: SessionFacts,
    envelope: Envelope,
    decision: MailDecision,
    report: ScanReport | None,
    received_at: float,
    via: Mapping[str, tuple[str, ...]],
) -> dict[str, Any]:
    """Ready for JSON."""
    return {
        "reverse_path": envelope.reverse_path,
        "forward_paths": envelope.forward_paths,
        "smtputf8": envelope.smtputf8,
        "body_8bit": envelope.body_8bit,
        "ret": envelope.ret,
        "envid": envelope.envid,
        "requiretls": envelope.requiretls,
        "binary": envelope.binary,
        "options": {path: [o.notify, o.orcpt] for path, o in envelope.recipients.items()},
        "rule": decision.rule,
        "reason": decision.reason,
        "verdict": report.verdict.value if report and report.verdict else "",
        "findings": report.findings if report else (),
        "client": session.client_text,
        "user": session.user,
        "listener": session.listener,
        "received_at": received_at,
        "tags": decision.effects.tags,
        "via": {path: list(names) for path, names in via.items()},
    }
