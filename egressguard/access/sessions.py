"""Who has a session at IMAP or POP3, and ending somebody's: doveadm(1)'s `who` and `kick`.

Contract
    Raises ProgramFailed when doveadm does not answer; an answer that is not understood is one, too.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from egressguard.access.programs import ProgramFailed, Programs, answer_of
from egressguard.mailbox.account_name import is_account_name

ANSWER_OCTETS = 16 * 1024 * 1024
_NOBODY_KICKED = 68  # Dovecot 2.3's exit status; 2.4 says 0


@dataclass(frozen=True, slots=True)
class OpenSession:
    protocol: str
    user: str
    client: str


async def open_sessions(programs: Programs, config: Path) -> list[OpenSession]:
    command = (programs.doveadm, "-c", str(config), "-f", "json", "who", "-1")
    return parse_who(await answer_of(*command, most_octets=ANSWER_OCTETS))


def parse_who(text: str) -> list[OpenSession]:
    """Raises ProgramFailed."""
    try:
        rows: list[dict[str, Any]] = json.loads(text or "[]")
        return [OpenSession(str(row["service"]), str(row["username"]), str(row["ip"])) for row in rows]
    except (ValueError, KeyError, TypeError):
        raise ProgramFailed(f"doveadm who: an answer that is not understood: {text[:80]!r}") from None


def count_by_protocol(sessions: list[OpenSession]) -> dict[str, int]:
    return {"imap": 0, "pop3": 0} | Counter(session.protocol for session in sessions)


async def end_sessions(programs: Programs, config: Path, user: str) -> None:
    """All that this user has open now."""
    if not is_account_name(user):  # doveadm takes patterns
        raise ProgramFailed(f"not an account name: {user[:80]!r}")
    await answer_of(programs.doveadm, "-c", str(config), "kick", user, fine=(0, _NOBODY_KICKED))
