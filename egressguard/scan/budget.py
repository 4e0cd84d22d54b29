"""What unpacking one message may cost, and what it brings to light: shared by all readers of archives.

Contract
    All archives of a message share one `Budget`. Who has spent it stops, and `Opened.problems` says so once.
    A `Member` holds at most MAX_KEPT_OCTETS of a file's content: kinds are told by the head, and what would have to
    be opened but is larger is a problem.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from egressguard.scan.heading import Describer
from egressguard.scan.octets import Octets, gather
from egressguard.values import value

MAX_MEMBERS = 5000
MAX_CPU_SECONDS = 4.0
MAX_KEPT_OCTETS = 32 * 1024 * 1024
MAX_NAME_CHARACTERS = 255
MAX_PROBLEMS = 200
TOO_MUCH = "unpacks to more than is allowed"


@dataclass(slots=True)
class Opened:
    """`problems`: why something inside could not be looked at; each is a reason to hold the message."""

    problems: list[str] = field(default_factory=list)

    def problem(self, words: str) -> None:
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(words)


@dataclass(slots=True)
class Budget:
    """What may still be unpacked from one message, and read of the header sections of mail in it.

    `clock` counts the processor's time (children's too), not the wall's: a busy machine holds no more mail than an
    idle one."""

    octets: int
    members: int = MAX_MEMBERS
    seconds: float = MAX_CPU_SECONDS
    kept: int = 2 * MAX_KEPT_OCTETS
    describe: Describer = field(default_factory=Describer)
    clock: Callable[[], float] = field(default=lambda: sum(os.times()[:4]))
    _ends: float | None = None
    _spent: bool = False

    def seconds_left(self) -> float:
        if self._ends is None:
            self._ends = self.clock() + self.seconds
        return max(self._ends - self.clock(), 0.0)

    def spent(self, name: str, opened: Opened) -> bool:
        """Whether nothing more may be unpacked; the first time it is a problem."""
        if self._spent:
            return True
        if self.octets < 0:
            words = f"{TOO_MUCH}: {name}"
        elif self.members < 0:
            words = f"{TOO_MUCH}: archive with more than {MAX_MEMBERS} members"
        elif not self.seconds_left():
            words = f"takes too long to unpack: {name}"
        else:
            return False
        self._spent = True
        opened.problem(words)
        return True

    def take(self, name: str, chunks: Iterable[bytes], opened: Opened) -> Taken:
        """What `chunks` hold, as far as the budget goes; all of it is counted, no more than fits is kept."""
        size = 0

        def kept() -> Iterator[bytes]:
            nonlocal size
            room = min(MAX_KEPT_OCTETS, self.kept)
            for chunk in chunks:
                size += len(chunk)
                self.octets -= len(chunk)
                yield chunk[:room]
                room = max(room - len(chunk), 0)
                if self.spent(name, opened):
                    break

        content = gather(kept())
        return Taken(content, size)


@value(frozen=True, slots=True)
class Taken:
    """The head of a file and its whole size."""

    content: Octets
    size: int

    @property
    def whole(self) -> bool:
        return self.size == len(self.content)


@value(frozen=True, slots=True)
class Member:
    """`path` from the outer archive's name to the member's; `content` is what could be unpacked of it.

    `encrypted`: it is there, but only whoever has the password can read it. `size_octets`: None = as many as `content`
    has."""

    path: tuple[str, ...]
    content: Octets
    media_type: str
    encrypted: bool = False
    size_octets: int | None = None


def shown(name: str) -> str:
    """A member's name as it can be shown: printable, its end if it is long."""
    return "".join(c for c in name if c.isprintable())[-MAX_NAME_CHARACTERS:] or "unnamed"
