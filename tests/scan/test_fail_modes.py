"""What a sender is told while an engine is away: the fail mode of the rules, from the SMTP reply to the quarantine."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from egressguard.policy.scanning import Clamd, Rspamd
from egressguard.policy.site import Scan
from egressguard.scan.client import ScanClient
from egressguard.scan.server import ScanServer
from tests.relay.test_accept import Desk, desk, policy_of, take

__all__ = ["desk"]

VERDICTS = [
    {"name": "malware", "match": {"verdict": "infected"}, "action": "reject"},
    {"name": "denied", "match": {"verdict": "denied"}, "action": "quarantine", "folder": "Denied"},
]
SPAM = [{"name": "spam", "match": {"score_at_least": 5}, "action": "reject"}]
USERS = [{"name": "users", "match": {"authenticated": True}, "action": "accept"}]
AWAY = "unix:/nowhere/at/all"


@pytest.fixture
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="eg-scan-") as name:  # short: a socket's path has 108 octets
        yield Path(name) / "s"


@pytest.mark.parametrize(
    ("engine", "fail", "rules", "reply", "held"),
    [
        ("clamd", "defer", [*VERDICTS, *USERS], "451", False),
        ("clamd", "hold", [*VERDICTS, *USERS], "250", True),
        ("clamd", "pass", [*VERDICTS, *USERS], "250", False),
        ("rspamd", "defer", [*SPAM, *USERS], "451", False),
        ("rspamd", "hold", [*VERDICTS, *SPAM, *USERS], "250", True),
        ("rspamd", "pass", [*SPAM, *USERS], "250", False),
        # Nobody asks for what it would say.
        ("clamd", "defer", [*SPAM, *USERS], "250", False),
        ("rspamd", "defer", [*VERDICTS, *USERS], "250", False),
    ],
)
def test_what_an_engine_that_is_away_means(
    engine: str, fail: Any, rules: list[dict[str, Any]], reply: str, held: bool, desk: Desk, place: Path
) -> None:
    clamd = Clamd(address=AWAY, fail=fail) if engine == "clamd" else None
    rspamd = Rspamd(address=AWAY, fail=fail) if engine == "rspamd" else None
    server = ScanServer(place, Scan(clamd=clamd, rspamd=rspamd, workers=1), registry=CollectorRegistry())
    server.start()
    try:
        desk.acceptance._scanner = ScanClient(place, timeout_seconds=10, registry=CollectorRegistry())
        desk.acceptance.policy = policy_of(rules)
        assert take(desk).startswith(reply)
    finally:
        server.stop()

    assert (desk.journal[-1][0] == "mail.quarantined") == held
    assert bool(asyncio.run(desk.spool.rows(10))) == (reply == "250" and not held)


def test_a_scan_role_that_is_away_has_no_score_either(desk: Desk, place: Path) -> None:
    desk.acceptance._scanner = ScanClient(place, timeout_seconds=1, registry=CollectorRegistry())
    desk.acceptance.policy = policy_of([*SPAM, *USERS])

    assert take(desk).startswith("451")
