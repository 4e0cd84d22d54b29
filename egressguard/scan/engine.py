"""What all scanning engines have in common: what they are given, what they say, and that they may say nothing.

Contract
    An engine answers or raises EngineDown; whatever it says is bounded and printable before it leaves its module.
    What it was not able to look at is `unseen`, which is an answer: asking again would not help.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from egressguard.policy.facts import ScanRequest
from egressguard.scan.octets import Octets

MAX_NAMES = 20
NOTHING_SAID = ScanRequest()


@dataclass(slots=True)
class Seen:
    """What an engine that is shown each file by itself found in them; `trouble`: why it could not look at all."""

    found: dict[str, None] = field(default_factory=dict)
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class Subject:
    """One message: whole, as a file descriptor where there is one, and what was found in its files before.

    `number`: clamd has been given it ahead, under this number of its session."""

    content: Octets
    request: ScanRequest = NOTHING_SAID
    fd: int | None = None
    seen: Seen | None = None
    number: int | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """`found`: names of malware; `unseen`: why it could not look ("" = it did); `score` with its reasons `symbols`."""

    found: tuple[str, ...] = ()
    unseen: str = ""
    score: float = 0.0
    symbols: tuple[str, ...] = ()


class Engine(Protocol):
    def ask(self, subject: Subject, seconds: float) -> Answer:
        """Within `seconds`. Raises EngineDown."""
        ...

    def version(self, seconds: float) -> str:
        """Of program and signatures: another text means that a message may be judged anew. Raises EngineDown."""
        ...
