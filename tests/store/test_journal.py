from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import pytest

from egressguard.store import journal as module
from egressguard.store.decisions import find_span, read_decisions
from egressguard.store.journal import (
    DIALOGUE,
    FIELD_CHARACTERS,
    FLOW,
    Journal,
    find_messages,
    read_journal,
    read_life,
)


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


def test_one_that_nothing_was_recorded_in_ends_in_peace(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    written(tmp_path / "a")

    assert capfd.readouterr().err == ""


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


def life(path: Path, queue_id: str) -> list[tuple[float, str]]:
    return [(event["at"], event["kind"]) for event in read_life([path], queue_id)]


def test_a_message_s_life_is_found_by_its_id_and_no_other_s(tmp_path: Path) -> None:
    path = tmp_path / "relay"
    journal = Journal(path, max_rows=1000)
    for queue_id in ("A1", "A2"):
        journal.record(1.0, "delivery.transient", {"queue_id": queue_id})
        journal.record(2.0, DIALOGUE, {"queue_id": queue_id, "lines": "x"})
    journal.record(3.0, "queue.hold", {"by": "anna", "queue_ids": ["A1", "A2"]})
    journal.record(4.0, "queue.hold", {"by": "anna", "queue_ids": ["A11"]})
    journal.record(5.0, "flow.blocked", {"source": "A1"})
    journal.close()
    assert life(path, "A1") == [(1.0, "delivery.transient"), (2.0, DIALOGUE), (3.0, "queue.hold")]
    assert life(path, "A11") == [(4.0, "queue.hold")]
    assert life(path, 'A"1') == []
    assert DIALOGUE not in {event["kind"] for event in read_journal([path])}


def test_dialogues_have_a_bound_of_their_own(tmp_path: Path) -> None:
    for number in range(3):
        journal = Journal(tmp_path / "relay", max_rows=1000, max_dialogues=5)
        for _ in range(10):
            journal.record(float(number), DIALOGUE, {"queue_id": "A1"})
            journal.record(float(number), "delivery.delivered", {"queue_id": "A1"})
        journal.close()
    kinds = [kind for _, kind in life(tmp_path / "relay", "A1")]
    assert kinds.count("delivery.delivered") == 30
    assert kinds.count(DIALOGUE) <= 5 + 10  # trimmed now and then


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({"sender": "a@one.example"}, ["A2", "A1"]),
        ({"sender": "A@ONE.example"}, ["A2", "A1"]),
        ({"sender": "a@one"}, []),
        ({"recipient": "c@two.example"}, ["A2"]),
        ({"sender": "a@one.example", "recipient": "b@two.example"}, ["A1"]),
        ({"message_id": "<1@x>"}, ["A1"]),
        ({"message_id": '<1@x>", "'}, []),
        ({"sender": "ü@one.example"}, ["A3"]),
        ({}, ["A3", "A2", "A1"]),
    ],
)
def test_messages_are_found_by_what_their_acceptance_says(
    tmp_path: Path, asked: dict[str, str], found: list[str]
) -> None:
    journal = Journal(tmp_path / "smtpd", max_rows=1000)
    first = {"queue_id": "A1", "sender": "a@one.example", "recipients": ["b@two.example"], "message_id": "<1@x>"}
    journal.record(1.0, "mail.accepted", first)
    journal.record(2.0, "mail.held", {"queue_id": "A2", "sender": "a@one.example", "recipients": ["c@two.example"]})
    journal.record(3.0, "mail.accepted", {"queue_id": "A3", "sender": "ü@one.example", "recipients": []})
    journal.record(4.0, "delivery.delivered", {"queue_id": "A4", "sender": "a@one.example"})
    journal.close()
    assert find_messages([tmp_path / "smtpd"], **asked, since=0.0, limit=10) == found
    assert find_messages([tmp_path / "smtpd"], **asked, since=5.0, limit=10) == []


def test_messages_are_found_among_rows_of_an_earlier_program(tmp_path: Path) -> None:
    path = written(tmp_path / "smtpd")
    db = sqlite3.connect(path)
    fields = '{"queue_id": "A1", "sender": "a@one.example", "recipients": ["b@two.example"], "message_id": "<1@x>"}'
    db.execute("INSERT INTO event (at, kind, fields, queue_id) VALUES (1.0, 'mail.accepted', ?, 'A1')", (fields,))
    db.commit()
    db.close()
    asked = {"sender": "A@one.example", "recipient": "b@two.example", "message_id": "<1@x>"}
    assert find_messages([path], **asked, since=0.0, limit=10) == ["A1"]
    assert find_messages([path], **asked | {"sender": "b@two.example"}, since=0.0, limit=10) == []


def test_an_address_that_looks_like_the_journal_s_own_json_is_found(tmp_path: Path) -> None:
    sender = '"x": y"@one.example'
    journal = Journal(tmp_path / "smtpd", max_rows=10)
    journal.record(1.0, "mail.accepted", {"queue_id": "A1", "sender": sender, "recipients": []})
    journal.close()
    assert find_messages([tmp_path / "smtpd"], sender=sender, since=0.0, limit=10) == ["A1"]


def test_a_file_of_an_earlier_program_is_brought_up_to_date(tmp_path: Path) -> None:
    db = sqlite3.connect(tmp_path / "old")
    db.execute("CREATE TABLE event (id INTEGER PRIMARY KEY AUTOINCREMENT, at REAL, kind TEXT, fields TEXT)")
    db.execute("INSERT INTO event (at, kind, fields) VALUES (1.0, 'x', '{}')")
    db.commit()
    db.close()
    written(tmp_path / "old", (2.0, "x"))
    assert times(tmp_path / "old") == [1.0, 2.0]


def test_what_is_too_old_goes_from_every_table(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    for now in (0.0, 50.0, 120.0):
        journal = Journal(path, max_rows=1000, keep_seconds=100)
        for kind in ("x", DIALOGUE, FLOW):
            journal.record(now, kind, {"queue_id": "A1"})
        journal.close()
    assert times(path) == [50.0, 120.0]
    assert [at for at, kind in life(path, "A1") if kind == DIALOGUE] == [50.0, 120.0]
    span = find_span(path, "flow", 0.0)
    assert span is not None and [at for at, _, _ in read_decisions(span)] == [50.0, 120.0]


def test_the_file_is_bounded_in_octets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TRIM_EVERY_ROWS", 100)
    path = tmp_path / "journal"
    journal = Journal(path, max_rows=100_000, max_octets=1_000_000)
    for number in range(4000):
        journal.record(float(number), "x" if number % 2 else FLOW, {"words": "y" * 1000})
    journal.close()
    assert path.stat().st_size < 2_000_000
    kept = times(path, limit=10_000)
    assert kept[-1] == 3999.0
    assert kept == [3999.0 - 2 * n for n in reversed(range(len(kept)))]
