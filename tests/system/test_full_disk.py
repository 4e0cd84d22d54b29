"""A disk that is full for a while: 452, nothing is lost, and room is all that is needed to go on."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.system.relay_role import ROOT

pytestmark = pytest.mark.system

DISK = "24m"
TAKEN, FULL = "250 2.0.0", "452 4.3.1"
_ON_A_SMALL_DISK = f'mount -t tmpfs -o size={DISK} none "$1" && shift && exec "$@"'


def _story(folder: Path, reserve_octets: int, manner: str) -> dict[str, Any]:
    """What tests/system/small_disk.py saw."""
    if os.geteuid() != 0 or not shutil.which("unshare"):
        pytest.skip("needs root and unshare: mounts a small tmpfs in a mount namespace of its own")
    state = folder / "state"
    state.mkdir()
    program = [sys.executable, "-m", "tests.system.small_disk", str(folder), str(reserve_octets), manner]
    command = ["unshare", "--mount", "sh", "-c", _ON_A_SMALL_DISK, "sh", str(state), *program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)
    if "unshare:" in done.stderr or "mount:" in done.stderr:
        pytest.skip(f"needs the right to mount a tmpfs: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def _is_whole(seen: dict[str, Any]) -> None:
    assert seen["at_first"] == seen["room"] == [TAKEN] * 3
    assert seen["held_up"] == TAKEN
    assert set(seen["large"]) <= {TAKEN, FULL}
    assert seen["until_full"] == FULL
    assert seen["full"] == [FULL] * 3
    assert seen["same_process"]
    assert seen["acknowledged"] >= 7
    assert seen["lost"] == seen["not_acknowledged"] == seen["doubled_without_reason"] == seen["faults"] == []
    assert seen["drained"]
    assert seen["ended"] == 0
    assert seen["left_behind"] == {}


@pytest.mark.parametrize("reserve_octets", [0, 2_000_000])
def test_a_full_disk_puts_off_and_loses_nothing(tmp_path: Path, reserve_octets: int) -> None:
    seen = _story(tmp_path, reserve_octets, "lasting")
    _is_whole(seen)
    assert seen["doubled"] == 0, "outcomes without room are kept until there is some"
    if reserve_octets:
        assert seen["mail"] == FULL, "known before a message is sent for nothing"


def test_a_relay_that_is_killed_on_a_full_disk_starts_on_what_its_draft_leaves(tmp_path: Path) -> None:
    """And where nothing is left it ends as a failure, to be started again until there is room."""
    seen = _story(tmp_path, 0, "killed")
    _is_whole(seen)
    said_meanwhile, ended_as_a_failure = seen["restarts"]
    assert said_meanwhile == FULL
    assert ended_as_a_failure
