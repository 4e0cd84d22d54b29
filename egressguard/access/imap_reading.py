"""Read an account's mailbox as its mail programs see it: through IMAP, by a session of the private Dovecot.

Contract
    Read-only (EXAMINE, BODY.PEEK), without a password: root, or the user who runs Dovecot, may ask it for a session.
    What it says is compared, never believed: anything that is not understood is a difference.
"""

from __future__ import annotations

import contextlib
import hashlib
import imaplib
import re
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO

from egressguard.access.programs import ENVIRONMENT, find_programs
from egressguard.mailbox.account_name import is_account_name
from egressguard.mailbox.takeover.source import Name, Problems, shown
from egressguard.mailbox.takeover.verify import Shown

AT_ONCE = 200
_FLAGS = {b"\\Seen": "S", b"\\Answered": "R", b"\\Flagged": "F", b"\\Draft": "D", b"\\Deleted": "T"}
_UID = re.compile(rb"[( ]UID (\d+)")
_SET = re.compile(rb"[( ]FLAGS \(([^)]*)\)")


class NoImap(Exception):
    """There is no session to be had; the message says why."""


class _Session(imaplib.IMAP4):
    """IMAP over the pipes of a program that is logged in already (PREAUTH)."""

    def __init__(self, command: list[str]) -> None:
        self._words = command
        super().__init__()

    def open(self, host: str = "", port: int = 0, timeout: float | None = None) -> None:  # noqa: ARG002
        self._program = subprocess.Popen(
            self._words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=ENVIRONMENT,
        )
        assert self._program.stdin is not None and self._program.stdout is not None
        self._to: IO[bytes] = self._program.stdin
        self._from: IO[bytes] = self._program.stdout

    def read(self, size: int) -> bytes:
        return self._from.read(size)

    def readline(self) -> bytes:
        return self._from.readline(imaplib._MAXLINE + 1)  # type: ignore[attr-defined]

    def send(self, data: bytes) -> None:  # type: ignore[override]
        self._to.write(data)
        self._to.flush()

    def shutdown(self) -> None:
        for pipe in (self._to, self._from):
            with contextlib.suppress(OSError):
                pipe.close()
        self._program.terminate()
        self._program.wait()


@contextlib.contextmanager
def session(config: Path, account: str) -> Iterator[imaplib.IMAP4]:
    """Raises NoImap."""
    programs = find_programs()
    if programs is None or not is_account_name(account):
        raise NoImap("Dovecot is not installed")
    try:
        client = _Session(
            [str(programs.doveconf.with_name("doveadm")), "-c", str(config), "exec", "imap", "-u", account]
        )
    except (OSError, imaplib.IMAP4.error) as wrong:
        raise NoImap(f"Dovecot gives no session for {account}; does the access role run? ({wrong})") from wrong
    try:
        yield client
    except imaplib.IMAP4.error as wrong:
        raise NoImap(f"the session for {account} ended: {wrong}") from wrong
    finally:
        with contextlib.suppress(imaplib.IMAP4.error, OSError):
            client.logout()


def compare_over_imap(
    client: imaplib.IMAP4,
    folders: Mapping[Name, tuple[int | None, Mapping[int, Shown]]],
    differences: Problems,
    tick: Callable[[int], object] = lambda _done: None,
) -> int:
    """Compare what IMAP shows with `folders`; return how many messages were looked at. Raises IMAP4.error."""
    looked = 0
    for name, (validity, messages) in folders.items():
        folder = '"' + ("/".join(name) or "INBOX").replace("\\", "\\\\").replace('"', '\\"') + '"'
        answer, _ = client.select(folder, readonly=True)
        if answer != "OK":
            differences.add(shown(name), "IMAP does not show this folder")
            continue
        _, told = client.response("UIDVALIDITY")
        if validity is not None and told != [str(validity).encode()]:
            differences.add(shown(name), f"IMAP says UIDVALIDITY {told}, expected {validity}")
        uids = sorted(messages)
        for start in range(0, len(uids), AT_ONCE):
            some = uids[start : start + AT_ONCE]
            seen = _fetch(client, some)
            for uid in some:
                if (problem := _difference(messages[uid], seen.get(uid))) is not None:
                    differences.add(shown(name), f"IMAP: UID {uid}: {problem}")
            looked += len(some)
            tick(len(some))
    return looked


def _fetch(client: imaplib.IMAP4, uids: list[int]) -> dict[int, Shown]:
    _, answers = client.uid("FETCH", ",".join(map(str, uids)), "(UID FLAGS INTERNALDATE BODY.PEEK[])")
    found: dict[int, Shown] = {}
    for answer in answers or ():
        if not isinstance(answer, tuple):
            continue
        head, content = answer
        uid, words, date = _UID.search(head), _SET.search(head), imaplib.Internaldate2tuple(head)
        if uid and words is not None and date is not None:
            flags = words[1].split()
            letters = "".join(sorted(_FLAGS[flag] for flag in flags if flag in _FLAGS))
            keywords = frozenset(flag.decode("ascii", "replace") for flag in flags if not flag.startswith(b"\\"))
            received = int(time.mktime(date))
            found[int(uid[1])] = Shown(letters, keywords, received, hashlib.sha256(content).digest())
    return found


def _difference(expected: Shown, seen: Shown | None) -> str | None:
    if seen is None:
        return "not shown"
    for name in ("digest", "flags", "keywords", "received_at"):
        there, here = getattr(expected, name), getattr(seen, name)
        if there != here:
            return f"{name} {_words(here)}, expected {_words(there)}"
    return None


def _words(value: object) -> str:
    if isinstance(value, bytes):
        return value.hex()[:16]
    return ", ".join(sorted(value)) if isinstance(value, frozenset) else str(value)
