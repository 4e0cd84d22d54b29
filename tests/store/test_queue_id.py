from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from egressguard.store.queue_id import is_queue_id, new_queue_id

TIMES = st.floats(min_value=0, max_value=9e10)
CHANCES = st.integers(min_value=0, max_value=2**32 - 1)


@given(TIMES, TIMES, CHANCES, CHANCES)
def test_ids_sort_by_time(earlier: float, later: float, one: int, other: int) -> None:
    if int(earlier * 1000) < int(later * 1000):
        assert new_queue_id(earlier, one) < new_queue_id(later, other)


@given(TIMES, CHANCES, CHANCES)
def test_chance_tells_ids_of_one_moment_apart(now: float, one: int, other: int) -> None:
    assert (new_queue_id(now, one) == new_queue_id(now, other)) == (one == other)


@given(TIMES, CHANCES)
def test_every_id_is_safe_as_a_file_name(now: float, chance: int) -> None:
    made = new_queue_id(now, chance)
    assert is_queue_id(made) and len(made) == 16
