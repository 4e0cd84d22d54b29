"""Follow the account store: SCRAM's verifiers into Dovecot's own file, and who has lost the right to a session.

Contract
    Blocks; raises OSError (cannot tell), Unprepared.
    `all_have_verifiers`: whether each enabled account could log in by SCRAM when this looked last.
    The accounts' file itself is Dovecot's, too: nothing here lets a password in that it does not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from egressguard.access.credentials import lost_access, render_scram
from egressguard.access.directories import put_for_dovecot
from egressguard.access.model import AccessModel
from egressguard.store.passwd import PasswdEntry, PasswdFile


class AccountFiles:
    def __init__(self) -> None:
        self._path: Path | None = None
        self._file = PasswdFile(Path("/nonexistent"))
        self._entries: Mapping[str, PasswdEntry] = {}
        self._scram: str | None = None
        self.all_have_verifiers = True

    def follow(self, model: AccessModel, logged_in: Iterable[str] = ()) -> list[str]:
        """Bring Dovecot's files up to date; return whose sessions have to end.

        `logged_in`: who has begun one since the last time. Dovecot may have let in somebody whom it should not have:
        it looks at its files once a second."""
        if model.accounts != self._path:
            self._path, self._file = model.accounts, PasswdFile(model.accounts)
        entries = dict(self._file.entries())
        self._write_scram(model, entries)
        lost = set(lost_access(self._entries, entries))
        lost |= {name for name in logged_in if not _may_log_in(model, entries, name)}
        self._entries = entries
        return sorted(lost)

    def _write_scram(self, model: AccessModel, entries: Mapping[str, PasswdEntry]) -> None:
        enabled = [name for name in sorted(entries) if not entries[name].disabled]
        found = [(name, verifier) for name in enabled if (verifier := self._file.scram_verifier(name)) is not None]
        self.all_have_verifiers = len(found) == len(enabled)
        text = render_scram(found)
        if text != self._scram or not model.scram.exists():
            put_for_dovecot(model, model.scram, text)
            self._scram = text


def _may_log_in(model: AccessModel, entries: Mapping[str, PasswdEntry], name: str) -> bool:
    entry = entries.get(name)
    return model.pam_service is not None if entry is None else not entry.disabled
