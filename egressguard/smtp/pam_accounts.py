"""People of the system beside the accounts' file: passwords asked of PAM, where the rules name a service.

Contract
    A name that the accounts' file has is the file's alone, disabled or not. Only PLAIN and LOGIN reach PAM.
    Only PAM's word that a password is wrong or a person may not enter is "no"; all else is OSError, "cannot tell".
    PAM's modules run in this process, as its user: those that need root (pam_unix for others' passwords) say no.
"""

from __future__ import annotations

import re
from typing import Any

from egressguard.store.passwd import PASSWORD_OCTETS, PasswdFile
from egressguard.store.verifier import Verifier

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_NO = frozenset({6, 7, 8, 10, 11, 12, 13, 27})
"""Linux-PAM's codes: permission denied, wrong, credentials insufficient, unknown, too many tries, new password needed,
account expired, password expired."""


class PamAccounts:
    """smtp.auth.Accounts: `file` first, then `service` of PAM. All calls block."""

    def __init__(self, file: PasswdFile, service: str) -> None:
        self._file = file
        self._service = service

    def verify(self, name: str, password: str) -> bool:
        """Raises OSError (cannot tell): PAM's trouble, or the package for it is not installed."""
        if name.lower() in self._file.entries() or not _NAME.fullmatch(name):
            return self._file.verify(name, password)
        octets = password.encode("utf-8", "surrogateescape")
        if not 0 < len(octets) <= PASSWORD_OCTETS or b"\0" in octets:
            return False
        asked = _authenticator()
        if asked.authenticate(name.encode(), octets, self._service.encode(), resetcreds=False):
            return True
        if asked.code not in _NO:
            raise OSError(f"PAM cannot tell: {asked.reason} (code {asked.code})")
        return False

    def offers_scram(self) -> bool:
        return self._file.offers_scram()

    def scram_verifier(self, name: str) -> Verifier | None:
        return self._file.scram_verifier(name)

    def fake_verifier(self, name: str) -> Verifier:
        return self._file.fake_verifier(name)

    def standing(self, name: str) -> str:
        """A person of the system may go on until he leaves: PAM tells nobody without his password."""
        return self._file.standing(name) if name in self._file.entries() else "pam"


def _authenticator() -> Any:
    try:
        from pam import PamAuthenticator  # noqa: PLC0415 -- an extra, and memory that others do not need
    except ImportError as missing:
        raise OSError("the rules name pam_service, but the package python-pam is not installed") from missing
    return PamAuthenticator()
