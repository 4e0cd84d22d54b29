"""What a 250 is worth: a thousand messages with a SIGKILL in between, and a disk that fills up."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.clients import login, submit_many, swaks, until
from tests.lab.endurance import killed_in_mid_load as killed
from tests.lab.gateway import GROUP_ID
from tests.lab.internet import ROOT
from tests.lab.network import missing_parts
from tests.lab.world import Lab, lab

pytestmark = [pytest.mark.system, pytest.mark.peers, pytest.mark.timeout(180)]

STATE_OCTETS = 24 * 1024 * 1024


@pytest.fixture
def world() -> Iterator[Lab]:
    if missing := missing_parts(ROOT):
        pytest.skip(missing)
    with lab() as built:
        yield built


def test_a_thousand_messages_and_a_sigkill_lose_nothing(world: Lab) -> None:
    rows = list(killed(world, count=500))  # five hundred before the SIGKILL ends, five hundred after it

    assert [(tried, expected) for tried, expected, _ in rows] == [(tried, seen) for tried, _, seen in rows]


@pytest.fixture
def small_state(world: Lab) -> Iterator[Lab]:
    """The same gateway, its state directory on a tmpfs of STATE_OCTETS."""
    world.gateway.stop()
    state = world.gateway.state
    kept = {path.name: path.read_bytes() for path in (state / "accounts").iterdir() if path.is_file()}
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={STATE_OCTETS},mode=755", "tmpfs", str(state)], check=False
    )
    if mounted.returncode:
        pytest.skip("needs to mount a tmpfs")
    try:
        (state / "accounts").mkdir()
        for name, content in kept.items():
            (state / "accounts" / name).write_bytes(content)
        world.gateway.start()
        yield world
    finally:
        world.gateway.stop()
        subprocess.run(["umount", "--lazy", str(state)], check=False)


def _fill(folder: Path, leave_octets: int) -> Path:
    """A file that leaves so much room."""
    ballast = folder / "ballast"
    free = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
    with ballast.open("wb", buffering=0) as file:
        left = max(free - leave_octets, 0)
        try:
            while left:
                left -= file.write(b"\0" * min(left, 65536))
        except OSError as full:  # the gateway wrote meanwhile
            if full.errno != errno.ENOSPC:
                raise
    return ballast


def test_a_full_disk_defers_loses_nothing_and_ends_by_itself(small_state: Lab) -> None:
    lab_, to = small_state, ["--to", "bob@mx.example"]
    ballast = _fill(lab_.gateway.state, 1024 * 1024)  # below the reserve that the rules ask for

    assert swaks(lab_, "laptop", *login(587), *to, marker="full-1") == "452"

    ballast.unlink()
    ballast = _fill(lab_.gateway.state, 0)  # nothing left at all: SQLite itself is refused

    assert swaks(lab_, "laptop", *login(587), *to, marker="full-2") == "452"

    ballast.unlink()

    assert swaks(lab_, "laptop", *login(587), *to, marker="room-again") == "250"
    assert lab_.internet.wait_arrived("mx", "room-again") == 1
    assert lab_.internet.arrived("mx", "full-") == 0


def test_a_disk_that_fills_under_load_keeps_what_was_acknowledged(small_state: Lab) -> None:
    ballast = _fill(small_state.gateway.state, 3 * 1024 * 1024)
    acknowledged = submit_many(small_state, 200, "filling")
    ballast.unlink()
    acknowledged += submit_many(small_state, 20, "filled")

    assert len(acknowledged) >= 20

    def lost() -> list[str]:
        arrived = b"\n".join(small_state.internet.messages("mx"))
        return [marker for marker in acknowledged if marker.encode() not in arrived]

    until(lambda: not lost(), 40)
    assert lost() == []


def test_the_state_belongs_to_the_roles_and_nobody_else(world: Lab) -> None:
    for name in ("spool", "quarantine", "mailboxes", "accounts", "secrets"):
        status = (world.gateway.state / name).stat()
        assert status.st_mode & 0o007 == 0, f"{name} is open to all"
    assert (world.gateway.state / "spool").stat().st_uid == GROUP_ID + 2
