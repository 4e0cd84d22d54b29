"""A program that is asked: its answer, its words when it fails, and nothing of it left when nobody waits any more."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest

from egressguard.access import programs
from egressguard.access.programs import ProgramFailed, answer_of


def test_its_answer_and_its_own_words() -> None:
    assert asyncio.run(answer_of("sh", "-c", "echo yes")) == "yes\n"
    with pytest.raises(ProgramFailed, match="no such thing"):
        asyncio.run(answer_of("sh", "-c", "echo no such thing >&2; exit 3"))
    with pytest.raises(ProgramFailed, match="No such file"):
        asyncio.run(answer_of("/nowhere/program"))


async def _asked(file: Path) -> tuple[asyncio.Task[str], Path]:
    """A question without an answer, and the process that has it."""
    asked = asyncio.create_task(answer_of("sh", "-c", 'echo $$ >"$0.new" && mv "$0.new" "$0" && exec sleep 600', file))
    while not file.exists():
        await asyncio.sleep(0.01)
    return asked, Path("/proc", file.read_text().strip())


def test_a_question_that_is_given_up_leaves_no_process(tmp_path: Path) -> None:
    async def give_up() -> bool:
        asked, process = await _asked(tmp_path / "pid")
        asked.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asked
        return process.exists()

    assert not asyncio.run(give_up())


def test_nor_does_one_that_takes_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "_ANSWER_SECONDS", 1)

    async def wait() -> bool:
        asked, process = await _asked(tmp_path / "pid")
        with pytest.raises(ProgramFailed, match="no answer in 1 seconds"):
            await asked
        return process.exists()

    assert not asyncio.run(wait())


class _Late:
    """A process that ends when it is told to."""

    returncode = None

    def __init__(self) -> None:
        self.ends = asyncio.get_running_loop().create_future()

    async def communicate(self) -> tuple[bytes, bytes]:
        await self.ends
        self.returncode = 1
        return b"", b"too late"

    def kill(self) -> None:
        self.ends.cancel()


@pytest.mark.parametrize("turns", range(4))
def test_a_question_given_up_while_its_answer_comes_is_given_up(turns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks in a loop would ask for ever: Dovecot ends, doveadm says so, and that is the end of the role."""

    async def give_up() -> bool:
        process = _Late()

        async def start(*_command: object, **_options: object) -> _Late:
            return process

        monkeypatch.setattr(asyncio, "create_subprocess_exec", start)
        asked = asyncio.create_task(answer_of("program"))
        await asyncio.sleep(0.01)
        process.ends.set_result(None)
        for _ in range(turns):
            await asyncio.sleep(0)
        given_up = asked.cancel()
        await asyncio.wait({asked})
        return asked.cancelled() if given_up else isinstance(asked.exception(), ProgramFailed)

    assert asyncio.run(give_up())
