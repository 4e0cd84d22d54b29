"""What message rules may look at: the facts of one message, gathered before anything is decided.

A fact that is not known *yet* (the content, before DATA) or not *at all* (a scanner that did not answer) is
None; a matcher that needs it cannot tell, and "cannot tell" is never a match (see decide_mail).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from egressguard.net.flow import IPAddress


class Verdict(enum.Enum):
    """What scanning found, the worst first."""

    INFECTED = "infected"
    DENIED = "denied"
    CLEAN = "clean"


@dataclass(frozen=True, slots=True)
class Attachment:
    """`path` from the outermost name to the innermost ("a.zip", "run.exe"); `media_type` by content, lower case."""

    path: tuple[str, ...]
    media_type: str
    size_octets: int

    @property
    def name(self) -> str:
        return self.path[-1]


@dataclass(frozen=True, slots=True)
class ScanReport:
    """`verdict` None: a scanner could not answer, `findings` says why. `findings` are short words for people."""

    verdict: Verdict | None
    findings: tuple[str, ...] = ()
    attachments: tuple[Attachment, ...] | None = None


@dataclass(frozen=True, slots=True)
class MailFacts:
    """One message for one recipient. `listener` is the listener's name; `user` None = not authenticated."""

    client: IPAddress
    listener: str
    helo: str = ""
    tls: bool = False
    user: str | None = None
    redirected: bool = False
    reverse_path: str = ""
    forward_path: str = ""
    size_octets: int | None = None
    scan: ScanReport | None = None
