from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import pytest

from egressguard.store import journal as module
from egressguard.store.journal import FIELD_CHARACTERS, Journal, read_journal


def written(path: Path, *events: tuple[float, str], max_rows: int = 1000) -> Path:
    journal = Journal(path, max_rows=max_rows)
    for at, kind in events:
        journal.record(at, kind, {"number": at})
    journal.close()
    return path


def times(*paths: Path, **asked: object) -> list[float]:
    return [row["at"] for row in read_journal(paths, **asked)]  # type: ignore[arg-type]


def test_what_was_recorded_can_be_read(tmp_path: Path) -> None:
    path = written(tmp_path / "a journal%20.sqlite", (1.0, "flow.blocked"))
    assert read_journal([path]) == [{"at": 1.0, "kind": "flow.blocked", "number": 1.0}]


def test_several_roles_are_merged_by_time_and_the_newest_kept(tmp_path: Path) -> None:
    one = written(tmp_path / "one", (1.0, "x"), (4.0, "x"))
    other = written(tmp_path / "other", (2.0, "y"), (3.0, "x"))
    assert times(one, other) == [1.0, 2.0, 3.0, 4.0]
    assert times(one, other, limit=2) == [3.0, 4.0]
    assert times(one, other, since=2.0, kind="x") == [3.0, 4.0]


def test_a_missing_file_is_empty_and_a_broken_one_does_not_hide_the_others(tmp_path: Path) -> None:
    (tmp_path / "broken").write_bytes(b"not a database at all" * 100)
    whole = written(tmp_path / "whole", (1.0, "x"))
    assert times(tmp_path / "missing", tmp_path / "broken", whole) == [1.0]


def test_it_can_be_read_while_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal = Journal(path, max_rows=1000)
    journal.record(1.0, "x", {})
    journal.close()
    journal = Journal(path, max_rows=1000)
    assert times(path) == [1.0]
    journal.record(2.0, "x", {})
    journal.close()
    assert times(path) == [1.0, 2.0]


@pytest.mark.parametrize("runs", [1, 5])
def test_the_oldest_rows_go(tmp_path: Path, runs: int) -> None:
    for run in range(runs):
        path = written(tmp_path / "journal", *((100.0 * run + n, "x") for n in range(50)), max_rows=20)
    newest = 100.0 * (runs - 1) + 49
    kept = times(path, limit=1000)
    assert kept[-20:] == [newest - 19 + n for n in range(20)]
    assert len(kept) <= 50 + 20


def test_recording_never_waits_and_what_is_too_much_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = threading.Event()
    really_open = module._open

    def open_late(path: Path) -> sqlite3.Connection:
        opened.wait(10)
        return really_open(path)

    monkeypatch.setattr(module, "_open", open_late)
    monkeypatch.setattr(module, "WAITING_ROWS", 100)
    journal = Journal(tmp_path / "journal", max_rows=10_000)
    for number in range(1000):
        journal.record(float(number), "x", {})
    assert journal.dropped > 0
    opened.set()
    journal.close()
    assert len(times(tmp_path / "journal", limit=10_000)) + journal.dropped == 1000


def test_a_journal_that_cannot_be_written_stops_nobody(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    journal = Journal(tmp_path / "no such directory" / "journal", max_rows=10)
    journal.record(1.0, "x", {})
    journal.close()
    assert journal.dropped == 1
    assert "cannot be written" in caplog.text


def test_an_event_is_bounded_and_anything_can_be_a_field(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal", max_rows=10)
    journal.record(1.0, "x", {"long": "y" * 100_000})
    journal.record(2.0, "x", {"path": tmp_path, "text": "\udcff\x00"})
    journal.close()
    long, odd = read_journal([tmp_path / "journal"])
    assert len(long["cut"]) <= FIELD_CHARACTERS
    assert odd["path"] == str(tmp_path)
