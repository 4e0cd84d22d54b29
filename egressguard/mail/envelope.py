"""The SMTP envelope: who to tell when it fails, and who it is for (RFC 5321 s2.3.1)."""

from __future__ import annotations

from dataclasses import dataclass

NULL_REVERSE_PATH = ""
"""`MAIL FROM:<>`. A message that carries it must never cause a DSN (RFC 5321 s4.5.5)."""


@dataclass(frozen=True, slots=True)
class Envelope:
    """Paths without angle brackets; the null reverse-path is the empty string inside, everywhere."""

    reverse_path: str
    forward_paths: tuple[str, ...] = ()
    smtputf8: bool = False
    body_8bit: bool = False
