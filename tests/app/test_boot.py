"""What is missing is said in one line with its cure, and nothing is half-done: no nft, no rights."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def egressguard(*words: str, path: str | None = None, prefix: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    environment = os.environ | ({"PATH": path} if path is not None else {})
    command = [*prefix, sys.executable, "-m", "egressguard", *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False, timeout=60)


def places(folder: Path) -> list[str]:
    return ["--rules", str(ROOT / "rules"), "--state", str(folder / "state"), "--runtime", str(folder / "run")]


@pytest.mark.parametrize("command", ["up", "down"])
def test_without_nft_it_says_so(tmp_path: Path, command: str) -> None:
    done = egressguard(command, *places(tmp_path), path=str(tmp_path))

    assert done.returncode in {1, 4} and done.stdout == ""
    assert "nft" in done.stderr and "Traceback" not in done.stderr
    assert done.stderr.count("\n") <= 2


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: rights are taken away")
@pytest.mark.parametrize("command", ["up", "down"])
def test_without_the_right_to_change_the_kernel_it_says_so(tmp_path: Path, command: str) -> None:
    nothing = ("unshare", "--net", "setpriv", "--bounding-set=-all", "--inh-caps=-all")

    done = egressguard(command, *places(tmp_path), prefix=nothing)

    assert done.returncode == 1 and "root" in done.stderr
    assert "Traceback" not in done.stderr and done.stderr.count("\n") <= 2


@pytest.mark.parametrize("command", ["plan", "apply", "confirm", "rollback", "sources"])
def test_without_a_gateway_the_cure_is_told(tmp_path: Path, command: str) -> None:
    done = egressguard(command, *places(tmp_path))

    assert done.returncode == 3
    assert "is `egressguard run` running?" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize("command", ["plan", "apply", "confirm", "rollback", "up", "sources"])
def test_help_has_an_example_and_exit_codes(command: str) -> None:
    told = egressguard(command, "--help").stdout

    assert f"egressguard {command}" in told and "Exit codes:" in told and "--json" in told
