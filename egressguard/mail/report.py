"""What a delivery status notification tells, before it has a form (RFC 3464, RFC 3461). Pure."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from egressguard.mail.outcome import Outcome

WORDS_CHARACTERS = 400
"""Of what a peer said: more is of no use to anybody."""


class Action(enum.Enum):
    """RFC 3464 s2.3.3. RELAYED: to a host that will not tell what became of it. EXPANDED: to several others."""

    FAILED = "failed"
    DELAYED = "delayed"
    DELIVERED = "delivered"
    RELAYED = "relayed"
    EXPANDED = "expanded"


@dataclass(frozen=True, slots=True)
class Report:
    """What a DSN tells. Times are seconds since the epoch; `boundary` must occur nowhere in `original`.

    `envid` and the `orcpts` of forward-paths are as in mail.envelope. `retry_until` counts for DELAYED only.
    `original` is the message or its beginning; `returns_whole`: it is all of it, and all of it comes back.
    `smtputf8`: the original's header section is UTF-8. `client`: the address of who gave us the message, "" = unknown.
    """

    action: Action
    reporting_mta: str
    queue_id: str
    reverse_path: str
    outcomes: Mapping[str, Outcome]
    original: bytes
    arrived_at: float
    at: float
    boundary: str
    given_up: frozenset[str] = frozenset()
    retry_until: float = 0.0
    envid: str | None = None
    orcpts: Mapping[str, str] = field(default_factory=dict)
    returns_whole: bool = False
    smtputf8: bool = False
    client: str = ""

    @property
    def is_utf8(self) -> bool:
        """Whether fields may be UTF-8: it travels as SMTPUTF8 anyway."""
        return not self.reverse_path.isascii()


def visible(text: str) -> str:
    """One line of visible characters, whatever it was."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:WORDS_CHARACTERS]


def visible_ascii(text: str) -> str:
    return visible(text).encode("ascii", "replace").decode("ascii")
