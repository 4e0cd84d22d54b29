"""Decisions: an action, the rule that took it, and the words that explain it."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class FlowAction(enum.Enum):
    ALLOW = "allow"
    REJECT = "reject"
    DROP = "drop"
    REDIRECT = "redirect"


class MailAction(enum.Enum):
    ACCEPT = "accept"
    REJECT = "reject"
    DEFER = "defer"
    QUARANTINE = "quarantine"


@dataclass(frozen=True, slots=True)
class FlowDecision:
    """`rule` is "" when no rule matched: flows that no rule names are none of our business and are allowed.
    `action` None: a matcher cannot answer yet; drop the packet silently, TCP asks again."""

    action: FlowAction | None
    rule: str
    reason: str


@dataclass(frozen=True, slots=True)
class MailDecision:
    """`folder` names the quarantine folder; `text` is what the client is told. No rule matching is REJECT."""

    action: MailAction
    rule: str
    reason: str
    folder: str = ""
    text: str = ""
