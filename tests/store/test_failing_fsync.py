"""What SQLite's own fsync does to us when it fails: injected by strace into a real process."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PUTS = """
import asyncio, sys
from pathlib import Path
from egressguard.mail.envelope import Envelope
from egressguard.store.content import Content
from egressguard.store.interface import NewMessage, SpoolBroken
from egressguard.store.spool import SqliteSpool, random_queue_id

async def put(spool):
    queue_id = random_queue_id(1.0)
    await spool.put(NewMessage(queue_id, Envelope("a@x.example", ("b@y.example",)), Content.of(b"x" * 100), 1.0))
    return queue_id

async def main():
    spool = SqliteSpool(Path(sys.argv[1]))
    done = []
    try:
        while len(done) < 50:
            done.append(await put(spool))
            print(done[-1], flush=True)
    except SpoolBroken:
        print("broken", flush=True)
    try:
        await put(spool)
    except SpoolBroken:
        assert {row["queue_id"] for row in await spool.rows(100)} >= set(done)
        print("still broken", flush=True)
    spool.close()

asyncio.run(main())
"""


def test_a_commit_whose_fsync_failed_is_never_acknowledged(tmp_path: Path) -> None:
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("needs the program strace: injects EIO into fsync")
    inject = ["-f", "-qq", "-o", "/dev/null", "-e", "trace=fsync,fdatasync"]
    inject += ["-e", "inject=fsync,fdatasync:error=EIO:when=20+"]
    command = [strace, *inject, sys.executable, "-c", PUTS, str(tmp_path / "spool")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if "ptrace" in done.stderr:
        pytest.skip(f"needs the right to trace: {done.stderr.strip()}")
    *acknowledged, broken, still = done.stdout.split("\n")[:-1]
    assert (broken, still) == ("broken", "still broken"), done.stderr
    again = "import asyncio, sys; from pathlib import Path; from egressguard.store.spool import SqliteSpool\n"
    again += "spool = SqliteSpool(Path(sys.argv[1])); rows = asyncio.run(spool.rows(100))\n"
    again += "print(*(row['queue_id'] for row in rows)); spool.close()"
    there = subprocess.run(
        [sys.executable, "-c", again, str(tmp_path / "spool")], capture_output=True, text=True, check=True
    )
    assert 0 < len(acknowledged) < 50
    assert set(acknowledged) <= set(there.stdout.split())
