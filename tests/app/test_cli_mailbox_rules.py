"""`egressguard user rules`: written whole or not at all, faults with their places, tried before they count."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from egressguard.app.cli import main

RULES = "rules:\n  - {name: lists, match: {header: {List-Id: '*<debian-*'}}, action: file, folder: Lists/Debian}\n"
RULES += "  - {name: away, match: {detail: away}, action: forward, to: anna@example.net, folder: INBOX}\n"
LETTER = "Subject: hi\r\nList-Id: Debian <debian-user.example>\r\n\r\nList-Id: none\r\n"


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


def run(state: Path, verb: str, *words: str, given: str | None = None, code: int = 0) -> Result:
    places = [] if verb == "check" else ["--state", str(state), "--runtime", str(state / "run")]
    done = CliRunner().invoke(main, ["user", "rules", verb, *places, *words], input=given, catch_exceptions=False)
    assert done.exit_code == code, done.output
    return done


def test_set_show_clear(state: Path) -> None:
    run(state, "show", "anna", code=5)
    run(state, "set", "anna", "-", given=RULES)
    assert run(state, "show", "anna").output == RULES
    told = json.loads(run(state, "show", "anna", "--json").output)
    assert [rule["name"] for rule in told["rules"]] == ["lists", "away"]
    assert told["faults"] == []
    run(state, "clear", "anna")
    run(state, "clear", "anna", code=5)


def test_faults_are_told_with_their_places_and_change_nothing(state: Path, tmp_path: Path) -> None:
    run(state, "set", "anna", "-", given=RULES)
    bad = tmp_path / "bad.yaml"
    bad.write_text("rules:\n  - {name: a, action: fil, folder: X}\n")
    for words in (("check", str(bad)), ("set", "anna", str(bad))):
        output = run(state, *words, code=1).output
        assert "bad.yaml:2:23: found the text 'fil', did you mean 'file'?" in output
        assert "\n                          ^" in output
    assert run(state, "show", "anna").output == RULES


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ((), {"rule": "lists", "at": "anna.yaml:2:5", "folder": "Lists/Debian", "to": []}),
        (("--detail", "x", "--sender", "a@b.example"), {"rule": "lists"}),
    ],
)
def test_try_tells_which_rule_would_decide(state: Path, more: tuple[str, ...], told: dict[str, object]) -> None:
    run(state, "set", "anna", "-", given=RULES)
    found = json.loads(run(state, "try", "anna", "-", "--json", *more, given=LETTER).output)
    assert told.items() <= found.items()


def test_try_without_a_match(state: Path) -> None:
    run(state, "set", "anna", "-", given=RULES)
    plain = "Subject: x\r\n\r\n"
    kept = json.loads(run(state, "try", "anna", "-", "--json", given=plain).output)
    assert (kept["rule"], kept["folder"]) == ("", "INBOX")
    sent = json.loads(run(state, "try", "anna", "-", "--json", "--detail", "away", given=plain).output)
    assert (sent["rule"], sent["folder"], sent["to"]) == ("away", "INBOX", ["anna@example.net"])


@pytest.mark.parametrize("verb", ["show", "clear"])
def test_no_name_leads_elsewhere(state: Path, verb: str) -> None:
    assert "not an account name" in run(state, verb, "../passwd", code=2).output
