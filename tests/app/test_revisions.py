"""Rules of a git revision are what the commit has, and what is no revision is said so."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from egressguard.app.revisions import Unreadable, rules_at
from egressguard.app.rules import MAX_FILES

SITE = "site: {zones: {lan: {networks: 10.0.0.0/8}}}\n"


def git(directory: Path, *words: str) -> None:
    settings = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *settings, *words], cwd=directory, check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Two commits: rules/site.yaml and rules/lists/a.txt, then another site.yaml."""
    (tmp_path / "rules" / "lists").mkdir(parents=True)
    (tmp_path / "rules" / "site.yaml").write_text(SITE)
    (tmp_path / "rules" / "lists" / "a.txt").write_text("192.0.2.1\n")
    (tmp_path / "README").write_text("not a rule\n")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "one")
    (tmp_path / "rules" / "site.yaml").write_text(SITE.replace("10.", "11."))
    (tmp_path / "rules" / "link.yaml").symlink_to("site.yaml")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "two")
    return tmp_path


def files(text: str, beside: Path) -> dict[str, str]:
    with rules_at(text, beside) as directory:
        return {str(p.relative_to(directory)): p.read_text() for p in directory.rglob("*") if p.is_file()}


def test_the_rules_directory_as_a_commit_has_it(repository: Path) -> None:
    before = {"site.yaml": SITE, "lists/a.txt": "192.0.2.1\n"}
    assert files("HEAD~1", repository / "rules") == before
    assert files("HEAD~1:rules", repository) == before
    assert files("HEAD:rules/lists", repository) == {"a.txt": "192.0.2.1\n"}
    assert set(files("HEAD", repository / "rules")) == {"site.yaml", "lists/a.txt"}  # a link is no file of it


def test_a_directory_is_itself(repository: Path) -> None:
    with rules_at(str(repository / "rules"), repository) as directory:
        assert directory == repository / "rules"


def test_what_was_made_for_a_commit_is_gone_afterwards(repository: Path) -> None:
    with rules_at("HEAD", repository / "rules") as directory:
        assert (directory / "site.yaml").exists()
    assert not directory.exists()


@pytest.mark.parametrize("text", ["nothing", "HEAD~9", "HEAD:nowhere", "--output=x", ":rules", "", "HEAD\0x"])
def test_what_is_no_revision_is_said(repository: Path, text: str) -> None:
    with pytest.raises(Unreadable), rules_at(text, repository / "rules"):
        pass


def test_without_a_repository_there_are_no_revisions(tmp_path: Path) -> None:
    with pytest.raises(Unreadable, match="no git repository"), rules_at("HEAD", tmp_path):
        pass


def test_a_commit_with_too_many_files_is_refused(repository: Path) -> None:
    for number in range(MAX_FILES + 1):
        (repository / "rules" / "lists" / f"{number}.txt").touch()
    git(repository, "add", ".")
    git(repository, "commit", "-qm", "many")
    with pytest.raises(Unreadable, match="too many"), rules_at("HEAD", repository / "rules"):
        pass
