"""The index is a copy: lost, damaged or behind, it comes back from the Maildir; and it spares the walk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from egressguard.quarantine.index import FILE, Index, Wanted, every_message
from egressguard.quarantine.maildir import HoldMaildir
from egressguard.store.content import Content

FACTS = {"reverse_path": "A@x.example", "forward_paths": ["b@y.example", "C@z.example"], "rule": "r", "verdict": ""}


def hold(maildir: HoldMaildir, message_id: str, folder: str = "Held", now: float = 1000.0, **facts: object) -> Path:
    return maildir.write(message_id, folder, Content.of(b"Subject: x\r\n\r\nx\r\n"), {**FACTS, **facts}, now)


def filled(root: Path) -> tuple[HoldMaildir, Index]:
    maildir = HoldMaildir(root)
    hold(maildir, "FIRST00001", verdict="infected", folder="Infected", now=10)
    hold(maildir, "SECOND0001", reverse_path="", forward_paths=["b_d@y.example"], rule="s", now=20)
    hold(maildir, "THIRD00001", reverse_path="x@x.example.net", now=30)
    index = Index(maildir)
    index.reconcile()
    return maildir, index


@pytest.mark.parametrize(
    ("wanted", "numbers"),
    [
        (Wanted(), [1, 2, 3]),
        (Wanted(ids=("SECOND0001", "NOSUCHID01")), [2]),
        (Wanted(sender="a@X.example"), [1]),
        (Wanted(sender=""), [2]),
        (Wanted(sender="*@x.example"), [1]),
        (Wanted(recipient="c@z.example"), [1, 3]),
        (Wanted(recipient="*@Y.example"), [1, 2, 3]),
        (Wanted(recipient="@y.example"), []),
        (Wanted(recipient="bxd@y.example"), []),
        (Wanted(recipient="b_d@y.example"), [2]),
        (Wanted(recipient="%"), []),
        (Wanted(rule="s"), [2]),
        (Wanted(verdict="infected"), [1]),
        (Wanted(folder="Held", held_before=20), [2]),
        (Wanted(held_after=20, held_before=25), [2]),
        (Wanted(folder="Held", sender="*@x.example.net"), [3]),
    ],
)
def test_what_is_wanted_is_found(tmp_path: Path, wanted: Wanted, numbers: list[int]) -> None:
    _, index = filled(tmp_path)
    assert [held.number for held in index.page(wanted)] == numbers
    assert index.count(wanted)[0] == len(numbers)
    assert [held.number for held in index.page(wanted, after=1, until=2)] == [n for n in numbers if n == 2]


@pytest.mark.parametrize("damage", [None, b"", b"no database", b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_lost_or_damaged_index_comes_back_from_the_maildir_alone(tmp_path: Path, damage: bytes | None) -> None:
    _, index = filled(tmp_path)
    before = [(held.message_id, held.row()) for held in index.page(Wanted())]
    index.close()
    for file in (tmp_path / "envelopes").glob("index.sqlite*"):
        file.unlink()
    if damage is not None:
        (tmp_path / FILE).write_bytes(damage)
    again = Index(HoldMaildir(tmp_path))
    again.reconcile()
    assert [(held.message_id, held.row()) for held in again.page(Wanted())] == before
    assert again.octets == sum(row["size_octets"] for _, row in before)


def test_a_lost_sidecar_hides_no_message(tmp_path: Path) -> None:
    maildir = HoldMaildir(tmp_path)
    hold(maildir, "FIRST00001")
    (tmp_path / "envelopes" / "FIRST00001.json").write_bytes(b'{"cut')
    index = Index(maildir)
    index.reconcile()
    (held,) = index.page(Wanted())
    assert (held.message_id, held.facts, held.folder) == ("FIRST00001", {}, "Held")


def test_what_a_mail_program_moves_is_followed_and_what_it_expunges_goes(tmp_path: Path) -> None:
    maildir, index = filled(tmp_path)
    path = index.page(Wanted(ids=("SECOND0001",)))[0].path
    moved = tmp_path / ".Infected" / "cur" / f"{path.name}:2,S"
    path.rename(moved)
    assert maildir.locate("SECOND0001", path) == moved
    found = index.reconcile()
    assert (found.added, found.moved, found.gone) == (0, 1, ())
    assert [held.path for held in index.page(Wanted(folder="Infected", rule="s"))] == [moved]
    moved.unlink()
    assert index.reconcile().gone == ()  # it may be on its way
    assert index.reconcile().gone == ("SECOND0001",)
    assert index.find("SECOND0001") is None


def test_totals_and_what_is_over_a_size(tmp_path: Path) -> None:
    _, index = filled(tmp_path)
    size = index.page(Wanted())[0].size_octets
    assert index.totals() == {"Infected": (1, size), "Held": (2, 2 * size)}
    assert index.over_size("Held", 2 * size, 10) == []
    assert index.over_size("Held", 2 * size - 1, 10) == ["SECOND0001"]
    assert index.over_size("Held", 0, 10) == ["SECOND0001", "THIRD00001"]


def test_whoever_only_looks_sees_all_and_keeps_nobody_from_writing(tmp_path: Path) -> None:
    maildir, index = filled(tmp_path)
    seen = []
    for held in every_message(tmp_path):
        seen.append(held.message_id)
        if len(seen) == 1:
            index.add("FOURTH0001", hold(maildir, "FOURTH0001"), FACTS, 17)
    assert seen[:3] == ["FIRST00001", "SECOND0001", "THIRD00001"]
    assert "FOURTH0001" in [held.message_id for held in every_message(tmp_path)]


def test_a_hundred_thousand_are_found_and_listed_without_a_walk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def walk(_maildir: HoldMaildir) -> None:
        raise AssertionError("every file was looked at")

    index = Index(HoldMaildir(tmp_path))
    monkeypatch.setattr(HoldMaildir, "names", walk)
    facts = json.loads(json.dumps(FACTS))
    with index._transaction():
        for n in range(100_000):
            path = tmp_path / ".Held" / "new" / f"{n}.QMANY{n:06d}.host,S=9"
            index._insert(f"MANY{n:06d}", path, {**facts, "reverse_path": f"s{n}@x.example"}, 9)
    assert index.find("MANY077777") is not None
    assert len(index.page(Wanted(), after=50_000, limit=1000)) == 1000
    assert [held.message_id for held in index.page(Wanted(sender="s99999@x.example"))] == ["MANY099999"]
    assert index.totals()["Held"][0] == 100_000
