"""What the rules say of scanning, remembered by what the rules are: reading them takes longer than a scan of ten
thousand messages that are as they were.

Contract
    What is remembered holds while every file below the rules, the overlay's name and the code that reads rules are the
    same to the octet. Rules that have faults, or that cannot be read, are not remembered: each run says so.
    `settings` reads the rules when they are needed after all. Rules that became others meanwhile are RulesChanged.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import egressguard
from egressguard.scan.memory import Memory

if TYPE_CHECKING:
    from egressguard.policy.site import Scan

MAX_FILES = 2000
MAX_OCTETS = 16 * 1024 * 1024
"""More than that is not remembered."""
_READERS = Path(egressguard.__file__).parent / "policy"


class RulesChanged(Exception):
    """The rules are no longer those that the remembered settings come from."""


class ScanSettings:
    """`read` reads the rules in `directory` for the overlay `site`; what it raises goes to the caller."""

    def __init__(self, directory: Path, site: str, read: Callable[[], Scan]) -> None:
        self._directory = directory
        self._site = site
        self._read = read
        self._settings: Scan | None = None
        self._text = ""

    def text(self, memory: Memory) -> str:
        """The settings as Scan.model_dump_json has them. Raises sqlite3.Error."""
        digest = rules_digest(self._directory, self._site)
        self._text = memory.recall_settings(digest) if digest else ""
        if not self._text:
            self._text = self.settings().model_dump_json()
            if digest and digest == rules_digest(self._directory, self._site):
                memory.remember_settings(digest, self._text)
        return self._text

    def settings(self) -> Scan:
        """Raises RulesChanged."""
        if self._settings is None:
            settings = self._read()
            if self._text and settings.model_dump_json() != self._text:
                raise RulesChanged
            self._settings = settings
        return self._settings


def rules_digest(directory: Path, site: str) -> str:
    """Of all that the settings depend on; "" where that cannot be read whole."""
    whole = hashlib.sha256(f"{egressguard.__version__} {site!r}".encode())
    room = MAX_OCTETS
    try:
        paths = [*_files_below(_READERS), *_files_below(directory)]
        if len(paths) > MAX_FILES:
            return ""
        for path in paths:
            with open(path, "rb", buffering=0) as file:  # noqa: PTH123
                content = file.read(room + 1)
            room -= len(content)
            if room < 0:
                return ""
            whole.update(f"{path} {len(content)}\n".encode("utf-8", "surrogateescape") + content)
    except OSError:
        return ""
    return whole.hexdigest()


def _files_below(directory: Path) -> list[str]:
    """Hidden files, too: more than count for rules. No Paths: a hundred files are read at each start.

    Raises OSError."""

    def fail(wrong: OSError) -> None:
        raise wrong

    found = []
    for folder, folders, names in os.walk(directory, onerror=fail):
        folders[:] = [name for name in folders if name != "__pycache__" and not name.startswith(".git")]
        found += [os.path.join(folder, name) for name in names]  # noqa: PTH118
    return sorted(found)
