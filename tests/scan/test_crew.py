"""What becomes of a message that a rescan's worker dies of: a second try, alone, whose end says why."""

from __future__ import annotations

import ctypes
import faulthandler
import multiprocessing
import os
import signal
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from egressguard.policy.site import Scan
from egressguard.scan import crew, hand, look
from egressguard.scan.crew import Crew
from egressguard.scan.job import Done, Job
from egressguard.scan.sources import find_sources

CLEAN = b"Subject: x\r\n\r\nnothing\r\n"
DEADLY = b"Subject: deadly\r\n\r\n"


def crash() -> None:
    faulthandler.disable()  # pytest's would tell of it
    ctypes.string_at(0)


def stumble() -> None:
    raise RecursionError


def take_all_time() -> None:
    while True:
        pass


def be_ended_by(number: int) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


def done_with(folder: Path, settings: Scan) -> dict[str, Done]:
    found: dict[str, Done] = {}
    with closing(Crew(lambda: settings, 1)) as workers:
        sources = [source for source in find_sources(str(folder)) if source.status]
        jobs = iter([Job(s, s.status, os.open(s.path, os.O_RDONLY), 0, s.status.size) for s in sources if s.status])
        for done in workers.run(jobs):
            assert isinstance(done, Done)
            os.close(done.job.fd)
            assert Path(done.job.source.path).name not in found, "each once"
            found[Path(done.job.source.path).name] = done
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(5):
        (tmp_path / f"{number}.eml").write_bytes(CLEAN)
    (tmp_path / "2.eml").write_bytes(DEADLY)
    return tmp_path


def doing(monkeypatch: pytest.MonkeyPatch, does: Callable[[], None]) -> None:
    """What examines the one message does this first, in workers that are forks of this process."""
    real = look.examine

    def examine(content: bytes, *arguments: object) -> object:
        if content == DEADLY:
            does()
        return real(content, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(look, "examine", examine)
    monkeypatch.setattr(crew, "_context", lambda: multiprocessing.get_context("fork"))
    monkeypatch.setattr(look, "share_seconds", lambda *_: 0.4)


@pytest.mark.parametrize(
    ("does", "verdict", "words"),
    [
        (crash, "denied", "SIGSEGV"),
        (be_ended_by(signal.SIGKILL), "denied", "killed"),
        (take_all_time, "denied", "processor's time"),
        (stumble, "denied", "RecursionError"),
        (be_ended_by(signal.SIGALRM), "error", "too long"),
        (be_ended_by(signal.SIGTERM), "error", "ended"),
    ],
)
def test_what_a_worker_dies_of_twice_is_said(
    does: Callable[[], None], verdict: str, words: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    doing(monkeypatch, does)

    found = done_with(folder, Scan(timeout_seconds=30))

    assert {name: done.verdict for name, done in found.items() if name != "2.eml"} == dict.fromkeys(
        ("0.eml", "1.eml", "3.eml", "4.eml"), "clean"
    )
    assert found["2.eml"].verdict == verdict
    assert words in " ".join(found["2.eml"].findings)


def test_who_dies_once_is_looked_at_all_the_same(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    mark = tmp_path_factory.mktemp("mark") / "died"
    mark.parent.chmod(0o777)

    def die_once() -> None:
        if not mark.exists():
            mark.touch()
            crash()

    monkeypatch.setattr(hand, "confine", lambda **_: None)  # another user could not leave its mark
    doing(monkeypatch, die_once)

    assert {done.verdict for done in done_with(folder, Scan()).values()} == {"clean"}
