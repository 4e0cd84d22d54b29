"""Decisions: an action, the rule that took it, and the words that explain it."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from egressguard.values import value


class FlowAction(enum.Enum):
    ALLOW = "allow"
    REJECT = "reject"
    DROP = "drop"
    REDIRECT = "redirect"
    TARPIT = "tarpit"


class MailAction(enum.Enum):
    """HOLD: kept in the queue until somebody releases it; QUARANTINE: kept in the quarantine."""

    ACCEPT = "accept"
    REJECT = "reject"
    DEFER = "defer"
    QUARANTINE = "quarantine"
    HOLD = "hold"


@dataclass(frozen=True, slots=True)
class Would:
    """What a staged rule would have done, had it been in force."""

    rule: str
    action: str


@value(frozen=True, slots=True)
class FlowDecision:
    """`rule` is "" when no rule matched: flows that no rule names are none of our business and are allowed.
    `action` None: a matcher cannot answer yet; drop the packet silently, TCP asks again."""

    action: FlowAction | None
    rule: str
    reason: str
    would: tuple[Would, ...] = ()


@value(frozen=True, slots=True)
class Effects:
    """What the rules that matched add to a message, in their order.

    `headers` (name, value) go in front; `via` is the way out, () = by the routes; `notify` (rule, address);
    `limits` are the names of the limits that count this message; `rewrite_sender`: of mail that is forwarded;
    `source_routes` are the ways out that the sender may ask for."""

    headers: tuple[tuple[str, str], ...] = ()
    tags: tuple[str, ...] = ()
    via: tuple[str, ...] = ()
    notify: tuple[tuple[str, str], ...] = ()
    limits: tuple[str, ...] = ()
    rewrite_sender: bool = False
    source_routes: tuple[str, ...] = ()


NO_EFFECTS = Effects()


@value(frozen=True, slots=True)
class MailDecision:
    """`folder` names the quarantine folder; `text` is what the client is told. No rule matching is REJECT.

    `limit` names the limit that took the decision ("" = the rule itself did); `contain_seconds` is how long the
    host is to be shut out (0 = not at all)."""

    action: MailAction
    rule: str
    reason: str
    folder: str = ""
    text: str = ""
    effects: Effects = NO_EFFECTS
    limit: str = ""
    contain_seconds: int = 0
    would: tuple[Would, ...] = ()

    @property
    def refuses(self) -> bool:
        """For good or for now."""
        return self.action is MailAction.REJECT or self.action is MailAction.DEFER
