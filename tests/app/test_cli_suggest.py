"""`egressguard suggest`: a patch from what the journal saw pass."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from egressguard.app.cli.main import main
from egressguard.app.places import Places
from egressguard.app.rules import read_rules
from egressguard.store.journal import FLOW, Journal

SHIPPED = Path(__file__).parents[2] / "rules"


def passed(source: str, to: str, port: int) -> dict[str, Any]:
    now = time.time()
    told = {"source": source, "destination": to, "port": port, "protocol": "tcp", "action": "allow", "inside": True}
    return told | {"interface": "eth1", "rule": "submission", "count": 2, "first": now, "last": now}


@pytest.fixture
def places(tmp_path: Path) -> Places:
    """The shipped rules, which journal what passes, and a journal of it."""
    made = Places(tmp_path / "rules", tmp_path / "state", tmp_path / "run")
    shutil.copytree(SHIPPED, made.rules)
    site = made.rules / "site.yaml"
    site.write_text(site.read_text().rstrip() + "\n  journal: {passed_flows: {}}\n")
    made.journals.mkdir(parents=True)
    journal = Journal(made.journal("gate"), max_rows=100)
    for told in (passed("192.168.1.10", "203.0.113.26", 587), passed("192.168.1.11", "203.0.113.27", 465)):
        journal.record(told["last"], FLOW, told)
    journal.close()
    return made


def run(places: Places, command: str, *words: str) -> Result:
    where = ("--rules", str(places.rules), "--state", str(places.state), "--runtime", str(places.runtime))
    return CliRunner().invoke(main, [command, *words, *where])


def test_the_patch_of_the_shipped_rules_applies_and_is_what_was_meant(places: Places) -> None:
    said = run(places, "suggest")
    assert said.exit_code == 0, said.output
    subprocess.run(["git", "init", "-q", str(places.rules)], check=True)
    subprocess.run(["git", "apply", "-"], cwd=places.rules, input=said.stdout.encode(), check=True)
    loaded, _ = read_rules(places.rules)
    assert loaded.policy is not None, loaded.faults
    names = [rule.name for rule in loaded.policy.flows]
    assert names.index("seen-587") < names.index("not-seen-587") < names.index("submission")
    assert names[-2:] == ["seen-465", "not-seen-465-587-2525"]
    again = run(places, "backtest", str(places.rules))
    assert again.exit_code == 0, "what was seen passes as before"


def test_json_has_the_rules_and_the_patch(places: Places) -> None:
    told = json.loads(run(places, "suggest", "--staged", "--json").stdout)
    assert told["flows"] == 4
    assert [each["before"] for each in told["suggestions"]] == ["submission", ""]
    assert told["suggestions"][0]["rules"][-1]["staged"] is True
    assert told["patch"].startswith("--- a/flows.yaml\n+++ b/flows.yaml\n")


def test_what_is_missing_is_told_with_what_to_do(places: Places) -> None:
    nothing = run(places, "suggest", "--port", "2525")
    assert nothing.exit_code == 1 and "0 connections to 2525 were seen" in nothing.output
    assert "none of these ports" in run(places, "suggest", "--port", "443").output
    unset = Places(SHIPPED, places.state, places.runtime)
    assert "set site.journal.passed_flows" in run(unset, "suggest").output
