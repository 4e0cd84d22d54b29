"""`egressguard plan NEW`: differences, past decisions and expectations on one page, with exit codes for a hook."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from egressguard.app.candidate import Refused, read_candidate
from egressguard.app.cli.main import main
from egressguard.app.places import Places
from egressguard.store.journal import FLOW, Journal
from tests.app.test_revisions import git

RULES = """
site: {zones: {lan: {networks: 10.0.0.0/8}}}
flows:
  - {name: partner, from: lan, destination: 203.0.113.0/24, port: 25, action: allow}
  - {name: block, from: lan, port: 25, action: reject}
"""
EXPECTED = """
flows:
  - name: a partner is reached
    given: {from: 10.0.0.9, to: 203.0.113.25}
    expect: {action: allow}
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A checkout in rules/, and a gateway's journal in state/ that has seen a host write to the partner."""
    (tmp_path / "rules" / "expect").mkdir(parents=True)
    (tmp_path / "rules" / "rules.yaml").write_text(RULES)
    (tmp_path / "rules" / "expect" / "a.yaml").write_text(EXPECTED)
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "one")
    (tmp_path / "state" / "journal").mkdir(parents=True)
    now = time.time()
    journal = Journal(tmp_path / "state" / "journal" / "gate.sqlite", max_rows=100)
    journal.record(
        now,
        FLOW,
        {
            **{"source": "10.0.0.9", "destination": "203.0.113.25", "port": 25, "protocol": "tcp"},
            **{"action": "allow", "rule": "partner", "count": 7, "first": now, "last": now},
        },
    )
    journal.close()
    return tmp_path


def plan(site: Path, *words: str) -> Result:
    places = [f"--{name}={site / name}" for name in ("rules", "state", "runtime")]
    return CliRunner().invoke(main, ["plan", str(site / "rules"), *places, *words])


def edit(site: Path, old: str, new: str) -> None:
    (site / "rules" / "rules.yaml").write_text(RULES.replace(old, new))


def test_nothing_changes(site: Path) -> None:
    found = plan(site)
    assert found.exit_code == 0, found.output
    assert found.output.splitlines()[0] == "no changes" and found.output.splitlines()[-1].startswith(
        "promises: all kept; "
    )


def test_what_may_change_may_be_an_error_too(site: Path) -> None:
    edit(site, "port: 25, action: reject", "port: [25, 26], action: reject")
    assert (plan(site).exit_code, plan(site, "--exit-code").exit_code) == (0, 1)
    git(site, "commit", "-qam", "two")
    assert plan(site, "--exit-code").exit_code == 0
    assert plan(site, "--exit-code", "--against", "HEAD~1").exit_code == 1


def test_a_broken_promise_is_red_on_every_page(site: Path) -> None:
    edit(site, "203.0.113.0/24", "203.0.113.128/25")
    text, told, markdown = plan(site), plan(site, "--json"), plan(site, "--markdown")
    assert [text.exit_code, told.exit_code, markdown.exit_code] == [1, 1, 1]
    assert "+ reject by block (rules.yaml:5:5)" in text.output and "a partner is reached" in text.output
    assert "  stopped: 7 flows of 10.0.0.9: allow by partner -> reject by block" in text.output.splitlines()
    page = json.loads(told.output)
    assert (page["ok"], page["same"], page["not_judged"], page["red"][0].endswith("reached")) == (
        False,
        False,
        "",
        True,
    )
    assert page["past"]["changes"]["stopped"] == 7 and page["changes"][0]["part"] == "flows"
    assert "### flows" in markdown.output and "| stopped | flow | 10.0.0.9 |" in markdown.output
    assert "a partner is reached" in markdown.output.split("## Expectations and invariants")[1]


INVARIANT = "invariants: [{name: by-the-relay, never: {from: lan, destination: 203.0.113.0/25, port: 25}}]\n"


def test_a_broken_invariant_is_red_and_stops_an_apply(site: Path) -> None:
    (site / "rules" / "rules.yaml").write_text(RULES + INVARIANT)
    found, told = plan(site), json.loads(plan(site, "--json").output)
    assert found.exit_code == 1
    assert "rules.yaml:6:14: invariant by-the-relay does not hold" in found.output
    assert {row["part"] for row in told["changes"]} == {"invariants"} and len(told["red"]) == 1
    places = Places(site / "rules", site / "state", site / "run")
    with pytest.raises(Refused, match="by-the-relay does not hold"):
        read_candidate(places, only_signed=False, force=False)
    assert len(read_candidate(places, only_signed=False, force=True).red) == 1
    (site / "rules" / "rules.yaml").write_text(RULES.replace("203.0.113.0/24", "203.0.113.128/25") + INVARIANT)
    (site / "rules" / "expect" / "a.yaml").unlink()
    assert plan(site).exit_code == 0 and read_candidate(places, only_signed=False, force=False).red == []


def test_without_a_journal_the_page_says_so(site: Path) -> None:
    found = plan(site, f"--state={site / 'nowhere'}")
    assert found.exit_code == 0 and "past decisions: no past decisions are recorded here" in found.output


@pytest.mark.parametrize(
    ("words", "rules"),
    [
        (("--against", "nowhere"), RULES),
        ((), RULES.replace("reject", "refuse")),
        (("--since", "soon"), RULES),
    ],
)
def test_what_cannot_be_read_is_exit_code_2(site: Path, words: tuple[str, ...], rules: str) -> None:
    (site / "rules" / "rules.yaml").write_text(rules)
    assert plan(site, *words).exit_code == 2


def test_a_page_needs_something_new() -> None:
    assert CliRunner().invoke(main, ["plan", "--markdown"]).exit_code == 2
