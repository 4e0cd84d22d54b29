"""The SMTP envelope: who to tell when it fails, who it is for, and what was asked for each (RFC 5321 s2.3.1, RFC 3461).

Contract
    Pure. What a client asked is kept as it asked, so that it can be handed on unchanged; None = it did not ask.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field

from egressguard.values import value

NULL_REVERSE_PATH = ""
"""`MAIL FROM:<>`. A message that carries it must never cause a DSN (RFC 5321 s4.5.5)."""

NEVER = "NEVER"
NOTIFY_EVENTS = ("SUCCESS", "FAILURE", "DELAY")
DEFAULT_NOTIFY = ("FAILURE",)
"""Of those who did not ask. RFC 3461 s4.1 leaves it to us whether they hear of delays: a device cannot act on it."""


@value(frozen=True, slots=True)
class RecipientOptions:
    """RCPT's parameters. `notify` is ("NEVER",) or some of NOTIFY_EVENTS in that order; `orcpt` is "type;xtext"."""

    notify: tuple[str, ...] | None = None
    orcpt: str | None = None

    def wants(self, event: str) -> bool:
        """Whether a DSN about one of NOTIFY_EVENTS may be made for this recipient (RFC 3461 s4.1)."""
        return event in (DEFAULT_NOTIFY if self.notify is None else self.notify)


NO_OPTIONS = RecipientOptions()


@value(frozen=True, slots=True)
class Envelope:
    """Paths without angle brackets; the null reverse-path is the empty string inside, everywhere.

    `ret` is "FULL", "HDRS" or None; `envid` the xtext of ENVID; `binary` says BODY=BINARYMIME (then `body_8bit` too).
    `recipients` has the options of those forward paths that came with any.
    """

    reverse_path: str
    forward_paths: tuple[str, ...] = ()
    smtputf8: bool = False
    body_8bit: bool = False
    ret: str | None = None
    envid: str | None = None
    requiretls: bool = False
    binary: bool = False
    recipients: Mapping[str, RecipientOptions] = field(default_factory=dict)
