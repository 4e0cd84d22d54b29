"""What checks of a message's origin came to, in the words of RFC 8601 s2.7.

Contract
    Values only. "none" = there was nothing to check; "temperror" = nobody knows yet, a later try may tell.
    Text in `reason` and `properties` comes from outside: bounded here, quoted where it is written out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from egressguard.policy.facts import Authentication
from egressguard.policy.fields import AuthResult

Disposition = Literal["none", "quarantine", "reject"]

REASON_CHARACTERS = 200

_DKIM_ORDER: tuple[AuthResult, ...] = ("pass", "temperror", "fail", "policy", "permerror", "neutral", "none")
"""Which of several signatures speaks for all: one that may pass later says more than one that never will."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """`method` is "spf", "dkim", "dmarc" or "arc"; `properties` are ("ptype.property", value), RFC 8601 s2.3."""

    method: str
    result: AuthResult
    reason: str = ""
    properties: tuple[tuple[str, str], ...] = ()

    def value(self, name: str) -> str:
        """The property called `name`; "" = there is none."""
        return next((value for key, value in self.properties if key == name), "")


@dataclass(frozen=True, slots=True)
class DomainPolicy:
    """What `domain` publishes for the author's domain (RFC 7489 s6.3): p=, or sp= where `domain` is above it.

    `percent` (pct=) is told and not acted upon: whoever fails, fails."""

    domain: str
    disposition: Disposition
    percent: int = 100
    strict_dkim: bool = False
    strict_spf: bool = False


@dataclass(frozen=True, slots=True)
class SenderAuthentication:
    """`spf` is of MAIL FROM (postmaster@HELO for the null reverse-path), `helo` of HELO alone (RFC 7208 s2.3, s2.4).

    `dkim` has a verdict for each signature looked at, one "none" for an unsigned message. `policy` None = nothing is
    published, or nobody knows; `aligned` has those of "spf", "dkim" that passed for the author's domain."""

    spf: Verdict
    helo: Verdict
    dkim: tuple[Verdict, ...]
    dmarc: Verdict
    arc: Verdict
    policy: DomainPolicy | None = None
    aligned: tuple[str, ...] = ()

    @property
    def disposition(self) -> Disposition:
        """What the author's domain asks of receivers for mail that fails DMARC; "none" where it asks nothing."""
        return self.policy.disposition if self.policy else "none"

    @property
    def summary(self) -> Authentication:
        """One word each, for rules."""
        return Authentication(self.spf.result, overall(self.dkim).result, self.dmarc.result)


def overall(signatures: tuple[Verdict, ...]) -> Verdict:
    """The most telling of several verdicts on signatures: a pass if there is one."""
    return min(signatures, key=lambda verdict: _DKIM_ORDER.index(verdict.result))


def plain(text: str, characters: int = REASON_CHARACTERS) -> str:
    """Text of others for people to read: printable ASCII, cut where it is too long."""
    shown = "".join(c if " " <= c <= "~" else "?" for c in text[: characters + 1])
    return shown if len(shown) <= characters else shown[: characters - 3] + "..."


class Refused(Exception):
    """A record or a signature cannot be used; says which result that is, and why. Never leaves this room."""

    def __init__(self, result: AuthResult, reason: str) -> None:
        super().__init__(reason)
        self.result = result
        self.reason = plain(reason)
