"""What message rules may look at: the facts of one message, gathered before anything is decided.

A fact that is not known *yet* (the content, before DATA) or not *at all* (a scanner that did not answer) is
None; a matcher that needs it cannot tell, and "cannot tell" is never a match (see decide_mail).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from egressguard.net.flow import IPAddress
from egressguard.policy.verdict import Verdict
from egressguard.values import value


@dataclass(frozen=True, slots=True)
class Attachment:
    """`path` from the outermost name to the innermost ("a.zip", "run.exe"); `media_type` by content, lower case.

    `encrypted`: what it holds cannot be read; `macro`: it carries program code of an office program;
    `active`: it does something of itself when a person opens it."""

    path: tuple[str, ...]
    media_type: str
    size_octets: int
    encrypted: bool = False
    macro: bool = False
    active: bool = False

    @property
    def name(self) -> str:
        return self.path[-1]


@dataclass(frozen=True, slots=True)
class ScanRequest:
    """What travels with a message to the scan: who gave it ("" = not known), which facts the rules ask engines for."""

    client: str = ""
    helo: str = ""
    user: str = ""
    reverse_path: str | None = None
    forward_paths: tuple[str, ...] = ()
    queue_id: str = ""
    asks: frozenset[str] = frozenset({"verdict", "score"})


@dataclass(frozen=True, slots=True)
class EngineResult:
    """What became of asking one engine: clean, found, unseen (it could not look into the message) or down."""

    engine: str
    result: str
    seconds: float


@value(frozen=True, slots=True)
class ScanReport:
    """`verdict` None: a scanner could not answer, `findings` says why. `findings` are short words for people.

    `score` is what a spam filter gave, the more the worse: 0 = none is asked, None = it did not answer."""

    verdict: Verdict | None
    findings: tuple[str, ...] = ()
    attachments: tuple[Attachment, ...] | None = None
    score: float | None = 0.0
    engines: tuple[EngineResult, ...] = ()


@dataclass(frozen=True, slots=True)
class Moment:
    """Local time: `weekday` Monday = 0, `minute` of the day."""

    weekday: int
    minute: int


@dataclass(frozen=True, slots=True)
class Authentication:
    """RFC 8601 results; "none" = there was nothing to check, or nobody checked.

    `dmarc_policy` is what the author's domain asks for where DMARC fails: none, quarantine or reject."""

    spf: str = "none"
    dkim: str = "none"
    dmarc: str = "none"
    arc: str = "none"
    dmarc_policy: str = "none"


@dataclass(frozen=True, slots=True)
class Excess:
    """One limit that this message would exceed: "300 recipients_per_hour for user anna; this would be the 301st"."""

    key: str
    unit: str
    most: int
    found: int

    def __str__(self) -> str:
        return f"{self.found} {self.unit} for {self.key}, {self.most} are allowed"


@value(frozen=True, slots=True)
class MailFacts:
    """One message for one recipient. `listener` is the listener's name; `user` None = not authenticated.

    `recipient_count` is of the whole message, `headers` maps lower-case field names to their decoded values;
    `exceeded` has the limits (by name) that the message would be above, `listed` the block lists that have the client.
    """

    client: IPAddress
    listener: str
    helo: str = ""
    tls: bool = False
    user: str | None = None
    redirected: bool = False
    reverse_path: str = ""
    forward_path: str = ""
    moment: Moment | None = None
    authentication: Authentication | None = Authentication()
    listed: frozenset[str] | None = frozenset()
    exceeded: Mapping[str, Excess] = field(default_factory=dict)
    recipient_count: int | None = None
    size_octets: int | None = None
    headers: Mapping[str, tuple[str, ...]] | None = None
    scan: ScanReport | None = None
