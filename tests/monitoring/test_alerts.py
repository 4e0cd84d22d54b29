"""The alert rules: promtool runs their own tests; nothing here asks for a metric that the program does not have."""

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ALERTS = ROOT / "monitoring" / "alerts.yml"
ALERT_NAMES = re.findall(r"- alert: (\w+)", ALERTS.read_text())
SUFFIXES = re.compile(r"_(total|bucket|count|sum)$")


def _exported() -> set[str]:
    """The metric families that the program names anywhere, without the suffix that the client library adds."""
    sources = (path.read_text() for path in (ROOT / "egressguard").rglob("*.py"))
    names = {name for source in sources for name in re.findall(r"\begressguard_[a-z_]+[a-z]", source)}
    return {SUFFIXES.sub("", name) for name in names}


def test_every_metric_of_the_alerts_is_exported() -> None:
    rules = re.sub(r"(?m)^\s*#.*$", "", ALERTS.read_text())
    asked = {SUFFIXES.sub("", name) for name in re.findall(r"\begressguard_[a-z_]+[a-z]", rules)}
    assert len(asked) > 10
    assert asked - _exported() == set()


def test_every_alert_has_a_test_that_sees_it_fire() -> None:
    tests = (ROOT / "monitoring" / "alerts_test.yml").read_text()
    fired = re.findall(r"alertname: (\w+)\n\s+exp_alerts:", tests)
    assert sorted(fired) == sorted(ALERT_NAMES)


@pytest.mark.parametrize("name", ALERT_NAMES)
def test_the_runbook_says_what_to_do_about_each_alert(name: str) -> None:
    assert f"runbook_url: docs/operate.md#{name.lower()}\n" in ALERTS.read_text()
    assert f"\n### {name}\n" in (ROOT / "docs" / "operate.md").read_text()


@pytest.mark.peers
@pytest.mark.parametrize(
    "words", [("check", "rules", "alerts.yml"), ("test", "rules", "alerts_test.yml")], ids=["check", "test"]
)
def test_promtool_agrees(words: tuple[str, ...]) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: scripts/peer makes a mount namespace")
    if not (ROOT / ".peers" / "prometheus" / ".unpacked").exists():
        pytest.skip("needs prometheus in .peers: run scripts/peers")
    command = [str(ROOT / "scripts" / "peer"), "prometheus", "promtool", *words]
    done = subprocess.run(command, cwd=ALERTS.parent, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
