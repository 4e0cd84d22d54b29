"""Places that are counted over processes and given back by the dead."""

from __future__ import annotations

import multiprocessing
from multiprocessing.connection import Connection
from pathlib import Path

from egressguard.scan.turns import Turns

_fork = multiprocessing.get_context("fork")


def _hold(file: Path, ours: Connection) -> None:
    with Turns(file, 2).place(5) as got:
        ours.send(got)
        ours.recv()


def test_a_place_is_free_again_when_its_holder_leaves_or_dies(tmp_path: Path) -> None:
    file = tmp_path / "turns"
    lines = [_fork.Pipe() for _ in range(2)]
    holders = [_fork.Process(target=_hold, args=(file, theirs)) for _, theirs in lines]
    for process in holders:
        process.start()
    mine = Turns(file, 2)
    try:
        assert all(ours.recv() for ours, _ in lines)
        with mine.place(0.05) as got:
            assert not got, "there were two places, and two hold them"
        holders[0].kill()
        with mine.place(30) as got:
            assert got, "the dead gave its place back"
        holders[0].join(30)
        lines[1][0].send("leave")
        holders[1].join(30)
        with mine.place(0) as got:
            assert got
    finally:
        for process in holders:
            process.kill()
        mine.close()


def test_a_place_that_was_left_is_had_at_once(tmp_path: Path) -> None:
    turns = Turns(tmp_path / "turns", 1)
    for _ in range(3):
        with turns.place(0) as got:
            assert got
    turns.close()
