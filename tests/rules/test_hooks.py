"""The hook and the CI step of rules/README.md, as they stand there, in a checkout of the shipped rules."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.app.test_revisions import git

RULES = Path(__file__).parents[2] / "rules"
HOOK, STEP = re.findall(r"```sh\n(.*?)```", (RULES / "README.md").read_text(), re.DOTALL)


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """The program in PATH, and no gateway's files."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    author = {f"GIT_{who}_{what}": "a@b.example" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    return {**os.environ, **author, "PATH": path, "EGRESSGUARD_STATE": str(tmp_path / "state")}


def edit(file: Path, old: str, new: str) -> None:
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))


def test_the_hook_lets_a_change_pass_and_stops_a_broken_promise(tmp_path: Path, environment: dict[str, str]) -> None:
    checkout = tmp_path / "rules"
    shutil.copytree(RULES, checkout)
    git(checkout, "init", "-q")
    git(checkout, "add", ".")
    git(checkout, "commit", "-qm", "one")
    hook = checkout / ".git" / "hooks" / "pre-commit"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(HOOK)
    hook.chmod(0o755)

    def commit() -> subprocess.CompletedProcess[str]:
        words = ["git", "commit", "-qam", "two"]
        return subprocess.run(words, cwd=checkout, env=environment, capture_output=True, text=True, check=False)

    edit(checkout / "site.yaml", "mail-servers: []", "mail-servers: [192.168.1.25]")
    passed = commit()
    assert passed.returncode == 0, passed.stderr
    assert "allow by own-mail-servers" in passed.stdout + passed.stderr
    edit(checkout / "flows.yaml", "port: 25\n    action: reject", "port: 25\n    action: allow")
    stopped = commit()
    assert stopped.returncode == 1 and "promises: broken" in stopped.stdout + stopped.stderr


def test_the_step_leaves_a_page_for_the_reviewer(tmp_path: Path, environment: dict[str, str]) -> None:
    origin, checkout = tmp_path / "origin", tmp_path / "checkout"
    shutil.copytree(RULES, origin / "rules")
    git(origin, "init", "-q", "-b", "main")
    git(origin, "add", ".")
    git(origin, "commit", "-qm", "one")
    git(tmp_path, "clone", "-q", str(origin), str(checkout))
    edit(checkout / "rules" / "mail.yaml", "folder: Infected", "folder: Malware")
    done = subprocess.run(
        ["sh", "-ec", STEP], cwd=checkout, env=environment, capture_output=True, text=True, check=False
    )
    page = (checkout / "plan.md").read_text()
    assert done.returncode == 1, done.stderr  # an expectation says Infected
    assert "### mail" in page and "quarantine into Malware" in page and "## Expectations" in page
