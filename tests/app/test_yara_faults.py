"""`egressguard check` of rules with YARA rules: what does not compile is a fault with its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from egressguard.app.rules import read_rules

pytest.importorskip("yara_x", reason="yara-x is not installed")

SITE = "site:\n  zones: {}\n  scan: {yara: {folder: own/yara}}\n"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("rule good { condition: true }", ""),
        ("rule bad {\n  condition: $b }", "own/yara/a.yar:2:14: unknown pattern `$b`"),
    ],
)
def test_a_yara_rule_that_does_not_compile_is_a_fault(text: str, fault: str, tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text(SITE)
    (tmp_path / "own" / "yara").mkdir(parents=True)
    (tmp_path / "own" / "yara" / "a.yar").write_text(text)

    loaded, _ = read_rules(tmp_path)

    assert (loaded.policy is None) == bool(fault)
    assert [str(f).startswith(f"{tmp_path}/{fault}") for f in loaded.faults] == [True] * len(loaded.faults)
    assert read_rules(tmp_path, compiles=False)[0].policy is not None
