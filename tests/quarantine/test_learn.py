"""Held messages are shown to spam filters: who knows them as what is remembered, and nobody is told twice."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from egressguard.quarantine.hold import NotFound, NothingLearns, NotLearned, Quarantine
from egressguard.scan.learning import Lesson, Result, Teachers
from egressguard.store.content import Content
from egressguard.store.spool import SqliteSpool
from tests.quarantine.test_orders import opened
from tests.quarantine.test_quarantine import CONTENT, ID, hold, quarantine, with_spool


@dataclass
class School(Teachers):
    """Two filters that say what a test wants; which lessons they were given."""

    says: dict[str, Result] = field(default_factory=lambda: dict.fromkeys(("rspamd", "spamd"), Result.LEARNED))
    given: list[tuple[str, str, bytes]] = field(default_factory=list)

    @property
    def engines(self) -> tuple[str, ...]:
        return tuple(self.says)

    async def teach(self, kind: str, content: Content, engines: Collection[str]) -> list[Lesson]:
        self.given += [(name, kind, content.whole()) for name in engines]
        return [Lesson(name, self.says[name], self.says[name].value) for name in engines]

    def taught(self) -> list[tuple[str, str]]:
        told = [(name, kind) for name, kind, _ in self.given]
        self.given.clear()
        return told


BOTH = ["rspamd", "spamd"]


def test_each_filter_is_shown_the_octets_once_and_again_only_as_the_other_kind(tmp_path: Path) -> None:
    school = School()

    async def work(spool: SqliteSpool) -> None:
        where = opened(tmp_path, spool, teachers=school)
        await hold(where)
        assert (await where.learn(ID, "ham", "x"))["engines"] == {"rspamd": "learned", "spamd": "learned"}
        assert school.given == [(name, "ham", CONTENT) for name in BOTH]
        school.given.clear()
        assert (await where.learn(ID, "ham", "x"))["engines"] == {"rspamd": "known before", "spamd": "known before"}
        assert school.taught() == []
        after = opened(tmp_path, spool, teachers=school)  # the process starts anew
        await after.learn(ID, "ham", "x")
        assert school.taught() == []
        await after.learn(ID, "spam", "x")
        assert school.taught() == [(name, "spam") for name in BOTH]
        (row,) = await after.rows()
        assert row["learned"] == {"rspamd": "spam", "spamd": "spam"}
        assert Path((await after.show(ID))["file"]).read_bytes() == CONTENT

    with_spool(tmp_path, work)


@pytest.mark.parametrize(("result", "is_for_now"), [(Result.AWAY, True), (Result.REFUSED, False)])
def test_one_that_fails_is_asked_again_and_the_other_is_not(tmp_path: Path, result: Result, is_for_now: bool) -> None:
    school = School()
    school.says["spamd"] = result

    async def work(spool: SqliteSpool) -> None:
        where = opened(tmp_path, spool, teachers=school)
        await hold(where)
        with pytest.raises(NotLearned, match=f"rspamd: learned; spamd: {result.value}") as wrong:
            await where.learn(ID, "spam", "x")
        assert wrong.value.is_for_now is is_for_now
        school.taught()
        school.says["spamd"] = Result.KNOWN
        await where.learn(ID, "spam", "x")
        assert school.taught() == [("spamd", "spam")]

    with_spool(tmp_path, work)


def test_it_is_journaled_with_who_why_and_what_became_of_it(tmp_path: Path) -> None:
    async def work(spool: SqliteSpool) -> None:
        where, journal = quarantine(tmp_path, spool)
        where._teachers = School()
        await hold(where)
        for _ in range(2):
            await where.learn(ID, "spam", "anna", "watches")
        told = [dict(fields) for kind, fields in journal if kind == "quarantine.learn"]
        engines = {"rspamd": "learned", "spamd": "learned"}
        assert told == [{"queue_id": ID, "by": "anna", "why": "watches", "kind": "spam", "engines": engines}]

    with_spool(tmp_path, work)


def test_what_is_released_while_it_is_taught_is_not_brought_back(tmp_path: Path) -> None:
    async def work(spool: SqliteSpool) -> None:
        class Slow(School):
            async def teach(self, kind: str, content: Content, engines: Collection[str]) -> list[Lesson]:
                await where.release(ID, "y")
                return await School.teach(self, kind, Content.of(b""), engines)

        where: Quarantine = opened(tmp_path, spool, teachers=Slow())
        await hold(where)
        await where.learn(ID, "ham", "x")
        assert await where.rows() == []
        assert await opened(tmp_path, spool).rows() == []

    with_spool(tmp_path, work)


def test_nobody_to_teach_and_nothing_to_show_are_said(tmp_path: Path) -> None:
    async def work(spool: SqliteSpool) -> None:
        where = opened(tmp_path, spool)
        await hold(where)
        with pytest.raises(NothingLearns):
            await where.learn(ID, "ham", "x")
        with pytest.raises(NotFound):
            await opened(tmp_path, spool, teachers=School()).learn("NOTHELD0001", "ham", "x")

    with_spool(tmp_path, work)
