"""What Dovecot's log says about logins and removals, as values.

Contract
    Pure and bounded: any octets in, short lines out; what is not understood is Other, never an error.
    Names in a line are what a stranger typed: one that is not an account name comes out as "".
    Matching starts at the line's head, before anything that a client can choose.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from egressguard.mailbox.account_name import is_account_name

LINE_OCTETS = 4096
_ATTEMPTS_MOST = 1000

_ACCEPTED = re.compile(r"(imap|pop3)-login: Info: (?:Login|Logged in): ")
_REFUSED = re.compile(
    r"(imap|pop3)-login: Info: [A-Za-z ]+: [^(:<]*\((auth failed|user disabled)(?:, (\d{1,6}) attempts)?"
)
"""Dovecot says "user disabled" of a client that is shut out (access.shut_out)."""
_REMOVED = re.compile(
    r"(imap|pop3)\(([^()<>]{1,64})\)<\d+><[^<>]*>: Info: (?:Mailbox [^:]*: )?"
    r"(delete|expunge|mailbox_delete|Mailbox deleted)\b"
)
_ORDERED = re.compile(
    r"imap\(([^()<>]{1,64})\)<\d+><[^<>]*>: Info: (?:Mailbox [^:]*: )?(?:copy|save)\b.*? "
    r"box=Quarantine/(?:Release|Delete),"
)
_LEVEL = re.compile(r"[^:]{1,200}(?::T\d{1,6}>)?: (Debug|Info|Warning|Error|Fatal|Panic): ")
_USER = re.compile(r"user=<([^>]{1,64})>")
_ADDRESS = re.compile(r" rip=([0-9a-fA-F.:]{2,45})(?:,|$)")
_STARTED = re.compile(r"master: Info: Dovecot v\S+ .*starting up")


@dataclass(frozen=True, slots=True)
class Started:
    """The master listens on all its sockets."""


@dataclass(frozen=True, slots=True)
class Login:
    protocol: str
    accepted: bool
    attempts: int
    user: str
    address: str
    shut_out: bool = False


@dataclass(frozen=True, slots=True)
class Removal:
    """`event`: delete (marked), expunge (gone), mailbox_delete (a folder with all in it)."""

    protocol: str
    user: str
    event: str


@dataclass(frozen=True, slots=True)
class Ordered:
    """Somebody put something into a folder that is an order. A hint to look there, nothing more."""

    user: str


@dataclass(frozen=True, slots=True)
class Other:
    level: str
    text: str


Event = Started | Login | Removal | Ordered | Other


def parse_line(line: str) -> Event:
    if accepted := _ACCEPTED.match(line):
        return Login(accepted[1], True, 1, _user(line), _address(line))
    if refused := _REFUSED.match(line):
        attempts = min(int(refused[3] or 1), _ATTEMPTS_MOST)
        return Login(refused[1], False, attempts, _user(line), _address(line), refused[2] == "user disabled")
    if removed := _REMOVED.match(line):
        event = "mailbox_delete" if removed[3] == "Mailbox deleted" else removed[3]
        return Removal(removed[1], removed[2] if is_account_name(removed[2]) else "", event)
    if (ordered := _ORDERED.match(line)) and is_account_name(ordered[1]):
        return Ordered(ordered[1])
    if _STARTED.match(line):
        return Started()
    level = _LEVEL.match(line)
    return Other(level[1].lower() if level else "error", line)


class LineSplitter:
    """Octets of a pipe into lines; what is longer than LINE_OCTETS is cut there."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, octets: bytes) -> list[str]:
        *whole, rest = (self._rest + octets).split(b"\n")
        lines = [self._line(line) for line in whole]
        self._rest = rest[:LINE_OCTETS]
        return [line for line in lines if line]

    def _line(self, octets: bytes) -> str:
        return octets[:LINE_OCTETS].decode("utf-8", "replace").strip()


def _user(line: str) -> str:
    found = _USER.search(line)
    name = found[1].lower() if found else ""
    return name if is_account_name(name) else ""


def _address(line: str) -> str:
    """The last one: what stands before it may be a user name that somebody made up to look like this."""
    found = _ADDRESS.findall(line)
    return str(found[-1]) if found else ""
