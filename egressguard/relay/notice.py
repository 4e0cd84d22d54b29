"""Tell an administrator that a rule with `notify` matched: a short message from the gateway itself.

Contract
    At most one notice per rule and address in PAUSE_SECONDS; how many were left out stands in the next one.
    Nothing of the message but its envelope, size and findings goes in: no strangers' text acts on the reader.
    From the null reverse-path, so that nothing answers it (RFC 3834).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from egressguard.mail.envelope import NULL_REVERSE_PATH, Envelope
from egressguard.mail.trace import date_time
from egressguard.store.content import Content
from egressguard.store.interface import NewMessage

PAUSE_SECONDS = 60.0
SHOWN = 200  # characters of any one value


@dataclass(slots=True)
class Notices:
    """What was told to whom, and how often it was not. Bounded by the rules and addresses that the policy has."""

    told_at: dict[tuple[str, str], float] = field(default_factory=dict)
    left_out: dict[tuple[str, str], int] = field(default_factory=dict)

    def due(self, rule: str, address: str, now: float) -> int | None:
        """How many notices were left out since the last one; None: it is too early for another."""
        key = (rule, address)
        last = self.told_at.get(key)
        if last is not None and 0 <= now - last < PAUSE_SECONDS:
            self.left_out[key] = self.left_out.get(key, 0) + 1
            return None
        self.told_at[key] = now
        return self.left_out.pop(key, 0)


def rule_notice(
    *, rule: str, address: str, told: dict[str, object], left_out: int, hostname: str, notice_id: str, now: float
) -> NewMessage:
    """The notice as a message for the spool; `told` are the lines of its text."""
    lines = [
        f"From: EgressGuard <postmaster@{hostname}>",
        f"To: <{address}>",
        f"Subject: [EgressGuard] rule {rule} matched",
        f"Date: {date_time(now)}",
        f"Message-ID: <{notice_id}@{hostname}>",
        "Auto-Submitted: auto-generated",
        "MIME-Version: 1.0",
        "Content-Type: text/plain; charset=utf-8",
        "Content-Transfer-Encoding: 8bit",
        "",
        f"A message matched the rule {rule} of the mail gateway {hostname}.",
        "",
        *(f"{key}: {_shown(value)}" for key, value in told.items()),
    ]
    if left_out:
        lines += ["", f"{left_out} further messages matched since the last notice."]
    text = "".join(f"{line}\r\n" for line in lines).encode("utf-8", "replace")
    envelope = Envelope(NULL_REVERSE_PATH, (address,), body_8bit=not text.isascii())
    return NewMessage(notice_id, envelope, Content.of(text), now, rule=f"notify:{rule}")


def _shown(value: object) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return "".join(c if c.isprintable() else "?" for c in text)[:SHOWN]
