"""The accounts of submission, IMAP and POP3: one file that Dovecot and SMTP AUTH both read, and SCRAM's beside it.

Contract
    A change is whole or not there: written beside the file, fsynced, renamed. Readers never see half a file.
    Writers exclude each other by a lock file; one that waits too long gives up and changes nothing.
    Lines that are not understood (comments, others' accounts) are kept as they are.
    A change by a running gateway's administrator needs no reload: readers look at the file's time.
    A new password's verifier is written before the password file and the old one removed after it: at no step does
    the account have a password that one way of logging in takes and the other does not.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from egressguard.mailbox.account_name import ACCOUNT_NAME_OCTETS, is_account_name
from egressguard.store.durable import Disk, put
from egressguard.store.passwd import (
    FILE_OCTETS,
    PasswdEntry,
    PasswdError,
    PasswdFile,
    hash_password,
    parse_passwd_line,
    render_passwd_line,
    scram_file,
)
from egressguard.store.verifier import (
    Verifier,
    VerifierError,
    Verifiers,
    make_verifier,
    parse_verifiers,
    render_verifiers,
)

FILE_MODE = 0o640  # written by the administrator, read by the group: relay and access
LOCK_SECONDS = 10
_LOCK_RETRY_SECONDS = 0.05


class AccountError(ValueError):
    """The change cannot be made; the message says why, in the administrator's words."""


@dataclass(frozen=True, slots=True)
class _Hashed:
    """What is kept of a password."""

    password_hash: str
    verifier: Verifier | None


class Accounts:
    """The file at `path`; its directory must exist. All calls block; OSError goes up untouched."""

    def __init__(self, path: Path, *, disk: type[Disk] = Disk) -> None:
        self._path = path
        self._disk = disk
        self._file = PasswdFile(path)

    def names(self) -> tuple[str, ...]:
        """All accounts, disabled ones too, sorted. A file that is missing has none."""
        return tuple(sorted(self._file.entries()))

    def rows(self) -> list[dict[str, object]]:
        """All accounts, ready for JSON. Raises OSError."""
        entries, verifiers = self._file.entries(), self._read_verifiers()
        return [
            {
                "name": name,
                "enabled": not entries[name].disabled,
                "scram": verifiers.of(name, entries[name].password_hash) is not None,
            }
            for name in sorted(entries)
        ]

    def exists(self, name: str) -> bool:
        """Whether there is such an account, disabled or not. `name` is taken as it is."""
        return name in self._file.entries()

    def add(self, name: str, password: str) -> None:
        """Raises AccountError: not a name, taken, not a password."""
        if not is_account_name(name):
            raise AccountError(
                f"not an account name: {name[:80]!r}; expected 1 to {ACCOUNT_NAME_OCTETS} lower-case letters, "
                'digits, ".", "_" or "-", starting with a letter or digit'
            )
        hashed = _hashed(password)
        entry = PasswdEntry(name, hashed.password_hash)

        def added(entries: list[PasswdEntry | str]) -> list[PasswdEntry | str]:
            if _find(entries, name) is not None:
                raise AccountError(f"there is an account {name} already")
            return [*entries, entry]

        self._change(added, name, hashed)

    def set_password(self, name: str, password: str) -> None:
        """A new password; an account that was disabled works again. Raises AccountError."""
        hashed = _hashed(password)
        self._replace(name, lambda entry: replace(entry, password_hash=hashed.password_hash, disabled=False), hashed)

    def disable(self, name: str) -> None:
        """No password fits any more; mail still comes in and stays. Raises AccountError."""
        self._replace(name, lambda entry: replace(entry, disabled=True))

    def enable(self, name: str) -> None:
        """The password that it had fits again. Raises AccountError."""
        self._replace(name, lambda entry: replace(entry, disabled=False))

    def delete(self, name: str) -> None:
        """Remove the account. Its mailbox stays on disk: a new account of this name gets it. Raises AccountError."""
        self._replace(name, lambda _entry: None)

    def _replace(
        self, name: str, change: Callable[[PasswdEntry], PasswdEntry | None], hashed: _Hashed | None = None
    ) -> None:
        def changed(entries: list[PasswdEntry | str]) -> list[PasswdEntry | str]:
            at = _find(entries, name)
            if at is None:
                raise AccountError(f"there is no account {name[:80]!r}")
            old = entries[at]
            assert isinstance(old, PasswdEntry)
            new = change(old)
            return [*entries[:at], *([] if new is None else [new]), *entries[at + 1 :]]

        self._change(changed, name, hashed)

    def _change(
        self,
        change: Callable[[list[PasswdEntry | str]], list[PasswdEntry | str]],
        name: str,
        hashed: _Hashed | None,
    ) -> None:
        with _locked(self._path.with_name(f"{self._path.name}.lock")):
            lines = change(self._read())
            verifiers = self._read_verifiers()
            if hashed is not None and hashed.verifier is not None:
                verifiers = verifiers.having(name, hashed.password_hash, hashed.verifier)
                self._put_verifiers(verifiers)
            text = "".join(render_passwd_line(line) if isinstance(line, PasswdEntry) else f"{line}\n" for line in lines)
            self._put(self._path, text)
            entries = (line for line in lines if isinstance(line, PasswdEntry))
            self._put_verifiers(verifiers.only((entry.name, entry.password_hash) for entry in entries))

    def _put(self, path: Path, text: str) -> None:
        octets = text.encode("utf-8", "surrogateescape")
        if len(octets) > FILE_OCTETS:
            raise AccountError(f"{path} would be over {FILE_OCTETS} octets")
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
        put(path, octets, temporary=temporary, mode=FILE_MODE, disk=self._disk)

    def _put_verifiers(self, verifiers: Verifiers) -> None:
        text, path = render_verifiers(verifiers), scram_file(self._path)
        if text != _text_of(path):
            self._put(path, text)

    def _read_verifiers(self) -> Verifiers:
        return parse_verifiers(_text_of(scram_file(self._path)))[0]

    def _read(self) -> list[PasswdEntry | str]:
        return [_parsed(line) for line in _text_of(self._path).split("\n") if line]


def _text_of(path: Path) -> str:
    """ "" when there is no file."""
    try:
        return path.read_bytes().decode("utf-8", "surrogateescape")
    except FileNotFoundError:
        return ""


def _parsed(line: str) -> PasswdEntry | str:
    try:
        return parse_passwd_line(line)
    except PasswdError:
        return line


def _find(entries: list[PasswdEntry | str], name: str) -> int | None:
    """Of two lines with one name the first holds, as for the readers."""
    for at, entry in enumerate(entries):
        if isinstance(entry, PasswdEntry) and entry.name == name:
            return at
    return None


def _hashed(password: str) -> _Hashed:
    try:
        password_hash = hash_password(password)
    except PasswdError as wrong:
        raise AccountError(str(wrong)) from None
    try:
        return _Hashed(password_hash, make_verifier(password))
    except VerifierError:  # characters that SCRAM does not know: the account logs in with PLAIN only
        return _Hashed(password_hash, None)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock file. It stays: removing it would let two writers hold two files of one name."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        give_up_at = time.monotonic() + LOCK_SECONDS
        while not _try_lock(fd):
            if time.monotonic() > give_up_at:
                raise AccountError("another change of the accounts does not end; nothing was changed")
            time.sleep(_LOCK_RETRY_SECONDS)
        yield
    finally:
        os.close(fd)


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
