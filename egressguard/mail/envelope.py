"""The envelope of a message: who it is from and for, and what its transport was told about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

NULL_REVERSE_PATH = ""


@dataclass(frozen=True, slots=True)
class RecipientOptions:
    """What RCPT said of one recipient (RFC 3461 s4.1, s4.2). `notify` in upper case, None = nothing was said.

    `orcpt` is "addr-type;xtext" as it came: it is handed on unchanged."""

    notify: tuple[str, ...] | None = None
    orcpt: str | None = None


NO_OPTIONS = RecipientOptions()


@dataclass(frozen=True, slots=True)
class Envelope:
    """Paths are without angle brackets; the null reverse-path is "".

    `ret` is "FULL" or "HDRS", `envid` xtext as it came (RFC 3461 s4.3, s4.4); `recipients` has options of those
    forward-paths for which there were any."""

    reverse_path: str
    forward_paths: tuple[str, ...] = ()
    smtputf8: bool = False
    body_8bit: bool = False
    ret: str | None = None
    envid: str | None = None
    requiretls: bool = False
    binary: bool = False
    recipients: Mapping[str, RecipientOptions] = field(default_factory=dict)
