"""Real mail, ham and spam, much of it malformed: nothing raises, and what is held is released as it came in."""

from __future__ import annotations

import os
from pathlib import Path

from egressguard.policy.verdict import Verdict
from egressguard.scan.examine import examine
from egressguard.store.content import Content
from egressguard.store.spool import SqliteSpool
from tests.quarantine.test_orders import opened
from tests.quarantine.test_quarantine import hold, with_spool
from tests.rules.test_shipped import load as shipped_rules

FOLDERS = [Path(__file__).parent.parent / "data" / "mail"]
if more := os.environ.get("EGRESSGUARD_MAIL"):
    FOLDERS.append(Path(more))


def letters() -> list[Path]:
    """EGRESSGUARD_MAIL names a folder with more of them."""
    return sorted(path for folder in FOLDERS for path in folder.rglob("*") if path.is_file())


def test_every_message_is_judged_by_the_shipped_settings() -> None:
    settings = shipped_rules().site.scan
    verdicts = {path: examine(path.read_bytes(), settings).verdict for path in letters()}

    ham = {path: verdict for path, verdict in verdicts.items() if "nice" in path.as_posix()}
    assert None not in verdicts.values()
    assert len(ham) >= 6
    assert {path.name for path, verdict in ham.items() if verdict is not Verdict.CLEAN} == set()


def test_held_and_released_every_message_has_the_octets_that_it_came_with(tmp_path: Path) -> None:
    contents = {f"ROUNDTRIP{number:05}": path.read_bytes() for number, path in enumerate(letters())}

    async def work(spool: SqliteSpool) -> None:
        where = opened(tmp_path, spool)
        for message_id, octets in contents.items():
            await hold(where, message_id, octets)
        for message_id in contents:
            await where.release(message_id, "x")
        for message_id, octets in contents.items():
            content: Content = await spool.content(message_id)
            assert content.whole() == octets, message_id

    with_spool(tmp_path, work)
