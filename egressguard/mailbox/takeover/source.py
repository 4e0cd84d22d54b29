"""What a mailbox that is taken over consists of: words that every format is read into.

Contract
    Pure values. A folder's name is a path of parts in modified UTF-7 (RFC 3501 s5.1.3), as Maildir++ has them on
    disk; () is INBOX. UIDs of a folder ascend strictly and lie below `uid_next`.
    Nothing that a source says is used before it was checked: what cannot be right is told as a problem.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

Name = tuple[str, ...]
INBOX: Name = ()

MAX_UID = 2**32 - 1
MAX_FOLDERS = 10_000
MAX_MESSAGES = 2_000_000
MAX_PROBLEMS = 1000
"""Told of one account; a hostile source may have millions."""


class SourceError(Exception):
    """This source cannot be taken over; the message says which file, and what was expected."""


@dataclass(frozen=True, slots=True)
class Message:
    """`key` names the message within its folder for ever. `flags` are Maildir's letters, sorted.

    `is_new`: no program has shown it yet (Maildir's new/). `uidl` None: POP3 clients of the source had none to keep.
    `pop3_order`: POP3 showed messages in this order, from 1, and those without it last; None: in the order of UIDs."""

    key: str
    uid: int
    flags: str
    keywords: tuple[str, ...]
    received_ns: int
    uidl: str | None = None
    is_new: bool = False
    pop3_order: int | None = None


@dataclass(frozen=True, slots=True)
class Folder:
    """`uid_validity` None: the source never gave UIDs; those here are ours."""

    name: Name
    uid_validity: int | None
    uid_next: int
    messages: Sequence[Message]


class Reader(Protocol):
    """One folder, open. Close it; content is read between."""

    @property
    def folder(self) -> Folder: ...

    def pieces(self, message: Message) -> Iterator[bytes]:
        """The message's octets. Raises OSError: gone, or not to be read; SourceError: not what it should be."""
        ...

    def close(self) -> None: ...


class Source(Protocol):
    """All folders of one account."""

    @property
    def problems(self) -> Problems: ...

    def folders(self) -> Iterator[Reader]:
        """Each is closed by the caller. Raises SourceError, OSError."""
        ...

    def subscriptions(self) -> list[Name]: ...


@dataclass(slots=True)
class Problems:
    """What could not be taken as it is; bounded."""

    told: list[str] = field(default_factory=list)
    count: int = 0

    def add(self, where: str, what: str) -> None:
        self.count += 1
        if len(self.told) < MAX_PROBLEMS:
            self.told.append(f"{_printable(where)}: {what}")


def shown(name: Name) -> str:
    return "/".join(name) or "INBOX"


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text[:300])
