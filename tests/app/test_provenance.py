"""Where rules come from: real repositories, real signatures, and repositories that mean harm."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from egressguard.app.provenance import (
    NOT_UNDER_GIT,
    Provenance,
    provenance_of,
    read_provenance,
    why_not_signed,
    write_provenance,
)

for _program in ("git", "ssh-keygen"):
    if shutil.which(_program) is None:
        pytest.skip(f"needs {_program}", allow_module_level=True)

Git = Callable[..., str]


@pytest.fixture
def git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Git:
    """git in tmp_path/repository, for a user whose key this machine trusts."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    for name in [name for name in os.environ if name.startswith(("GIT_", "XDG_"))]:
        monkeypatch.delenv(name)
    (tmp_path / "repository" / "rules").mkdir(parents=True)
    for name in ("key", "other"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(home / name)]
        subprocess.run(command, check=True)
    (home / "signers").write_text(f"anna@example.org {(home / 'key.pub').read_text()}")
    (home / ".gitconfig").write_text(
        f"[user]\n\tname = Anna\n\temail = anna@example.org\n\tsigningkey = {home}/key.pub\n"
        f'[gpg]\n\tformat = ssh\n[gpg "ssh"]\n\tallowedSignersFile = {home}/signers\n[init]\n\tdefaultBranch = main\n'
    )

    def run(*words: str) -> str:
        ran = subprocess.run(["git", *words], cwd=tmp_path / "repository", capture_output=True, text=True, check=True)
        return ran.stdout.strip()

    run("init", "-q")
    (tmp_path / "repository" / "rules" / "site.yaml").write_text("site: {}\n")
    run("add", ".")
    return run


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    return tmp_path / "repository" / "rules"


def test_a_signed_commit_is_good(git: Git, rules: Path) -> None:
    git("commit", "-q", "-S", "-m", "first")
    found = provenance_of(rules)
    assert found.commit == git("rev-parse", "HEAD") and found.author == "Anna <anna@example.org>"
    assert (found.signature, found.signer, found.modified) == ("good", "anna@example.org", False)
    assert why_not_signed(found) is None
    assert str(found) == f"commit {found.commit[:12]} by Anna <anna@example.org>, signed by anna@example.org"


def test_an_unsigned_one_and_one_by_an_unknown_key_are_not(git: Git, rules: Path, tmp_path: Path) -> None:
    git("commit", "-q", "-m", "first")
    found = provenance_of(rules)
    assert found.signature == "none" and "not signed" in str(found)
    assert "signature" in (why_not_signed(found) or "")
    git("-c", f"user.signingkey={tmp_path}/home/other.pub", "commit", "-q", "-S", "--allow-empty", "-m", "second")
    found = provenance_of(rules)
    assert found.signature != "good" and why_not_signed(found) is not None


@pytest.mark.parametrize("change", ["edit", "new file", "staged"])
def test_what_differs_from_the_commit_is_modified(git: Git, rules: Path, change: str) -> None:
    git("commit", "-q", "-S", "-m", "first")
    name = "more.yaml" if change == "new file" else "site.yaml"
    (rules / name).write_text("site: {zones: {}}\n")
    if change == "staged":
        git("add", ".")
    found = provenance_of(rules)
    assert found.modified and "changed since" in str(found)
    assert "changed since commit" in (why_not_signed(found) or "")


def test_what_changes_elsewhere_in_the_repository_does_not_count(git: Git, rules: Path) -> None:
    git("commit", "-q", "-S", "-m", "first")
    (rules.parent / "notes.txt").write_text("not a rule\n")
    assert not provenance_of(rules).modified


@pytest.mark.parametrize("where", ["no repository", "no commit", "no directory"])
def test_no_git_is_an_answer(git: Git, rules: Path, tmp_path: Path, where: str) -> None:
    places = {"no repository": tmp_path / "home", "no commit": rules, "no directory": tmp_path / "nowhere"}
    found = provenance_of(places[where])
    assert found == NOT_UNDER_GIT and str(found) == "not under git"
    assert "not under git" in (why_not_signed(found) or "")


def test_without_git_installed(git: Git, rules: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git("commit", "-q", "-m", "first")
    monkeypatch.setenv("PATH", "/nonexistent")
    assert provenance_of(rules) == NOT_UNDER_GIT


def test_nothing_that_the_repository_names_is_run(git: Git, rules: Path, tmp_path: Path) -> None:
    git("commit", "-q", "-S", "-m", "first")
    trap = tmp_path / "trap"
    trap.write_text(f"#!/bin/sh\ntouch {tmp_path}/sprung\nexit 0\n")
    trap.chmod(0o755)
    for key in ("core.fsmonitor", "gpg.ssh.program", "gpg.program", "core.pager", "filter.x.clean", "core.sshCommand"):
        git("config", key, str(trap))
    git("config", "gpg.ssh.allowedSignersFile", "/dev/null")
    hook = rules.parent / ".git" / "hooks" / "post-index-change"
    hook.parent.mkdir(exist_ok=True)
    shutil.copy(trap, hook)
    (rules.parent / ".gitattributes").write_text("*.yaml filter=x\n")
    (rules / "site.yaml").touch()
    found = provenance_of(rules)
    assert not (tmp_path / "sprung").exists()
    assert found.signature == "good"  # by what the machine trusts, not the repository


def test_names_from_the_repository_are_cleaned(git: Git, rules: Path) -> None:
    git("-c", "user.name=Evil\x1b[31m" + "x" * 500, "commit", "-q", "-m", "first")
    author = provenance_of(rules).author
    assert author.startswith("Evil?[31m") and len(author) <= 120


def test_a_work_tree_beside_the_repository(git: Git, rules: Path, tmp_path: Path) -> None:
    git("commit", "-q", "-S", "-m", "first")
    git("worktree", "add", "-q", str(tmp_path / "tree"))
    found = provenance_of(tmp_path / "tree" / "rules")
    assert (found.signature, found.modified) == ("good", False)


def test_the_roles_read_what_the_supervisor_wrote(tmp_path: Path) -> None:
    path = tmp_path / "provenance.json"
    found = Provenance("a" * 40, "Anna", "2026-01-05", "good", "anna", False)
    write_provenance(found, path)
    assert read_provenance(path, tmp_path) == found
    path.write_text("rubbish")
    assert read_provenance(path, tmp_path) == NOT_UNDER_GIT
