"""What is remembered holds for the same octets only."""

from pathlib import Path

import pytest

from egressguard.scan.memory import Memory, key_of, known
from egressguard.scan.sources import Status

NOW = 2_000_000_000.0
OLD = int((NOW - 60) * 1e9)
STATUS = Status(1, 2**64 - 1, 10, OLD, OLD)
DIGEST = b"d" * 16


@pytest.mark.parametrize(
    ("status", "size", "holds"),
    [
        (STATUS, 10, True),
        (STATUS, 11, False),
        (Status(1, 2, 10, OLD + 1, OLD), 10, False),
        (Status(1, 2, 10, OLD, OLD + 1), 10, False),
    ],
    ids=["the same", "size", "mtime", "ctime, mtime set back"],
)
def test_a_touched_file_is_not_taken_for_what_it_was(status: Status, size: int, holds: bool) -> None:
    assert known(STATUS, 10, DIGEST, 1, NOW, "clean", ()).is_of(status, size) is holds


def test_a_file_that_changed_just_before_is_not_trusted() -> None:
    fresh = Status(1, 2, 10, OLD, int((NOW - 0.5) * 1e9))
    assert not known(fresh, 10, DIGEST, 1, NOW, "clean", ()).is_of(fresh, 10)


def test_what_was_remembered_is_recalled_in_the_next_run(tmp_path: Path) -> None:
    kept = known(STATUS, 10, DIGEST, 1, NOW, "denied", ("a name", "x"))
    memory = Memory(tmp_path / "new" / "memory")
    memory.remember([(key_of(STATUS), kept), (key_of(STATUS, 7), kept)])
    memory.close()
    memory = Memory(tmp_path / "new" / "memory")
    wanted = [key_of(STATUS), key_of(STATUS, 8), *(bytes([n // 256, n % 256]) for n in range(1200))]
    recalled = memory.recall(wanted)
    assert recalled[key_of(STATUS)] == kept
    assert not recalled.keys() - {key_of(STATUS), key_of(STATUS, 7)}
    assert (tmp_path / "new" / "memory").stat().st_mode & 0o777 == 0o600
    memory.close()


@pytest.mark.parametrize("between", [0, 50, 5000])
def test_each_is_recalled_however_many_others_lie_between(tmp_path: Path, between: int) -> None:
    memory = Memory(tmp_path / "memory")
    wanted = [key_of(STATUS, n * (between + 1)) for n in range(700)]
    others = [key_of(STATUS, n * 7) for n in range(min(between * 700, 20_000))]
    rows = {key: known(STATUS, 10, DIGEST, 1, NOW, "clean", (str(n),)) for n, key in enumerate({*wanted, *others})}
    memory.remember(rows.items())
    shuffled = sorted(wanted, key=hash)
    recalled = memory.recall(shuffled)
    assert {key: recalled[key] for key in wanted} == {key: rows[key] for key in wanted}
    assert len(recalled) <= 700 + 2 * 100
    assert memory.recall([]) == {}
    memory.close()


def test_an_edition_keeps_its_number(tmp_path: Path) -> None:
    memory = Memory(tmp_path / "memory")
    assert memory.edition("a") == memory.edition("a") != memory.edition("b")
    memory.close()


def test_a_run_that_was_interrupted_keeps_its_beginning(tmp_path: Path) -> None:
    memory = Memory(tmp_path / "memory")
    assert [memory.begin("x", 1.0), memory.begin("x", 2.0)] == [1.0, 1.0]
    memory.finish("x")
    assert memory.begin("x", 3.0) == 3.0
    memory.close()


def test_too_much_is_forgotten_the_oldest_first(tmp_path: Path) -> None:
    memory = Memory(tmp_path / "memory")
    keys = [key_of(STATUS, n) for n in range(10)]
    memory.remember([(key, known(STATUS, 10, DIGEST, 1, NOW + n, "clean", ())) for n, key in enumerate(keys)])
    memory.finish("x", max_rows=3)
    assert set(memory.recall(keys)) == set(keys[7:])
    memory.close()
