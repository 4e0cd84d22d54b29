"""`egressguard user sieve`: written whole or not at all; checked by the real sievec where there is one."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from egressguard.app.cli import main, sieve
from egressguard.policy.document import Fault
from tests.peers.dovecots import GENERATIONS, gateway_words

SCRIPT = 'require ["fileinto"];\nif header :contains "Subject" "x" { fileinto "X"; }\n'
WRONG = 'require ["fileinto"];\nfilinto "X";\n'


@pytest.fixture
def run(tmp_path: Path):
    places = ["--state", str(tmp_path / "state"), "--runtime", str(tmp_path / "run")]

    def invoke(verb: str, *words: str, given: str | None = None, code: int = 0) -> Result:
        said = [] if verb == "check" else places
        done = CliRunner().invoke(main, ["user", "sieve", verb, *said, *words], input=given, catch_exceptions=False)
        assert done.exit_code == code, done.output
        return done

    return invoke


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[list[Fault] | None]:
    """What sievec says, one after the other."""
    answers: list[list[Fault] | None] = []

    async def said(_content: bytes, _shown: str) -> list[Fault] | None:
        return answers.pop(0)

    monkeypatch.setattr(sieve, "check", said)
    return answers


def test_set_show_clear(run, told) -> None:
    run("show", "anna", code=5)
    told.append([])
    assert json.loads(run("set", "anna", "-", "--json", given=SCRIPT).output)["checked"] is True
    assert run("show", "anna").output == SCRIPT
    assert json.loads(run("show", "anna", "--json").output)["script"] == SCRIPT
    run("clear", "anna")
    run("clear", "anna", code=5)
    run("show", "../anna", code=2)


def test_faults_change_nothing(run, told) -> None:
    told += [[], [Fault("-", 2, 1, "unknown command 'filinto'")]]
    run("set", "anna", "-", given=SCRIPT)
    output = run("set", "anna", "-", given=WRONG, code=1).output
    assert "-:2:1: unknown command 'filinto'\n    filinto \"X\";" in output
    assert run("show", "anna").output == SCRIPT


def test_what_nobody_can_check_is_set_and_says_so(run, told) -> None:
    told += [None, None]
    assert "apt install dovecot-sieve" in run("set", "anna", "-", given=SCRIPT).output
    assert "apt install dovecot-sieve" in run("check", "-", given=SCRIPT, code=5).output


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """pytest's own is closed to an ordinary user."""
    with tempfile.TemporaryDirectory(prefix="eg-sv-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.mark.peers
@pytest.mark.parametrize("generation", GENERATIONS)
def test_the_real_sievec_tells_the_line(open_folder: Path, generation: str) -> None:
    words = gateway_words(generation, open_folder)
    for text, code, said in ((SCRIPT, 0, ""), (WRONG, 1, "-:2:1: unknown command 'filinto'")):
        command = [*words, sys.executable, "-m", "egressguard", "user", "sieve", "check", "-"]
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stderr
        assert said in done.stderr
