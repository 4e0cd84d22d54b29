from __future__ import annotations

import os
from pathlib import Path

import pytest

from egressguard.store.durable import Disk, put

STEPS = ["open", "write", "fsync", "close", "rename", "open", "fsync", "close"]


class Recorder:
    """A Disk that notes each call, and fails at the k-th."""

    def __init__(self, fail_at: int = 0) -> None:
        self.calls: list[str] = []
        self._fail_at = fail_at

    def disk(self) -> type[Disk]:
        names = ("open", "write", "fsync", "close", "rename", "unlink")
        return type("RecordingDisk", (Disk,), {name: staticmethod(self._noting(name)) for name in names})

    def _noting(self, name: str):  # type: ignore[no-untyped-def]
        def call(*arguments):  # type: ignore[no-untyped-def]
            self.calls.append(name)
            if len(self.calls) == self._fail_at:
                raise OSError(5, "Input/output error")
            return getattr(os, name)(*arguments)

        return call


def test_the_order_is_the_contract(tmp_path: Path) -> None:
    recorder = Recorder()
    put(tmp_path / "file", b"new", disk=recorder.disk())
    assert recorder.calls == STEPS
    assert (tmp_path / "file").read_bytes() == b"new"


@pytest.mark.parametrize("step", range(1, len(STEPS) + 1))
def test_a_failure_at_any_step_is_told_and_leaves_old_or_new(tmp_path: Path, step: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(OSError, match="Input/output"):
        put(path, b"new", disk=Recorder(step).disk())
    assert path.read_bytes() == (b"old" if step <= 5 else b"new")
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_write_that_takes_less_is_continued(tmp_path: Path) -> None:
    class Sip(Disk):
        write = staticmethod(lambda fd, view: os.write(fd, view[:3]))

    put(tmp_path / "file", b"0123456789", disk=Sip)
    assert (tmp_path / "file").read_bytes() == b"0123456789"


def test_nobody_else_can_read_it(tmp_path: Path) -> None:
    put(tmp_path / "file", b"x")
    assert (tmp_path / "file").stat().st_mode & 0o077 == 0
