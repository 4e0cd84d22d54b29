"""The accounts' password file, shared with Dovecot (the line format of its passwd-file).

Contract
    A line is `name:{ARGON2ID}$argon2id$...::::::`. A "!" before the scheme disables the account: no password fits.
    A line that cannot be understood is left out, and logged once a reading; it never lets anybody in.
    An unknown name takes as long to refuse as a wrong password: nobody learns who has an account here.
    The file is read again when it changes. A file that is missing has no accounts; one that cannot be read
    raises OSError, so that "cannot tell" never becomes "wrong password".
    SCRAM's verifiers (store.verifier) lie in a file of their own beside it, which Dovecot never sees.
"""

from __future__ import annotations

import logging
import os
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHashError

from egressguard.store.verifier import Verifier, Verifiers, fake_verifier, parse_verifiers

log = logging.getLogger(__name__)

SCHEME = "{ARGON2ID}"
DISABLED = "!"
NAME_OCTETS = 64
PASSWORD_OCTETS = 512  # a longer one is somebody trying to keep us busy
LINE_OCTETS = 1024
FILE_OCTETS = 16 * 1024 * 1024

_NAME = re.compile(rf"[a-z0-9][a-z0-9._-]{{0,{NAME_OCTETS - 1}}}")
_HASH = re.compile(r"\$argon2id\$[A-Za-z0-9+/=,$]{20,300}")
_REST = "::::::"  # uid, gid, gecos, home, shell and Dovecot's extra fields: all empty

# OWASP's second choice: 19 MiB, 2 passes, 1 lane. 26 ms on a small router; four at once are 76 MiB.
_HASHER = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
_NOBODY = "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21lc2FsdA$jzmgOyBoSoRcs4cAx/yNkFM/0XmM2kNpMZu1eTaNqKg"
"""A hash that no password is known for: what an unknown name's password is compared with."""


class PasswdError(ValueError):
    """The line or name is not one of this file's; the message says what was expected."""


@dataclass(frozen=True, slots=True)
class PasswdEntry:
    """`password_hash` without scheme ("$argon2id$..."); `rest` are Dovecot's other fields, kept as they were."""

    name: str
    password_hash: str
    disabled: bool = False
    rest: str = _REST


def hash_password(password: str) -> str:
    """A new salted hash, "$argon2id$...". Takes tens of milliseconds. Raises PasswdError (empty, too long)."""
    octets = password.encode("utf-8", "surrogateescape")
    if not octets or len(octets) > PASSWORD_OCTETS or b"\0" in octets:
        raise PasswdError(f"expected a password of 1 to {PASSWORD_OCTETS} octets without NUL")
    return _HASHER.hash(octets)


def parse_passwd_line(line: str) -> PasswdEntry:
    """One line, with or without its line feed. Raises PasswdError."""
    name, colon, after = line.rstrip("\n").partition(":")
    password, colon_2, rest = after.partition(":")
    if not colon or not colon_2 or len(line) > LINE_OCTETS:
        raise PasswdError(f"expected name:{SCHEME}hash{_REST}, at most {LINE_OCTETS} octets")
    disabled = password.startswith(DISABLED)
    password = password.removeprefix(DISABLED)
    if not password.startswith(SCHEME):
        raise PasswdError(f"expected the scheme {SCHEME}")
    return _checked(PasswdEntry(name, password.removeprefix(SCHEME), disabled, colon_2 + rest))


def render_passwd_line(entry: PasswdEntry) -> str:
    """The line with its line feed. Raises PasswdError: what it writes, it can read."""
    _checked(entry)
    mark = DISABLED if entry.disabled else ""
    return f"{entry.name}:{mark}{SCHEME}{entry.password_hash}{entry.rest}\n"


def _checked(entry: PasswdEntry) -> PasswdEntry:
    if not _NAME.fullmatch(entry.name):
        raise PasswdError(f"expected a name of lower-case letters, digits and . _ -, at most {NAME_OCTETS} long")
    if not _HASH.fullmatch(entry.password_hash):
        raise PasswdError("expected an argon2id hash")
    if not entry.rest.startswith(":") or not entry.rest.isprintable():
        raise PasswdError("expected printable fields after the hash")
    return entry


def parse_passwd(text: str) -> tuple[dict[str, PasswdEntry], list[int]]:
    """(entries by name, the numbers of lines that are none). Of two lines with one name the first holds.

    Empty lines and comments ("#") are neither.
    """
    entries: dict[str, PasswdEntry] = {}
    faults: list[int] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line or line.startswith("#"):
            continue
        try:
            entry = parse_passwd_line(line)
        except PasswdError:
            faults.append(number)
        else:
            entries.setdefault(entry.name, entry)
    return entries, faults


def scram_file(path: Path) -> Path:
    """Where the verifiers of the password file at `path` lie."""
    return path.with_name(f"{path.name}.scram")


T = TypeVar("T")


class _Watched(Generic[T]):
    """What a file says, read again when it changes; a file that is missing is an empty one."""

    def __init__(self, path: Path, parse: Callable[[str], tuple[T, list[int]]]) -> None:
        self._path = path
        self._parse = parse
        self._lock = threading.Lock()
        self._stamp: tuple[int, int, int] | None = None
        self._value = parse("")[0]

    def value(self) -> T:
        """Raises OSError."""
        with self._lock:
            stamp = _stamp_of(self._path)
            if stamp != self._stamp:
                self._value = self._read() if stamp is not None else self._parse("")[0]
                self._stamp = stamp
            return self._value

    def _read(self) -> T:
        with self._path.open("rb") as file:
            octets = file.read(FILE_OCTETS + 1)
        if len(octets) > FILE_OCTETS:
            raise OSError(f"{self._path} is over {FILE_OCTETS} octets")
        value, faults = self._parse(octets.decode("utf-8", "replace"))
        if faults:
            fields = {"path": str(self._path), "lines": faults[:20]}
            log.warning("lines of the password file cannot be understood", extra={"fields": fields})
        return value


class PasswdFile:
    """The file at `path`, read again when it changes. Safe to use from several threads; all calls block."""

    def __init__(self, path: Path) -> None:
        self._entries: _Watched[dict[str, PasswdEntry]] = _Watched(path, parse_passwd)
        self._verifiers: _Watched[Verifiers] = _Watched(scram_file(path), parse_verifiers)
        self._scram_file = scram_file(path)

    def verify(self, name: str, password: str) -> bool:
        """Whether the password is that account's. Names ignore case. Raises OSError (cannot tell)."""
        octets = password.encode("utf-8", "surrogateescape")
        entry = self.entries().get(name.lower())
        usable = entry is not None and not entry.disabled and 0 < len(octets) <= PASSWORD_OCTETS
        expected = entry.password_hash if entry is not None and usable else _NOBODY
        return _fits(expected, octets[:PASSWORD_OCTETS]) and usable

    def entries(self) -> Mapping[str, PasswdEntry]:
        """All accounts by name, as the file has them now. Raises OSError."""
        return self._entries.value()

    def standing(self, name: str) -> str:
        """Another one after the account was disabled, removed ("" both) or given another password. Raises OSError."""
        entry = self.entries().get(name)
        return "" if entry is None or entry.disabled else entry.password_hash

    def offers_scram(self) -> bool:
        """Whether any account may have a verifier. One look at the file's size; False when it cannot be told."""
        try:
            return self._scram_file.stat().st_size > 0
        except OSError:
            return False

    def scram_verifier(self, name: str) -> Verifier | None:
        """That account's verifier; None: no such account, disabled, or its password was set without one.

        Names ignore case. Raises OSError (cannot tell)."""
        entry = self.entries().get(name.lower())
        if entry is None or entry.disabled:
            return None
        return self._verifiers.value().of(entry.name, entry.password_hash)

    def fake_verifier(self, name: str) -> Verifier:
        """What to show when there is none, so that nobody learns who has an account here. Raises OSError."""
        return fake_verifier(self._verifiers.value().salt_key, name.lower())


def _stamp_of(path: Path) -> tuple[int, int, int] | None:
    """What differs when the file was replaced or written; None when there is no file."""
    try:
        status = os.stat(path)  # noqa: PTH116 -- one call, and its error is the answer
    except FileNotFoundError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size


def _fits(password_hash: str, password: bytes) -> bool:
    try:
        return _HASHER.verify(password_hash, password)
    except (Argon2Error, InvalidHashError):
        return False
