from __future__ import annotations

from pathlib import Path

import pytest

from egressguard.store import state_file
from egressguard.store.state_file import StateFile


def test_what_was_written_is_there_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "rates.json"
    (tmp_path / ".rates.json.tmp").write_text("left by a crash")
    assert StateFile(path).read() is None
    StateFile(path).write({"isp": {"1": 2}})
    assert StateFile(path).read() == {"isp": {"1": 2}}
    assert [entry.name for entry in tmp_path.iterdir()] == ["rates.json"]


def test_what_has_not_changed_is_not_written_again(tmp_path: Path) -> None:
    file = StateFile(tmp_path / "x.json")
    file.write([1])
    (tmp_path / "x.json").unlink()
    file.write([1])
    assert file.read() is None
    file.write([2])
    assert file.read() == [2]


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 100_000, b'"' + b"x" * 200 + b'"'])
def test_a_file_that_is_of_no_use_counts_nothing(
    tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state_file, "MOST_OCTETS", 150 if len(content) < 1000 else 10**6)
    (tmp_path / "x.json").write_bytes(content)
    assert StateFile(tmp_path / "x.json").read() is None


def test_a_directory_that_is_not_there_ends_nothing(tmp_path: Path) -> None:
    file = StateFile(tmp_path / "gone" / "x.json")
    file.write({})
    assert file.read() is None
