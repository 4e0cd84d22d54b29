"""One message looked at by all that the settings name: the one place that a rescan's workers ask.

Contract
    `Look` never raises for a message: what its parser stumbles over has the verdict None.
"""

from __future__ import annotations

import logging

from egressguard.policy.facts import ScanReport
from egressguard.policy.site import Scan
from egressguard.scan.clamd import ask_clamd
from egressguard.scan.examine import AskScanner, examine

log = logging.getLogger(__name__)


class Look:
    """Made once a worker."""

    def __init__(self, settings: Scan) -> None:
        self._settings = settings
        clamd = settings.clamd
        self._ask: AskScanner | None = None if clamd is None else lambda content: ask_clamd(content, clamd)

    def __call__(self, content: bytes) -> ScanReport:
        try:
            return examine(content, self._settings, self._ask)
        except Exception as wrong:  # one message's parser fault: its verdict is unknown, the next message is fine
            log.exception("a message could not be examined")
            return ScanReport(None, (f"cannot be examined: {type(wrong).__name__}",))


def needs_network(settings: Scan) -> bool:
    """Whether an engine is reached by an IP address."""
    return settings.clamd is not None and not settings.clamd.address.startswith("unix:")
