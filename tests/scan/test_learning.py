"""Spam filters are taught: the real rspamd and spamd with a memory of their own, and impostors that say anything."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from egressguard.policy.scanning import Rspamd, RspamdController, Spamd
from egressguard.policy.site import Scan
from egressguard.scan.learning import Lesson, Result, Teachers
from egressguard.store.content import Content
from tests.scan import daemons
from tests.scan.daemons import PASSWORD, impostor

LEARNED, KNOWN, REFUSED, AWAY = Result.LEARNED, Result.KNOWN, Result.REFUSED, Result.AWAY
SPAM = b"From: a@b.example\r\nSubject: golden watches\r\nMessage-ID: <1@b.example>\r\n\r\n" + b"".join(
    b"buy these very cheap golden watches now or never again, offer number %d for dear customers\r\n" % n
    for n in range(5)
)


@pytest.fixture(scope="module")
def rspamd() -> Iterator[tuple[str, str]]:
    with daemons.rspamd_that_learns() as addresses:
        yield addresses


@pytest.fixture(scope="module")
def spamd() -> Iterator[str]:
    with daemons.spamd(learns=True) as address:
        yield address


def by_rspamd(address: str, secret: str | None = None, **others: Any) -> Scan:
    controller = RspamdController(address=address, secret=secret)
    return Scan(rspamd=Rspamd(address="unix:/nowhere", controller=controller, timeout_seconds=20, **others))


def by_spamd(address: str, **others: Any) -> Scan:
    return Scan(spamd=Spamd(address=address, learns=True, timeout_seconds=20, **others))


def teach(scan: Scan, kind: str, octets: bytes = SPAM, secrets: Path = Path("/nowhere")) -> Lesson:
    teachers = Teachers(lambda: scan, secrets)
    (lesson,) = asyncio.run(teachers.teach(kind, Content.of(octets), teachers.engines))
    return lesson


@pytest.mark.peers
def test_the_real_rspamd_learns_knows_and_learns_the_other_kind(rspamd: tuple[str, str]) -> None:
    scan = by_rspamd(rspamd[0])

    lessons = [teach(scan, kind) for kind in ("spam", "spam", "ham", "ham", "spam")]

    assert [lesson.result for lesson in lessons] == [LEARNED, KNOWN, LEARNED, KNOWN, LEARNED], lessons


@pytest.mark.peers
def test_the_real_rspamd_says_why_not(rspamd: tuple[str, str]) -> None:
    lesson = teach(by_rspamd(rspamd[0]), "ham", b"Subject: x\r\n\r\nhi\r\n")

    assert (lesson.result, "tokens" in lesson.words) == (REFUSED, True)


@pytest.mark.peers
@pytest.mark.parametrize(("password", "result"), [(PASSWORD, LEARNED), ("another", REFUSED), ("", REFUSED)])
def test_the_real_rspamd_asks_for_its_password(
    rspamd: tuple[str, str], tmp_path: Path, password: str, result: Result
) -> None:
    (tmp_path / "p").write_text(f"{password}\n")
    octets = SPAM.replace(b"golden", b"silver")  # not known yet

    lesson = teach(by_rspamd(rspamd[1], "file:p"), "spam", octets, tmp_path)

    assert lesson.result is result, lesson
    assert PASSWORD not in lesson.words


@pytest.mark.peers
def test_the_real_spamd_learns_knows_and_learns_the_other_kind(spamd: str) -> None:
    scan = by_spamd(spamd)

    lessons = [teach(scan, kind) for kind in ("spam", "spam", "ham", "ham", "spam")]

    assert [lesson.result for lesson in lessons] == [LEARNED, KNOWN, LEARNED, KNOWN, LEARNED], lessons


@pytest.mark.peers
def test_a_spamd_that_may_not_be_told_refuses() -> None:
    with daemons.spamd(learns=True, allows=False) as address:
        lesson = teach(by_spamd(address), "spam")

    assert (lesson.result, "allow-tell" in lesson.words) == (REFUSED, True)


HTTP = b"HTTP/1.1 %s\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"


@pytest.mark.parametrize(
    ("answer", "result"),
    [
        (HTTP % b"200 OK", LEARNED),
        (HTTP % b"208 <x> has been already learned as spam, ignore it", KNOWN),
        (HTTP % b"403 Forbidden", REFUSED),
        (HTTP % b"503 Later", AWAY),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{}", AWAY),
        (b"nonsense\r\n\r\n", AWAY),
        (b"", AWAY),
    ],
)
def test_what_a_controller_may_say(answer: bytes, result: Result) -> None:
    with impostor(answer) as address:
        assert teach(by_rspamd(address), "spam").result is result


@pytest.mark.parametrize(
    ("answer", "result"),
    [
        (b"SPAMD/1.1 0 EX_OK\r\nDidSet: local\r\n\r\n\r\n", LEARNED),
        (b"SPAMD/1.1 0 EX_OK\r\n\r\n\r\n", KNOWN),
        (b"SPAMD/1.0 69 Service Unavailable: TELL commands are not enabled\r\n", REFUSED),
        (b"SPAMD/1.0 75 Later\r\n", AWAY),
        (b"SPAMD/1.0 x\r\n", AWAY),
        (b"", AWAY),
    ],
)
def test_what_a_spamd_may_say(answer: bytes, result: Result) -> None:
    with impostor(answer) as address:
        assert teach(by_spamd(address), "spam").result is result


@pytest.mark.parametrize("scan", [by_rspamd("unix:/nowhere/at/all"), by_spamd("unix:/nowhere/at/all")])
def test_one_that_is_not_there_is_away(scan: Scan) -> None:
    assert teach(scan, "spam").result is AWAY


@pytest.mark.parametrize("scan", [by_rspamd("unix:/x", max_octets=1024), by_spamd("unix:/x", max_octets=1024)])
def test_a_message_that_it_would_not_be_asked_about_is_not_taught(scan: Scan) -> None:
    assert teach(scan, "spam", b"x" * 1025).result is REFUSED


def test_a_password_that_cannot_be_read_is_told_by_its_place(tmp_path: Path) -> None:
    lesson = teach(by_rspamd("unix:/nowhere", "file:missing"), "spam", secrets=tmp_path)

    assert (lesson.result, "file:missing" in lesson.words) == (REFUSED, True)


def test_who_is_taught_the_rules_say() -> None:
    nobody = Scan(rspamd=Rspamd(address="unix:/x"), spamd=Spamd(address="unix:/x"))

    assert Teachers(lambda: nobody, Path()).engines == ()
    assert Teachers(lambda: by_rspamd("unix:/x"), Path()).engines == ("rspamd",)
    assert Teachers(lambda: by_spamd("unix:/x"), Path()).engines == ("spamd",)
