"""Who has a mailbox: the accounts, and people of the system where PAM says who they are (`access.pam_service`).

Contract
    People are those whom /etc/passwd itself has, with a number from FIRST to LAST: no daemon gets mail. Directory
    services are not asked: one that is away says "no such user", and mail would be refused for that.
    A file that cannot be read raises OSError, "cannot tell". It is read again when it changes.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

FIRST, LAST = 1000, 59_999
"""Debian's policy, s9.2.2: users that adduser makes."""
PASSWD = Path("/etc/passwd")
MAX_OCTETS = 64 * 1024 * 1024

_Stamp = tuple[int, int, int]


class Names(Protocol):
    """Raises OSError when it cannot tell."""

    def exists(self, name: str) -> bool: ...


class People:
    """mailbox.recipients.AccountNames. `by_pam`: whether people of the system count now."""

    def __init__(self, accounts: Names, by_pam: Callable[[], bool], passwd: Path = PASSWD) -> None:
        self._accounts = accounts
        self._by_pam = by_pam
        self._passwd = passwd
        self._known: tuple[_Stamp, frozenset[str]] | None = None

    def exists(self, name: str) -> bool:
        return self._accounts.exists(name) or (self._by_pam() and name in self._people())

    def _people(self) -> frozenset[str]:
        status = self._passwd.stat()
        stamp = (status.st_mtime_ns, status.st_ino, status.st_size)
        if self._known is None or self._known[0] != stamp:
            with self._passwd.open("rb") as file:
                self._known = (stamp, people_in(file.read(MAX_OCTETS)))
        return self._known[1]


def people_in(passwd: bytes) -> frozenset[str]:
    """The names in a passwd file (passwd(5)) that are people's; lines that make no sense are nobody's."""
    rows = (line.split(":") for line in os.fsdecode(passwd).splitlines())
    return frozenset(row[0] for row in rows if len(row) == 7 and _is_number(row[2]) and FIRST <= int(row[2]) <= LAST)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 10
