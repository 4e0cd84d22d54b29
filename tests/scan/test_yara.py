"""YARA rules: found in messages and in what is in them; what does not compile has a place and is no crash."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from egressguard.scan.archive import Member
from egressguard.scan.engine import Answer, Seen, Subject
from egressguard.scan.engine_words import EngineDown
from egressguard.scan.yara import RulesBroken, YaraEngine, compiled, digest

pytest.importorskip("yara_x", reason="yara-x is not installed")

MARKER = b'rule marker { strings: $a = "our marker" condition: $a }\n'
LARGE = b'import "math"\nrule large { condition: filesize > 100 }\nprivate rule quiet { condition: true }\n'


def engine(tmp_path: Path, **files: bytes) -> YaraEngine:
    for name, content in files.items():
        (tmp_path / f"{name}.yar").write_bytes(content)
    return YaraEngine(tmp_path)


def test_messages_and_the_files_in_them_are_looked_at(tmp_path: Path) -> None:
    asked, seen = engine(tmp_path, a=MARKER, b=LARGE), Seen()
    asked.see(Member(("a.zip", "b.txt"), b"xx our marker", "text/plain"), seen, 5)

    assert asked.ask(Subject(b"short"), 5) == Answer()
    assert asked.ask(Subject(b"our marker"), 5) == Answer(found=("marker",))
    assert asked.ask(Subject(b"short", seen=seen), 5) == Answer(found=("marker in a.zip > b.txt",))
    assert asked.ask(Subject(b"our marker" + b"x" * 100, seen=seen), 5).found == (
        "marker",
        "large",
        "marker in a.zip > b.txt",
    )


def test_rule_files_have_name_spaces_of_their_own(tmp_path: Path) -> None:
    assert engine(tmp_path, a=MARKER, b=MARKER).ask(Subject(b"our marker"), 5) == Answer(found=("marker",))


@pytest.mark.parametrize(
    ("text", "line", "column", "words"),
    [
        (b"rule a { condition: $b }", 1, 21, "unknown pattern"),
        (b"\nrule a {", 2, 9, "syntax error"),
        (b'include "/etc/passwd"\nrule a { condition: true }', 1, 1, "include"),
        (b"\xff\xfe", 1, 1, "not UTF-8"),
    ],
)
def test_what_does_not_compile_is_told_with_its_place(text: bytes, line: int, column: int, words: str) -> None:
    with pytest.raises(RulesBroken) as wrong:
        compiled({"good.yar": MARKER, "bad.yar": text})

    fault = wrong.value.faults[0]
    assert (fault.file, fault.line, fault.column) == ("bad.yar", line, column)
    assert words in fault.words


def test_all_broken_files_are_told_at_once() -> None:
    with pytest.raises(RulesBroken) as wrong:
        compiled({"a.yar": b"rule", "b.yar": MARKER, "c.yar": b"rule"})

    assert [fault.file for fault in wrong.value.faults] == ["a.yar", "c.yar"]


def test_a_sandbox_that_forbids_machine_code_is_told_not_a_crash(tmp_path: Path) -> None:
    """As under MemoryDenyWriteExecute=yes, which YARA-X answers with a panic."""
    (tmp_path / "a.yar").write_bytes(MARKER)
    code = (
        "import ctypes, pathlib, sys\n"
        "if ctypes.CDLL(None).prctl(65, 1, 0, 0, 0): sys.exit(77)\n"  # PR_SET_MDWE, Linux 6.3
        "from egressguard.scan.yara import compiled, RulesBroken, read_rule_files\n"
        "try: compiled(read_rule_files(pathlib.Path(sys.argv[1])))\n"
        "except RulesBroken as wrong: print(wrong)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    said = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    if said.returncode == 77:
        pytest.skip("this kernel cannot deny executable memory (prctl PR_SET_MDWE)")

    assert "MemoryDenyWriteExecute=no" in said.stdout, said.stderr


@pytest.mark.parametrize("files", [{"a": b"rule"}, None])
def test_broken_rules_are_an_engine_that_is_down_not_a_crash(files: dict[str, bytes] | None, tmp_path: Path) -> None:
    broken = YaraEngine(tmp_path / "missing") if files is None else engine(tmp_path, **files)

    with pytest.raises(EngineDown):
        broken.ask(Subject(b"x"), 5)
    with pytest.raises(EngineDown):
        broken.version(5)


def test_trouble_with_one_file_is_no_answer_for_the_message(tmp_path: Path) -> None:
    asked, seen = engine(tmp_path, a=MARKER), Seen()
    asked.see(Member(("a",), b"x", "text/plain"), seen, 0)

    with pytest.raises(EngineDown, match="too long"):
        asked.ask(Subject(b"our marker", seen=seen), 5)


def test_rules_that_take_too_long_are_down_in_time(tmp_path: Path) -> None:
    slow = b"rule slow { condition: for any i in (0..100000000000): (uint8(i) == 256) }"

    with pytest.raises(EngineDown):
        engine(tmp_path, a=slow).ask(Subject(b"x" * 100), 1)
    with pytest.raises(EngineDown):
        engine(tmp_path, a=MARKER).ask(Subject(b"x"), 0)


def test_the_version_is_the_rules_text(tmp_path: Path) -> None:
    first = engine(tmp_path, a=MARKER).version(5)

    assert first == engine(tmp_path, a=MARKER).version(5)
    assert first != engine(tmp_path, a=LARGE).version(5)
    assert digest({"a": b"bc"}) != digest({"ab": b"c"})
