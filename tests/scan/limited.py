"""A real worker of the scan role, to which the kernel gives five seconds of the processor for a message: an answer that
is not its reader's own says that it took more."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from egressguard.policy.facts import ScanReport
from egressguard.policy.site import Scan
from egressguard.scan import look
from egressguard.scan.client import ScanClient
from egressguard.scan.server import ScanServer
from egressguard.store.content import Content

SETTINGS = Scan(denied_names=("*.exe",), timeout_seconds=100, workers=1)
PROCESSOR_SECONDS = 5


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """The worker's socket."""
    with tempfile.TemporaryDirectory(prefix="eg-scan-") as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(look, "share_seconds", lambda *_: PROCESSOR_SECONDS)
        server = ScanServer(Path(name) / "s", SETTINGS, registry=CollectorRegistry())
        server.start()
        try:
            yield Path(name) / "s"
        finally:
            server.stop()


def scan(place: Path, content: bytes) -> ScanReport:
    client = ScanClient(place, timeout_seconds=200, registry=CollectorRegistry())
    report = asyncio.run(client.scan(Content.of(content)))
    assert report.attachments is not None, report.findings  # else its reader did not come to an end
    return report
