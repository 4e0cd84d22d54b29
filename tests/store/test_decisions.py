"""Past decisions are read row by row, in their order, whoever writes meanwhile."""

from __future__ import annotations

import math
import sqlite3
from pathlib import Path
from typing import Literal

import pytest

from egressguard.store import decisions as reading
from egressguard.store.decisions import Row, find_span, halved, read_decisions, whole_since
from egressguard.store.journal import FLOW, Journal


def decisions(path: Path, table: Literal["event", "flow"], since: float = 0.0) -> list[Row]:
    span = find_span(path, table, since)
    return [] if span is None else list(read_decisions(span))


def test_decisions_are_read_in_their_order_and_in_halves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "PAGE_ROWS", 7)
    journal = Journal(tmp_path / "smtpd", max_rows=1000)
    for number in range(50):
        journal.record(float(number), "mail.accepted" if number % 2 else "delivery.delivered", {"number": number})
        journal.record(float(number), FLOW, {"number": number})
    journal.close()
    assert [at for at, _, _ in decisions(tmp_path / "smtpd", "event")] == [float(n) for n in range(1, 50, 2)]
    assert [at for at, _, _ in decisions(tmp_path / "smtpd", "flow", since=20.0)] == [float(n) for n in range(20, 50)]
    assert decisions(tmp_path / "smtpd", "event", since=99.0) == []
    assert decisions(tmp_path / "missing", "event") == []
    span = find_span(tmp_path / "smtpd", "event", 0.0)
    assert span is not None
    halves = [list(read_decisions(half)) for half in halved(span)]
    assert halves[0] and halves[1] and [*halves[0], *halves[1]] == list(read_decisions(span))


def test_a_file_of_an_earlier_program_has_no_flows(tmp_path: Path) -> None:
    db = sqlite3.connect(tmp_path / "old")
    db.execute("CREATE TABLE event (id INTEGER PRIMARY KEY AUTOINCREMENT, at REAL, kind TEXT, fields TEXT)")
    db.commit()
    db.close()
    assert decisions(tmp_path / "old", "flow") == []


def test_what_was_trimmed_is_known_to_be_missing(tmp_path: Path) -> None:
    path = tmp_path / "smtpd"
    assert whole_since(path, "event") == math.inf
    for begin in (0.0, 100.0):
        journal = Journal(path, max_rows=10)
        for number in range(10):
            journal.record(begin + number, "mail.accepted", {})
        journal.close()
        assert whole_since(path, "event") == (0.0 if not begin else 100.0)
