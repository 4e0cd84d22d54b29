"""What the rules say of scanning is remembered as long as nothing that it depends on has changed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from egressguard.app import scan_settings
from egressguard.app.scan_settings import RulesChanged, ScanSettings, rules_digest
from egressguard.policy.site import Scan
from egressguard.scan.memory import Memory


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Memory]:
    with closing(Memory(tmp_path / "state" / "memory")) as memory:
        yield memory


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    rules = tmp_path / "rules"
    (rules / "sites" / "one").mkdir(parents=True)
    (rules / "a.yaml").write_text("site: {}")
    (rules / "sites" / "one" / "b.yaml").write_text("x: 1")
    return rules


class Reader:
    """Says what it was told to, and counts."""

    def __init__(self, settings: Scan) -> None:
        self.settings, self.times = settings, 0

    def __call__(self) -> Scan:
        self.times += 1
        return self.settings


STRICT = Scan(denied_names=("*.scr",))


def test_what_is_remembered_is_not_read_again(memory: Memory, rules: Path) -> None:
    read = Reader(STRICT)

    assert {ScanSettings(rules, "", read).text(memory) for _ in range(3)} == {STRICT.model_dump_json()}
    assert read.times == 1


def test_another_overlay_is_read(memory: Memory, rules: Path) -> None:
    read = Reader(STRICT)
    for site in ("", "one", "one"):
        ScanSettings(rules, site, read).text(memory)
    assert read.times == 2


def write(name: str, words: str) -> Callable[[Path], object]:
    return lambda rules: (rules / name).write_text(words)


@pytest.mark.parametrize(
    "change",
    [
        write("a.yaml", "site: {a: 1}"),
        write("a.yaml", "site: {} "),
        write("new.yaml", ""),
        write("sites/one/b.yaml", "x: 2"),
        lambda rules: (rules / "sites" / "one" / "b.yaml").unlink(),
        lambda rules: (rules / "a.yaml").rename(rules / "c.yaml"),
    ],
)
def test_any_change_of_the_rules_is_read(memory: Memory, rules: Path, change: Callable[[Path], object]) -> None:
    read = Reader(Scan())
    ScanSettings(rules, "", read).text(memory)
    before = (rules / "a.yaml").stat()
    change(rules)
    if (rules / "a.yaml").exists():
        os.utime(rules / "a.yaml", ns=(before.st_atime_ns, before.st_mtime_ns))
    read.settings = STRICT

    assert ScanSettings(rules, "", read).text(memory) == STRICT.model_dump_json()


def test_other_code_that_reads_rules_is_another_digest(
    rules: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = rules_digest(rules, "")
    (tmp_path / "policy").mkdir()
    monkeypatch.setattr(scan_settings, "_READERS", tmp_path / "policy")

    assert before and rules_digest(rules, "") not in ("", before)


def test_what_cannot_be_read_whole_is_not_remembered(
    memory: Memory, rules: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Reader(STRICT)
    (rules / "gone.yaml").symlink_to(rules / "nowhere")
    for _ in range(2):
        ScanSettings(rules, "", read).text(memory)
    assert read.times == 2 and rules_digest(rules, "") == ""
    (rules / "gone.yaml").unlink()
    for limit in ("MAX_FILES", "MAX_OCTETS"):
        with monkeypatch.context() as smaller:
            smaller.setattr(scan_settings, limit, 3)
            assert rules_digest(rules, "") == ""
    assert rules_digest(rules, "") and rules_digest(rules / "none", "") == ""


def test_faults_are_not_remembered(memory: Memory, rules: Path) -> None:
    def read() -> Scan:
        raise SystemExit(2)

    for _ in range(2):
        with pytest.raises(SystemExit):
            ScanSettings(rules, "", read).text(memory)


def test_rules_that_change_while_they_are_read_are_not_remembered(memory: Memory, rules: Path) -> None:
    def read() -> Scan:
        (rules / "a.yaml").write_text("site: {changed: 1}")
        return STRICT

    ScanSettings(rules, "", read).text(memory)
    (rules / "a.yaml").write_text("site: {}")
    later = Reader(Scan())

    assert ScanSettings(rules, "", later).text(memory) == Scan().model_dump_json()


def test_settings_are_those_that_were_remembered_or_none(memory: Memory, rules: Path) -> None:
    ScanSettings(rules, "", Reader(STRICT)).text(memory)
    same, other = ScanSettings(rules, "", Reader(STRICT)), ScanSettings(rules, "", Reader(Scan()))
    for settings in (same, other):
        assert settings.text(memory) == STRICT.model_dump_json()
    assert same.settings() == same.settings() == STRICT
    with pytest.raises(RulesChanged):
        other.settings()


def test_a_few_are_kept(memory: Memory) -> None:
    for number in range(50):
        memory.remember_settings(str(number), f"words {number}")

    assert [memory.recall_settings(str(number)) for number in (0, 39, 40, 49)] == ["", "", "words 40", "words 49"]
