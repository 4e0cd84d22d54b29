"""The letter of `egressguard send-test`: says what it is, and leaves as the gateway's own mail does. Pure."""

from __future__ import annotations

from egressguard.mail.envelope import Envelope
from egressguard.mail.trace import date_time
from egressguard.store.content import Content
from egressguard.store.interface import NewMessage

RULE = "send-test"


def trial_letter(
    sender: str, recipient: str, via: tuple[str, ...], *, hostname: str, queue_id: str, now: float
) -> NewMessage:
    """From `sender`, by `via` (() = by the routes). No field asks for an answer, and none is sent (RFC 3834)."""
    lines = [
        f"From: EgressGuard <{sender}>",
        f"To: <{recipient}>",
        "Subject: [EgressGuard] a test",
        f"Date: {date_time(now)}",
        f"Message-ID: <{queue_id}@{hostname}>",
        "Auto-Submitted: auto-generated",
        "MIME-Version: 1.0",
        "Content-Type: text/plain; charset=us-ascii",
        "",
        f"The administrator of the mail gateway {hostname} tests whether mail arrives.",
        "Nothing is to be done about it.",
    ]
    text = "".join(f"{line}\r\n" for line in lines).encode("ascii")
    ways = {recipient: via} if via else {}
    return NewMessage(queue_id, Envelope(sender, (recipient,)), Content.of(text), now, rule=RULE, via=ways)
