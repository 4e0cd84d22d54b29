"""An offline scanner walks the quarantine while mail arrives: it sees whole messages only, and finds each."""

from __future__ import annotations

import asyncio
import os
import re
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from egressguard.quarantine.hold import Quarantine
from egressguard.store.content import Content
from egressguard.store.spool import SqliteSpool
from tests.quarantine.test_quarantine import with_spool

ROOT = Path(__file__).parents[2]
MARK = b"a marker of ours alone at the very end"
BODY = b"Subject: x\r\n\r\n" + b"line of a body\r\n" * 5000 + MARK + b"\r\n"
FACTS = {"reverse_path": "a@x.example", "forward_paths": ["b@y.example"], "rule": "r", "findings": []}
MESSAGES = 150


@pytest.mark.peers
def test_clamscan_walks_while_mail_arrives(tmp_path: Path) -> None:
    if os.geteuid() != 0 or not (ROOT / ".peers" / "clamscan" / "usr").exists():
        pytest.skip("needs root and clamscan in .peers: run scripts/peers")
    (tmp_path / "db").mkdir()
    (tmp_path / "db" / "test.ndb").write_text(f"Egress.Test:0:*:{MARK.hex()}\n")
    scan = [str(ROOT / "scripts" / "peer"), "clamscan", "clamscan", "-r", "-i", f"--database={tmp_path / 'db'}"]

    async def scanned() -> str:
        process = await asyncio.create_subprocess_exec(
            *scan, str(tmp_path / "q"), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        out, _ = await process.communicate()
        assert process.returncode in {0, 1}, out
        return out.decode()

    async def work(spool: SqliteSpool) -> None:
        where = Quarantine(tmp_path / "q", spool, lambda _k, _f: None, CollectorRegistry())
        arriving = True

        async def arrive() -> None:
            for number in range(MESSAGES):
                await where.hold(f"CLAM{number:06d}", "Infected", Content.of(BODY), FACTS)

        async def walk() -> int:
            walks = 0
            while arriving:
                out = await scanned()
                named = re.findall(r"^(.*/(?:new|cur)/.*): (.*)$", out, re.MULTILINE)
                assert {verdict for _, verdict in named} <= {"Egress.Test.UNOFFICIAL FOUND"}, out
                walks += 1
            return walks

        walking = asyncio.create_task(walk())
        await arrive()
        arriving = False
        assert await walking > 0
        assert f"Infected files: {MESSAGES}" in await scanned()

    with_spool(tmp_path, work)
