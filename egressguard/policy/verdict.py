"""What scanning may find in a message. By itself, for what tells of ten thousand messages and needs no other fact."""

from __future__ import annotations

import enum


class Verdict(enum.Enum):
    """What scanning found, the worst first. AMBIGUOUS: not all mail programs see the same attachments."""

    INFECTED = "infected"
    DENIED = "denied"
    AMBIGUOUS = "ambiguous"
    CLEAN = "clean"
