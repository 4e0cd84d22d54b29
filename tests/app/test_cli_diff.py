"""`egressguard diff`: silent for a refactoring; a change has a witness that `explain given` takes on both sides."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from egressguard.app.cli.main import main
from tests.app.test_revisions import git

RULES = Path(__file__).parents[2] / "rules"


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with the shipped rules in rules/."""
    shutil.copytree(RULES, tmp_path / "rules")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "one")
    return tmp_path


def edit(checkout: Path, file: str, old: str, new: str) -> None:
    path = checkout / "rules" / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def test_a_refactoring_says_nothing(checkout: Path) -> None:
    edit(checkout, "flows.yaml", "@mail-servers", "@servers")
    edit(checkout, "site.yaml", "mail-servers: []", "servers: []")
    edit(checkout, "mail.yaml", "name: malware", "name: viruses")
    found = run("diff", "HEAD", checkout / "rules")
    assert (found.exit_code, found.output) == (0, "no changes\n")
    assert "Nothing" in run("diff", "HEAD", checkout / "rules", "--markdown").output


def test_a_change_is_told_and_explained_on_both_sides(checkout: Path) -> None:
    edit(checkout, "flows.yaml", "port: 587", "port: [587, 2525]")
    edit(checkout, "mail.yaml", "folder: Infected", "folder: Malware")
    git(checkout, "commit", "-qam", "two")
    found = run("diff", "HEAD~1", "HEAD", "--rules", checkout / "rules", "--json")
    told = json.loads(found.output)
    assert found.exit_code == 1 and not told["same"] and told["not_compared"] == []
    assert {(row["part"], row["before"], row["after"]) for row in told["changes"]} == {
        ("flows", "reject", "allow"),
        ("mail", "quarantine into Infected", "quarantine into Malware"),
    }
    for row in told["changes"]:
        sides = []
        for revision, rules in (("HEAD~1", row["rules_before"]), ("HEAD", row["rules_after"])):
            with_rules = checkout / f"rules-{revision}"
            git(checkout, "worktree", "add", "-q", "--detach", str(with_rules), revision)
            explained = run("explain", "given", json.dumps(row["witness"]), "--rules", with_rules / "rules", "--json")
            answer = json.loads(explained.output)
            git(checkout, "worktree", "remove", "--force", str(with_rules))
            assert answer["rule"] == rules[0]["rule"]
            sides.append((answer["action"], answer.get("folder")))
        assert sides[0] != sides[1]


def test_text_and_markdown_name_rules_and_places(checkout: Path) -> None:
    edit(checkout, "mail.yaml", "action: accept", "action: hold")
    text, markdown = (run("diff", "HEAD", checkout / "rules", *more).output for more in ((), ("--markdown",)))
    assert "  - accept by users (mail.yaml:" in text and "  + hold by users (mail.yaml:" in text
    assert "### mail" in markdown and "| accept by users (mail.yaml:" in markdown


def test_what_cannot_be_read_is_exit_code_2(checkout: Path) -> None:
    assert run("diff", "nowhere", checkout / "rules").exit_code == 2
    edit(checkout, "flows.yaml", "action: reject", "action: refuse")
    found = run("diff", "HEAD", checkout / "rules")
    assert found.exit_code == 2 and "flows.yaml:" in found.output


GIVEN = "{client: 192.168.1.50, recipient: [a@x.example, b@x.example], unknown: score, recipient_count: 51}"


@pytest.mark.parametrize(
    ("given", "code", "said"),
    [
        ("{from: 192.168.1.50, to: 198.51.100.7, interface: eth1, inside: eth1}", 0, "reject: 192.168.1.50"),
        (GIVEN, 0, "reject: <> -> b@x.example"),
        (GIVEN, 0, "at RCPT already: reject for no rule matches"),
        ("{client: 192.168.1.50, recipients: a@x.example}", 2, "GIVEN:1:"),
        ("{from: 192.168.1.50", 2, "GIVEN:2:1: not YAML"),
        ("{client: 192.168.1.50, recipient: a@x.example, message: a.eml}", 2, "explain message"),
        ("/nowhere.yaml", 5, "no such file"),
    ],
)
def test_explain_given(given: str, code: int, said: str) -> None:
    found = run("explain", "given", given, "--rules", RULES)
    assert (found.exit_code, said in found.output) == (code, True), found.output


def test_explain_takes_a_revision(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    edit(checkout, "flows.yaml", "port: 25\n    action: reject", "port: 25\n    action: drop")
    monkeypatch.chdir(checkout)
    words = ("explain", "flow", "--from", "192.168.1.50", "--to", "198.51.100.7", "--rules")
    assert run(*words, "rules").output.startswith("drop:")
    assert run(*words, "HEAD:rules").output.startswith("reject:")
    assert run(*words, "HEAD~7:rules").exit_code == 1
