"""Hold, list, release exactly once, delete: with the real spool, with disks that fail, with processes that die."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import os
import random
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from egressguard.mail.envelope import Envelope
from egressguard.policy.decision import MailAction, MailDecision
from egressguard.policy.facts import ScanReport
from egressguard.policy.verdict import Verdict
from egressguard.quarantine.hold import NotFound, Quarantine
from egressguard.relay.held import held_facts
from egressguard.smtp.hooks import SessionFacts
from egressguard.store.content import Content
from egressguard.store.durable import Disk
from egressguard.store.spool import SqliteSpool

T = TypeVar("T")
CONTENT = b"Received: from x\r\nSubject: held\r\n\r\nbody \xff\x00 octets\r\n"
DECISION = MailDecision(MailAction.QUARANTINE, "malware", "matched", "Infected")
REPORT = ScanReport(Verdict.INFECTED, ("EICAR in a.zip",), ())
ID = "0MWSXUK70000DWBB"


def quarantine(root: Path, spool: SqliteSpool, disk: type[Disk] = Disk) -> tuple[Quarantine, list[tuple[str, Any]]]:
    journal: list[tuple[str, Any]] = []
    made = Quarantine(
        root / "q", spool, lambda kind, fields: journal.append((kind, dict(fields))), CollectorRegistry(), disk=disk
    )
    return made, journal


async def hold(where: Quarantine, message_id: str = ID, content: bytes = CONTENT) -> None:
    session = SessionFacts(ipaddress.IPv4Address("192.0.2.7"), 40000, "lan", "smtp")
    envelope = Envelope("a@x.example", ("b@y.example", "c@y.example"), smtputf8=False, body_8bit=True)
    facts = held_facts(session, envelope, DECISION, REPORT, 1000.0, {})
    await where.hold(message_id, DECISION.folder, Content.of(content), facts)


def with_spool(folder: Path, work: Callable[[SqliteSpool], Awaitable[T]]) -> T:
    spool = SqliteSpool(folder / "spool")
    try:
        return asyncio.run(work(spool))  # type: ignore[arg-type]
    finally:
        spool.close()


async def spooled(spool: SqliteSpool) -> list[dict[str, Any]]:
    return await spool.rows(100)


def test_a_held_message_is_listed_with_why_and_its_octets_are_untouched(tmp_path: Path) -> None:
    async def work(spool: SqliteSpool) -> None:
        where, journal = quarantine(tmp_path, spool)
        await hold(where)
        (row,) = await where.rows()
        shown = await where.show(ID)

        assert (row["id"], row["folder"], row["rule"]) == (ID, "Infected", "malware")
        assert (row["sender"], row["recipients"]) == ("a@x.example", ["b@y.example", "c@y.example"])
        assert row["findings"] == ["EICAR in a.zip"]
        assert "Subject: held" in shown["header_section"]
        assert Path(shown["file"]).read_bytes() == CONTENT
        assert journal[0][0] == "quarantine.hold"

    with_spool(tmp_path, work)


def test_release_sends_the_octets_once_and_a_second_release_finds_nothing(tmp_path: Path) -> None:
    async def work(spool: SqliteSpool) -> None:
        where, journal = quarantine(tmp_path, spool)
        await hold(where)
        answer = await where.release(ID, "root")

        assert (await spool.content(answer["queue_id"])).whole() == CONTENT
        assert [r["address"] for r in (await spooled(spool))[0]["recipients"]] == ["b@y.example", "c@y.example"]
        assert await where.rows() == []
        with pytest.raises(NotFound):
            await where.release(ID, "root")
        assert len(await spooled(spool)) == 1
        assert ("quarantine.release", "root") in [(kind, fields.get("by")) for kind, fields in journal]

    with_spool(tmp_path, work)


def test_many_releases_at_once_send_once(tmp_path: Path) -> None:
    async def work(spool: SqliteSpool) -> None:
        where, _ = quarantine(tmp_path, spool)
        await hold(where)
        answers = await asyncio.gather(*(where.release(ID, "x") for _ in range(10)), return_exceptions=True)

        assert sum(isinstance(answer, dict) for answer in answers) == 1
        assert len(await spooled(spool)) == 1

    with_spool(tmp_path, work)


def test_a_crash_between_spool_and_unlink_sends_nothing_twice(tmp_path: Path) -> None:
    async def work(spool: SqliteSpool) -> None:
        where, _ = quarantine(tmp_path, spool)
        await hold(where)
        file = Path((await where.show(ID))["file"])
        sidecar = tmp_path / "q" / "envelopes" / f"{ID}.json"
        kept = file.read_bytes(), sidecar.read_bytes()
        await where.release(ID, "before the crash")
        file.write_bytes(kept[0])  # as if the process had died before it could unlink
        sidecar.write_bytes(kept[1])
        where, _ = quarantine(tmp_path, spool)
        await where.release(ID, "after the crash")

        assert len(await spooled(spool)) == 1
        assert await where.rows() == []

    with_spool(tmp_path, work)


def test_it_is_found_where_a_mail_program_put_it(tmp_path: Path) -> None:
    async def work(spool: SqliteSpool) -> None:
        where, _ = quarantine(tmp_path, spool)
        await hold(where)
        file = Path((await where.show(ID))["file"])
        file.rename(file.parent.parent / "cur" / f"{file.name}:2,FS")

        assert (await where.rows())[0]["id"] == ID
        await where.release(ID, "x")
        assert len(await spooled(spool)) == 1

    with_spool(tmp_path, work)


def test_delete_removes_and_sends_nothing(tmp_path: Path) -> None:
    async def work(spool: SqliteSpool) -> None:
        where, _ = quarantine(tmp_path, spool)
        await hold(where)
        await where.delete(ID, "root")

        assert (await where.rows(), await spooled(spool)) == ([], [])
        assert list((tmp_path / "q" / "envelopes").glob("*.json")) == []

    with_spool(tmp_path, work)


@pytest.mark.parametrize("bad", ["../../etc/passwd", "", "a/b", "x" * 500, "\0", ID.lower(), "*", "NOSUCHMESSAGE"])
def test_a_hostile_or_unknown_id_is_not_found(tmp_path: Path, bad: str) -> None:
    async def work(spool: SqliteSpool) -> None:
        where, _ = quarantine(tmp_path, spool)
        await hold(where)
        for action in (where.show(bad), where.release(bad, "x"), where.delete(bad, "x")):
            with pytest.raises(NotFound):
                await action
        assert len(await where.rows()) == 1

    with_spool(tmp_path, work)


STEPS = ("open", "write", "fsync", "close", "rename")


def failing(step: str, nth: int) -> type[Disk]:
    """A Disk whose `nth` call of `step` fails."""
    calls = 0

    def call(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == nth:
            raise OSError(errno.ENOSPC, f"no space left on device ({step})")
        return getattr(Disk, step)(*arguments)

    return type("FailingDisk", (Disk,), {step: staticmethod(call)})


@pytest.mark.parametrize("nth", [1, 2, 3, 4])
@pytest.mark.parametrize("step", STEPS)
def test_a_disk_that_fails_holds_all_or_says_so(tmp_path: Path, step: str, nth: int) -> None:
    async def work(spool: SqliteSpool) -> None:
        where, _ = quarantine(tmp_path, spool, failing(step, nth))
        try:
            await hold(where)
        except OSError:
            # Nobody was told 250: the client sends again, and then exactly one is held.
            await hold(where)
        (row,) = await where.rows()

        assert row["recipients"] == ["b@y.example", "c@y.example"]
        assert Path((await where.show(ID))["file"]).read_bytes() == CONTENT

    with_spool(tmp_path, work)


KILLED = """
import asyncio, sys
from pathlib import Path
from egressguard.store.spool import SqliteSpool
from tests.quarantine.test_quarantine import hold, quarantine
folder, ids = Path(sys.argv[1]), sys.argv[2:]
async def run():
    where, _ = quarantine(folder, spool)
    for one in ids:
        await hold(where, one)
        print("held", one, flush=True)
        await where.release(one, "x")
        print("released", one, flush=True)
spool = SqliteSpool(folder / "spool")
asyncio.run(run())
"""


@pytest.mark.parametrize("round_", range(2))  # tests/quarantine/test_orders.py kills more
def test_a_kill_loses_nothing_that_was_held_and_sends_nothing_twice(tmp_path: Path, round_: int) -> None:
    chance = random.Random(round_)
    ids = [f"KILLED{round_}{n:04d}" for n in range(300)]
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path), *ids], stdout=subprocess.PIPE, text=True, env=os.environ
    )
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line.split())
        if len(said) == 2 + round_ * 7 + chance.randrange(3):
            process.send_signal(signal.SIGKILL)
            break
    said += [line.split() for line in process.stdout if line.endswith("\n")]
    process.wait()
    held = {one for verb, one in said if verb == "held"}

    async def work(spool: SqliteSpool) -> None:
        where, _ = quarantine(tmp_path, spool)
        for row in await where.rows():
            await where.release(row["id"], "after the kill")
        sent = [row["queue_id"] for row in await spool.rows(1000)]

        assert len(sent) == len(set(sent))
        assert held <= set(sent)

    with_spool(tmp_path, work)


@settings(max_examples=30, deadline=None)
@given(st.binary(max_size=3000))
def test_whatever_is_held_comes_out_as_it_went_in(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.mktemp("held")

    async def work(spool: SqliteSpool) -> bytes:
        where, _ = quarantine(folder, spool)
        await hold(where, content=content)
        await where.show(ID)
        return (await spool.content((await where.release(ID, "x"))["queue_id"])).whole()

    assert with_spool(folder, work) == content
