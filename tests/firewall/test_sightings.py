"""What was seen is summed up: nothing is counted twice or lost, memory and rows are bounded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from egressguard.firewall.sightings import MAX_PLACES, Sightings

Row = tuple[str, Mapping[str, object]]
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("see"), st.integers(0, 9), st.sampled_from(["a:25", "b:25", "c:26"])),
        st.tuples(st.just("wait"), st.integers(0, 20), st.just("")),
        st.tuples(st.just("flush"), st.just(0), st.just("")),
    ),
    max_size=120,
)


def fields(source: int) -> dict[str, object]:
    return {"rule": "block", "source": f"192.0.2.{source}"}


@given(STEPS, st.integers(1, 4), st.integers(1, 5))
def test_every_packet_is_in_one_row_at_last(
    steps: list[tuple[str, int, str]], rows_per_second: int, max_sources: int
) -> None:
    rows: list[tuple[float, Mapping[str, object]]] = []
    now = 100.0
    sightings = Sightings(
        lambda _kind, row: rows.append((now, row)), max_sources=max_sources, rows_per_second=rows_per_second
    )
    seen: Counter[str] = Counter()
    forgotten = False
    for what, number, place in steps:
        if what == "wait":
            now += number
        elif what == "flush":
            sightings.flush(now)
        else:
            seen[f"192.0.2.{number}"] += 1
            forgotten = forgotten or len(seen) > max_sources
            sightings.see(now, "flow.blocked", place, fields(number))
        assert len(list(sightings.rows())) <= max_sources
    for at in sorted({at for at, _ in rows}):
        assert sum(when == at for when, _ in rows) <= 2 * rows_per_second
    for _ in range(20):
        now += 60
        sightings.flush(now)
    told: Counter[str] = Counter()
    for _, row in rows:
        told[str(row["source"])] += int(str(row["count"]))
    assert told <= seen
    if not forgotten:
        assert told == seen


def test_what_is_new_is_told_at_once_and_repetitions_later() -> None:
    rows: list[Row] = []
    sightings = Sightings(lambda kind, row: rows.append((kind, row)))
    for at in range(5):
        sightings.see(at, "flow.blocked", "198.51.100.7:25", fields(1))
    sightings.see(9, "flow.blocked", "198.51.100.8:25", fields(1))

    assert [row["count"] for _, row in rows] == [1, 5]
    assert rows[-1][1]["places"] == ["198.51.100.7:25", "198.51.100.8:25"]
    assert (rows[-1][1]["first"], rows[-1][1]["last"], rows[-1][1]["total"]) == (0, 9, 6)
    sightings.flush(10)
    assert len(rows) == 2


def test_a_source_with_very_many_destinations_takes_little() -> None:
    rows: list[Row] = []
    sightings = Sightings(lambda kind, row: rows.append((kind, row)), rows_per_second=5)
    for number in range(10_000):
        sightings.see(1.0, "flow.blocked", f"198.51.100.{number}:25", fields(1))

    (row,) = sightings.rows()
    assert len(row["places"]) == MAX_PLACES and row["count"] == 10_000
    assert len(rows) == 10
