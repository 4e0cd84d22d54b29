"""What a role would rather know after a restart, and can do without: one small JSON file.

Contract
    Reading never fails: a file that is missing, too large or no JSON is None (the last two are logged).
    Writing replaces the file whole, and only when something changed; trouble is logged, and it is tried again.
    What happened after the last write is lost with a crash.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from egressguard.store import durable

log = logging.getLogger(__name__)

MOST_OCTETS = 4 * 1024 * 1024


class StateFile:
    """Blocking: a read at start, a write of a few KB now and then."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._written: bytes | None = None

    def read(self) -> Any:
        try:
            with self._path.open("rb") as file:
                text = file.read(MOST_OCTETS + 1)
            return json.loads(text) if len(text) <= MOST_OCTETS else self._useless("too large")
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError) as wrong:
            return self._useless(str(wrong))

    def write(self, state: Any) -> None:
        text = json.dumps(state).encode()
        if text == self._written:
            return
        temporary = self._path.with_name(f".{self._path.name}.tmp")
        try:
            temporary.unlink(missing_ok=True)  # of a process that died here
            durable.put(self._path, text, temporary=temporary)
        except OSError as wrong:
            log.warning("a state cannot be kept", extra={"fields": {"file": self._path.name, "why": str(wrong)}})
        else:
            self._written = text

    def _useless(self, why: str) -> None:
        log.warning("a kept state is of no use", extra={"fields": {"file": self._path.name, "why": why}})
