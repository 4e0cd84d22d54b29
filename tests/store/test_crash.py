"""What was acknowledged survives kill -9 and a full disk: real processes, a real small file system."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from egressguard.store.schema import open_database
from egressguard.store.spool import SqliteSpool

PUTS_UNTIL_KILLED = """
import asyncio, sys
from pathlib import Path
from egressguard.mail.envelope import Envelope
from egressguard.mail.outcome import delivered
from egressguard.store.content import Content
from egressguard.store.interface import NewMessage, Settlement
from egressguard.store.spool import SqliteSpool, random_queue_id

async def put(spool, number, size):
    queue_id = random_queue_id(number)
    content = Content.of(b"%d." % number * size)
    await spool.put(NewMessage(queue_id, Envelope("a@x.example", ("b@y.example",)), content, number))
    print("put", number, queue_id, flush=True)

async def deliver(spool):
    while True:
        for claim in await spool.claim(9e9, 3, lambda at, attempts: 9e9):
            if claim.received_at % 3 == 0:
                print("settling", claim.queue_id, flush=True)
                await spool.settle(Settlement(claim.queue_id, {"b@y.example": delivered("ok")}))
                print("settled", claim.queue_id, flush=True)
        await asyncio.sleep(0)

async def main():
    spool = SqliteSpool(Path(sys.argv[1]))
    delivering = asyncio.create_task(deliver(spool))
    number = 0
    while True:
        sizes = [30_000 if n % 4 == 0 else 10 for n in range(8)]
        await asyncio.gather(*(put(spool, number + n, size) for n, size in enumerate(sizes)))
        number += 8

asyncio.run(main())
"""


def _run_until_killed(directory: Path, lines: int) -> list[list[str]]:
    """Run the program above, kill it after a number of lines, and return all it managed to say."""
    process = subprocess.Popen(
        [sys.executable, "-c", PUTS_UNTIL_KILLED, str(directory)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        said = [process.stdout.readline() for _ in range(lines)]
    finally:
        process.kill()
    said += process.stdout.readlines()
    process.wait()
    return [line.split() for line in said if line.endswith("\n") and line.strip()]


@pytest.mark.parametrize("seed", range(5))
def test_what_was_acknowledged_survives_kill_9(tmp_path: Path, seed: int) -> None:
    said = _run_until_killed(tmp_path, random.Random(seed).randrange(1, 150))
    assert said, "the program said nothing"
    put = {words[2]: int(words[1]) for words in said if words[0] == "put"}
    settling = {words[1] for words in said if words[0] == "settling"}
    settled = {words[1] for words in said if words[0] == "settled"}

    async def check() -> None:
        spool = SqliteSpool(tmp_path)
        there = {row["queue_id"] for row in await spool.rows(100_000)}
        assert set(put) - settling <= there, "acknowledged, and lost"
        assert not settled & there, "settled, and back again"
        for queue_id in there & set(put):
            assert (await spool.content(queue_id)).whole().startswith(b"%d." % put[queue_id])
        spool.close()

    asyncio.run(check())
    assert list((tmp_path / "aside").iterdir()) == []


FILL_AND_FREE = """
import asyncio, sys
from pathlib import Path
from egressguard.mail.envelope import Envelope
from egressguard.mail.outcome import delivered
from egressguard.store.content import Content
from egressguard.store.interface import NewMessage, Settlement, SpoolFull
from egressguard.store.spool import SqliteSpool, random_queue_id

async def fill(spool, size, stored):
    while True:
        queue_id = random_queue_id(1.0)
        try:
            content = Content.of(b"x" * size)
            await spool.put(NewMessage(queue_id, Envelope("a@x.example", ("b@y.example",)), content, 1.0))
            stored[queue_id] = size
        except SpoolFull:
            return

async def main():
    root = Path(sys.argv[1])
    ballast = root / "ballast"
    ballast.write_bytes(b"0" * 2_000_000)
    last = root / "last"
    last.write_bytes(b"0" * 1_000_000)
    spool = SqliteSpool(root / "spool")
    stored = {}
    await fill(spool, 20_000, stored)
    await fill(spool, 100_000, stored)
    assert len(stored) > 20, len(stored)
    assert spool.broken is None
    ballast.unlink()
    before = len(stored)
    await fill(spool, 50_000, stored)
    await fill(spool, 100_000, stored)
    assert len(stored) > before, "room came back and was not used"
    last.unlink()
    for queue_id in list(stored)[:20]:
        await spool.delete(queue_id)
        del stored[queue_id]
    spool.close()
    again = SqliteSpool(root / "spool")
    assert {row["queue_id"] for row in await again.rows(10_000)} == set(stored)
    for queue_id, size in stored.items():
        assert (await again.content(queue_id)).size_octets == size
    again.close()
    print("whole")

asyncio.run(main())
"""


def test_a_full_disk_refuses_loses_nothing_and_heals_without_a_restart(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: mounts a small tmpfs in a mount namespace of its own")
    if shutil.which("unshare") is None:
        pytest.skip("needs the program unshare")
    mounted = f'mount -t tmpfs -o size=16m none "{tmp_path}" && exec "$0" "$@"'
    command = ["unshare", "--mount", "sh", "-c", mounted, sys.executable, "-c", FILL_AND_FREE, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if "mount:" in done.stderr:
        pytest.skip(f"needs the right to mount a tmpfs: {done.stderr.strip()}")
    assert done.stdout == "whole\n", done.stderr


def test_after_a_crash_the_log_begins_anew(tmp_path: Path) -> None:
    """A page of it that an fsync could not write is clean in memory and missing on the disk: with all that follows.

    What is read back is written once more, into the database, before anything is promised."""
    said = _run_until_killed(tmp_path, 20)
    log = tmp_path / "spool.sqlite-wal"
    assert log.stat().st_size > 0, "nothing to see: the log was empty"

    db = open_database(tmp_path / "spool.sqlite")
    try:
        assert log.stat().st_size == 0
        there = {row[0] for row in db.execute("SELECT id FROM message")}
    finally:
        db.close()

    settling = {words[1] for words in said if words[0] == "settling"}
    assert {words[2] for words in said if words[0] == "put"} - settling <= there
