"""`egressguard prove`: what holds, what does not with a packet, and the command that explains it says so too."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from egressguard.app.cli.main import main
from tests.policy.language import as_yaml

RULES = Path(__file__).parents[2] / "rules"
SITE: dict[str, Any] = {
    "zones": {"lan": {"interfaces": ["@inside", "br7"], "networks": ["10.0.0.0/8", "fd00::/8"]}},
    "sets": {"servers": ["10.0.0.25"]},
    "relay": {"listeners": {"lan": {"kind": "smtp", "port": 25}}},
}
BLOCK = {"name": "block", "from": "lan", "port": 25, "action": "reject"}


def prove(*words: str) -> Result:
    result = CliRunner().invoke(main, ["prove", *words])
    if "unshare" in result.output:
        pytest.skip(f"needs network namespaces: {result.output}")
    return result


def rules(folder: Path, flows: list[Any], invariants: list[Any]) -> str:
    folder.joinpath("all.yaml").write_bytes(as_yaml({"site": SITE, "flows": flows, "invariants": invariants}))
    return str(folder)


@pytest.mark.parametrize("site", ["", "strict"])
def test_the_shipped_rules_are_proven(site: str) -> None:
    result = prove(str(RULES), "--site", site)
    assert result.exit_code == 0, result.output
    assert result.output.count("proven  ") >= 4 and "none broken" in result.output


@pytest.mark.parametrize(
    ("flows", "invariant", "decided"),
    [
        ([{**BLOCK, "name": "open", "source": "@servers", "action": "allow"}, BLOCK], {"never": {"port": 25}}, "allow"),
        ([BLOCK], {"never": {"from": "lan", "port": 2525}}, "allow"),
        ([BLOCK], {"always": {"source": "10.0.0.25", "port": 25}}, "reject"),
        ([BLOCK, {"name": "t", "protocol": "gre", "action": "allow"}], {"never": {"protocol": "gre"}}, "allow"),
        ([BLOCK, {"name": "s", "speaks": "smtp", "action": "drop"}], {"always": {"port": 443}}, "drop"),
        (
            [BLOCK, {"name": "n", "port": 26, "hours": "22:00-06:00", "action": "drop"}],
            {"always": {"port": 26}},
            "drop",
        ),
        (
            [BLOCK, {"name": "c", "port": 26, "source_mac": "02:00:00:00:00:09", "action": "drop"}],
            {"always": {"port": 26}},
            "drop",
        ),
    ],
)
def test_explain_confirms_the_packet(tmp_path: Path, flows: list[Any], invariant: dict[str, Any], decided: str) -> None:
    folder = rules(tmp_path, flows, [{"name": "mine", **invariant}])
    result = prove(folder)
    assert result.exit_code == 1 and "BROKEN  mine at all.yaml:1:" in result.output, result.output
    program, *words = shlex.split(
        next(line for line in result.output.splitlines() if "see: " in line).partition("see: ")[2]
    )
    assert program == "egressguard"
    told = CliRunner().invoke(main, words)
    assert told.output.startswith(f"{decided}: "), told.output


def test_json_is_whole(tmp_path: Path) -> None:
    folder = rules(tmp_path, [BLOCK, {**BLOCK, "name": "again"}], [{"name": "mine", "never": {"port": 25}}])
    result = prove(folder, "--json")
    told = json.loads(result.output)
    assert result.exit_code == 1 and told["ok"] is False and told["of"] == "rendered"
    proof = next(proof for proof in told["proofs"] if proof["name"] == "mine")
    assert proof["says"] == "never: protocol tcp, port 25" and proof["packet"].startswith("tcp ") and proof["among"]
    assert proof["explain"][:3] == ["egressguard", "explain", "flow"]
    assert {each["rule"]: each["why"] for each in told["idle"]} == {"block": "redundant", "again": "shadowed"}


def test_faults_of_rules_are_told_as_by_check(tmp_path: Path) -> None:
    result = prove(rules(tmp_path, [BLOCK], [{"name": "mine"}]))
    assert result.exit_code == 1 and "expected one of the keys never and always" in result.output


@pytest.mark.skipif(os.geteuid() == 0, reason="needs to be refused: runs as root here")
def test_the_kernel_tells_nobody_but_root() -> None:
    assert prove(str(RULES), "--kernel").exit_code == 4
