"""One message looked at by all that the settings name: the one place that workers ask, of the scan role and a rescan.

Contract
    What our own readers stumble over goes up: whoever asks says what it means. Trouble of the machine (OSError) is
    the verdict None.
    Engines have ENGINES_SHARE of a message's time: one that hangs is told of, and its `fail` holds, before the worker
    is ended. A message that takes more of the processor than its share is TooCostly: whoever asks says so, and is of no
    more use, as the readers and engines were stopped somewhere.
"""

from __future__ import annotations

import logging
from pathlib import Path

from egressguard.policy.facts import ScanReport, ScanRequest
from egressguard.policy.site import Scan
from egressguard.scan.engines import Engines
from egressguard.scan.examine import examine
from egressguard.scan.limits import Share, share_seconds
from egressguard.scan.octets import Octets

log = logging.getLogger(__name__)

ENGINES_SHARE = 0.9
FOR_THE_VERDICT = ScanRequest(asks=frozenset({"verdict"}))
"""Of mail that lies somewhere nobody knows who gave it, and no rule asks for its score."""


class Look:
    """Made once a worker. `rules` is where the folder of YARA rules lies, `places` what the workers count by."""

    def __init__(self, settings: Scan, rules: Path, places: Path | None = None) -> None:
        self._settings = settings
        self._engines = Engines(settings, rules, places)

    def ahead(self, fd: int, size: int) -> int | None:
        """Let the engines that can do so begin with a message that is to be looked at soon; the `number` to name it."""
        return self._engines.give_ahead(fd, size)

    def __call__(
        self,
        content: Octets,
        request: ScanRequest = FOR_THE_VERDICT,
        fd: int | None = None,
        number: int | None = None,
    ) -> ScanReport:
        """`fd` where there is a file of `content` and nothing else, `number` if it was given ahead.

        Raises TooCostly, and whatever `examine` stumbles over."""
        inquiry = self._engines.inquiry(request, self._settings.timeout_seconds * ENGINES_SHARE, fd, number)
        try:
            with Share(share_seconds(self._settings, len(content))):
                return examine(content, self._settings, inquiry)
        except OSError as wrong:
            log.exception("a message could not be examined")
            return ScanReport(None, (f"cannot be examined now: {wrong.strerror or type(wrong).__name__}",), score=None)


def needs_network(settings: Scan) -> bool:
    """Whether an engine that gives the verdict is reached by an IP address."""
    return settings.clamd is not None and not settings.clamd.address.startswith("unix:")
