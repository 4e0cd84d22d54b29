"""How rules name paths, domains and file names: what matches, and what only looks as if."""

from __future__ import annotations

import pytest

from egressguard.policy.patterns import domain_matches, name_matches, path_matches


@pytest.mark.parametrize(
    ("pattern", "path", "answer"),
    [
        ("anna@x.example", "anna@x.example", True),
        ("Anna@X.example", "aNNa@x.EXAMPLE", True),
        ("anna@x.example", "anna@y.example", False),
        ("anna@x.example", "hanna@x.example", False),
        ("anna@x.example", '"anna"@x.example', True),
        ("anna@x.example", '"an\\na"@x.example', True),
        ('"anna"@x.example', "anna@x.example", True),
        ("*@x.example", "anyone@x.example", True),
        ("*@x.example", '"a@b"@x.example', True),
        ("*@x.example", "anna@sub.x.example", False),
        ("*@x.example", "anna@x.example.evil.example", False),
        ("*@x.example", '"@x.example"@evil.example', False),
        ("*@x.example", "", False),
        ("<>", "", True),
        ("<>", "<>@x.example", False),
        ("<>", "anna@x.example", False),
        ("anna@x.example", "", False),
    ],
)
def test_paths(pattern: str, path: str, answer: bool) -> None:
    assert path_matches([pattern], path) is answer


@pytest.mark.parametrize(
    ("pattern", "path", "answer"),
    [
        ("x.example", "anna@x.example", True),
        ("X.Example", "anna@x.EXAMPLE", True),
        ("x.example", "anna@sub.x.example", False),
        (".x.example", "anna@sub.x.example", True),
        (".x.example", "anna@a.b.x.example", True),
        (".x.example", "anna@x.example", False),
        (".x.example", "anna@notx.example", False),
        ("@local", "anna@own.example", True),
        ("@local", "anna@Own.Example", True),
        ("@local", "anna@sub.own.example", False),
        ("@local", "", False),
        ("x.example", "", False),
        ("x.example", "postmaster", False),
    ],
)
def test_domains(pattern: str, path: str, answer: bool) -> None:
    assert domain_matches([pattern], path, ["OWN.example"]) is answer


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("run.exe", True),
        ("RUN.EXE", True),
        ("run.exe.", True),
        ("run.exe . ", True),
        ("run.exe\x00", True),
        ("run.e\u200bxe", True),
        ("run\u202eexe.exe", True),
        ("run.\uff45xe", True),
        ("run.pdf.exe", True),
        ("run.exe.pdf", False),
        ("exe", False),
        ("run.exes", False),
        ("", False),
        ("a.exe:stream", True),
        ("a.exe::$DATA", True),
        ("a.exe :x.txt", True),
        ("c:a.txt", False),
        ("a.txt:b.exe", True),
        ("a.exe/", True),
        ('a.exe">', True),
        ("a.exe\u3164", True),
        ("a.e\ufe0fxe", True),
        ("a.exe.txt", False),
    ],
)
def test_file_names_are_read_as_the_recipient_would(name: str, answer: bool) -> None:
    assert name_matches(["*.Exe"], name) is answer


def test_a_hostile_name_costs_no_time() -> None:
    """A matcher that goes back and forth would take longer than pytest waits."""
    assert not name_matches(["*a*a*a*a*a*a*a*a*b"], "a" * 5000)
