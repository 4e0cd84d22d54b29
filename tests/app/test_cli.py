"""The command line: every command explains itself, every fault of the rules is told with its place."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from egressguard.app.cli import main

RULES = Path(__file__).parent.parent.parent / "rules"


def run(*words: str) -> Result:
    return CliRunner().invoke(main, list(words), catch_exceptions=False)


def commands(group: click.Group = main, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:  # type: ignore[assignment]
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        yield (*path, name)
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


@pytest.mark.parametrize("words", list(commands()), ids=" ".join)
def test_every_command_has_help_with_an_example(words: tuple[str, ...]) -> None:
    done = run(*words, "--help")

    assert done.exit_code == 0
    assert "Example:" in done.output
    assert f"egressguard {' '.join(words)}" in done.output


def test_the_shipped_rules_have_no_fault() -> None:
    done = run("check", str(RULES))

    assert done.exit_code == 0, done.output


SITE = b"site:\n  zones:\n    lan: {networks: 10.0.0.0/8}\n"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"site.yaml": b"\x00\xff\xfe rubbish \x1b["}, "site.yaml:1:"),
        ({"site.yaml": b"}{][: - not yaml\n\t%"}, "site.yaml:1:"),
        ({}, "no rule files"),
        ({"flows.yaml": b"flows: []\n"}, "no `site:` section"),
        (
            {"site.yaml": SITE, "f.yaml": b"flows:\n  - {name: a, from: lan, port: '25', action: reject}\n"},
            "f.yaml:2:32: ",
        ),
        (
            {"site.yaml": SITE, "f.yaml": b"flows:\n  - {name: a, from: lan, prot: 25, action: reject}\n"},
            "did you mean 'port'",
        ),
        (
            {
                "site.yaml": SITE,
                "f.yaml": b"flows:\n  - {name: a, action: allow}\n  - {name: b, action: allow}\n"
                b"  - {name: a, action: drop}\n",
            },
            "f.yaml:4:12: ",
        ),
        ({"site.yaml": SITE, "f.yaml": b"flows:\n  - {name: a, from: lam, action: drop}\n"}, "f.yaml:2:"),
    ],
    ids=["rubbish", "not-yaml", "missing", "no-site", "wrong-type", "unknown-key", "duplicate-name", "unknown-zone"],
)
def test_each_fault_is_told_with_its_place(tmp_path: Path, files: dict[str, bytes], expected: str) -> None:
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)

    done = run("check", str(tmp_path))

    assert done.exit_code == 1
    assert expected in done.output
    assert "Traceback" not in done.output


def test_a_directory_that_is_not_there_is_a_fault(tmp_path: Path) -> None:
    done = run("check", str(tmp_path / "nowhere"))

    assert done.exit_code == 1
    assert "nowhere:1:1: No such file or directory" in done.output


def test_check_answers_programs_in_json(tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_bytes(SITE + b"  sets: 7\n")

    answer = json.loads(run("check", str(tmp_path), "--json").output)

    assert answer["ok"] is False
    assert [(f["line"], f["column"]) for f in answer["faults"]] == [(4, 9)]


@pytest.mark.parametrize("words", [("queue", "list"), ("quarantine", "list"), ("queue", "show", "X"), ("status",)])
def test_no_daemon_is_exit_status_3(tmp_path: Path, words: tuple[str, ...]) -> None:
    done = run(*words, "--state", str(tmp_path), "--runtime", str(tmp_path / "run"))

    assert done.exit_code == 3


def test_accounts_are_added_listed_and_removed(tmp_path: Path) -> None:
    place = ("--state", str(tmp_path))
    secret = tmp_path / "secret"
    secret.write_text("a password\n")

    assert run("user", "add", "anna", "--password-file", str(secret), *place).exit_code == 0
    assert run("user", "add", "anna", "--password-file", str(secret), *place).exit_code == 1
    assert run("user", "add", "../x", "--password-file", str(secret), *place).exit_code == 1
    assert json.loads(run("user", "list", "--json", *place).output)["name"] == "anna"
    for verb, enabled in (("disable", False), ("enable", True)):
        assert run("user", verb, "anna", *place).exit_code == 0
        assert json.loads(run("user", "list", "--json", *place).output)["enabled"] is enabled
    assert run("user", "enable", "bert", *place).exit_code == 1
    assert run("user", "sessions", *place).exit_code == 3
    assert run("user", "delete", "anna", *place).exit_code == 0
    assert run("user", "list", "--json", *place).stdout == ""


def test_an_unknown_command_is_wrong_usage() -> None:
    assert run("nonsense").exit_code == 2
