"""kill -9 at each step of apply and confirm: after the restart the kernel holds the last confirmed ruleset.

An apply that waits for its confirm goes the same steps as one that does not: both of all only with EGRESSGUARD_KILLS
(make system)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from egressguard.app.generations import Generations

pytestmark = pytest.mark.system

ROOT = Path(__file__).parents[2]
RULES = """
site: {zones: {lan: {interfaces: eth1}}, apply: {probes: []}}
flows: [{name: NAME, from: lan, port: 25, action: reject}]
"""
APPLY = ["save", "begin", "before-load", "after-load", "save-ruleset"]
APPLY_AND_WAIT = APPLY if "EGRESSGUARD_KILLS" in os.environ else ["begin", "after-load"]


class Machine:
    """A machine of its own: a network namespace, a rules directory and a state directory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.namespace = f"eg-keep-{os.getpid()}-{folder.name[-8:]}"
        for name in ("rules", "run", "state/policy/generations"):
            (folder / name).mkdir(parents=True)
        subprocess.run(["ip", "netns", "add", self.namespace], check=True)

    def write(self, name: str) -> None:
        (self.folder / "rules" / "a.yaml").write_text(RULES.replace("NAME", name))

    def run(self, step: str = "", word: str = "") -> tuple[int, dict[str, str]]:
        """The exit status, and what it said."""
        command = [sys.executable, "-m", "tests.app.run_keeper", str(self.folder), step, word]
        done = self._in("env", f"PYTHONPATH={ROOT}", *command)
        return done.returncode, dict(json.loads(line) for line in done.stdout.splitlines() if line.startswith("["))

    def rule(self) -> str:
        """The name of the rule that the kernel has."""
        listed = self._in("nft", "list", "table", "inet", "egressguard").stdout
        return next((line.split("chain rule_")[1].split()[0] for line in listed.splitlines() if is_rule(line)), "")

    def reboot(self) -> None:
        """All that the kernel knows is gone."""
        self._in("nft", "flush", "ruleset")
        shutil.rmtree(self.folder / "run")
        (self.folder / "run").mkdir()

    def up(self) -> subprocess.CompletedProcess[str]:
        places = [f"--{name}={self.folder / folder}" for name, folder in (("state", "state"), ("runtime", "run"))]
        return self._in(sys.executable, "-m", "egressguard", "up", f"--rules={self.folder / 'rules'}", *places)

    def _in(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = ["ip", "netns", "exec", self.namespace, *words]
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, timeout=60)

    def close(self) -> None:
        subprocess.run(["ip", "netns", "delete", self.namespace], check=False)


def is_rule(line: str) -> bool:
    return "chain rule_" in line and "rule_mapped-addresses" not in line and "rule_tunnels" not in line


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    if os.geteuid() != 0 or shutil.which("nft") is None:
        pytest.skip("needs root and nft: network namespaces are made")
    made = Machine(tmp_path)
    made.write("old")
    yield made
    made.close()


@pytest.mark.parametrize(
    ("word", "step", "expected"),
    [
        *(("apply", step, "old") for step in APPLY_AND_WAIT),
        *(("apply-now", step, "old") for step in [*APPLY, "confirm"]),
        ("apply-now", "forget-pending", "new"),
        *(("confirm", step, "old") for step in ["confirm"]),
        ("confirm", "forget-pending", "new"),
    ],
)
def test_a_kill_at_any_step_leaves_the_last_confirmed_ruleset(
    machine: Machine, word: str, step: str, expected: str
) -> None:
    assert machine.run()[0] == 0 and machine.rule() == "old"
    machine.write("new")

    status, said = machine.run(step, word)
    assert status in {-9, 137}, said

    assert machine.run()[0] == 0
    assert machine.rule() == expected
    assert Generations(machine.folder / "state/policy").pending() is None
    machine.reboot()
    assert machine.up().returncode == 0 and machine.rule() == expected


def test_what_is_confirmed_comes_back_and_what_is_not_does_not(machine: Machine) -> None:
    machine.run()
    machine.write("new")
    assert machine.run("", "apply")[0] == 0 and machine.rule() == "new"
    assert machine.run()[0] == 0 and machine.rule() == "old"
    assert machine.run("", "confirm")[0] == 0 and machine.rule() == "new"
    assert machine.run()[0] == 0 and machine.rule() == "new"


def test_a_machine_without_a_policy_boots_with_port_25_closed(machine: Machine) -> None:
    told = machine.up()

    assert told.returncode == 0 and "built in" in told.stdout, told.stderr
    listed = machine._in("nft", "list", "table", "inet", "egressguard").stdout
    assert "tcp dport 25" in listed and "reject with tcp reset" in listed
    assert machine.run()[0] == 0 and machine.rule() == "old"


def test_a_ruleset_that_is_damaged_is_not_what_a_boot_loads(machine: Machine) -> None:
    machine.run()
    (kept,) = (machine.folder / "state/policy/generations").glob("*/ruleset.nft")
    kept.write_text(kept.read_text()[:-40])
    machine.reboot()

    told = machine.up()

    assert told.returncode == 0 and "built in" in told.stdout and "Error" in told.stderr


def test_a_strangers_table_of_our_name_stays(machine: Machine) -> None:
    machine._in("nft", "add table inet egressguard { chain theirs { }; }")

    refused = machine.up()

    assert refused.returncode == 1
    assert "another program's table" in refused.stderr
    listed = machine._in("nft", "list", "table", "inet", "egressguard").stdout
    assert "chain theirs" in listed and "chain forward" not in listed
    status, said = machine.run()
    assert status == 1 and said == {}
    assert "chain theirs" in machine._in("nft", "list", "table", "inet", "egressguard").stdout
