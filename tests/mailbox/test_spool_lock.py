"""The lock that Debian's mail programs agree on, against those programs themselves."""

from __future__ import annotations

import fcntl
import mailbox
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from egressguard.mailbox.spool_lock import STALE_SECONDS, Locked, locked

PEERS = Path(__file__).parents[2] / ".peers"


@pytest.fixture
def box(tmp_path):
    path = tmp_path / "anna"
    path.touch()
    fd = os.open(path, os.O_RDWR)
    yield path, fd
    os.close(fd)


def test_both_locks_are_held_and_given_back(box):
    path, fd = box
    with locked(path, fd):
        assert Path(f"{path}.lock").read_text() == f"{os.getpid()}\n"
        assert fcntl_says(path) == "taken"
    assert fcntl_says(path) == "free"
    assert sorted(p.name for p in path.parent.iterdir()) == ["anna"]


def fcntl_says(path):
    """Locks of one process do not exclude each other: another one asks."""
    code = (
        "import fcntl, sys; f = open(sys.argv[1], 'r+b')\n"
        "try: fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB); print('free')\n"
        "except OSError: print('taken')"
    )
    return subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True).stdout.strip()


def test_a_lock_file_of_somebody_else_gives_back_the_first_lock(box):
    path, fd = box
    Path(f"{path}.lock").write_text("1\n")
    with pytest.raises(Locked), locked(path, fd):
        pass
    assert fcntl_says(path) == "free"
    assert sorted(p.name for p in path.parent.iterdir()) == ["anna", "anna.lock"]


def test_an_fcntl_lock_of_somebody_else_is_not_waited_for(box):
    path, fd = box
    code = "import fcntl, sys; f = open(sys.argv[1], 'r+b'); fcntl.lockf(f, fcntl.LOCK_EX); print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        with pytest.raises(Locked), locked(path, fd):
            pass
        assert not Path(f"{path}.lock").exists()
        other.communicate(b"\n")


@pytest.mark.parametrize(("age", "taken"), [(STALE_SECONDS - 60, True), (STALE_SECONDS + 60, False)])
def test_a_lock_file_that_a_crash_left_is_removed(box, age, taken):
    path, fd = box
    lock = Path(f"{path}.lock")
    lock.write_text("1\n")
    then = time.time() - age
    os.utime(lock, (then, then))
    if taken:
        with pytest.raises(Locked), locked(path, fd):
            pass
        return
    with locked(path, fd):
        assert lock.read_text() == f"{os.getpid()}\n"
    assert not lock.exists()


def test_a_directory_that_is_closed_is_an_error_and_no_wait(tmp_path):
    with pytest.raises(FileNotFoundError), (tmp_path / "fd").open("w+b") as file:
        fcntl.lockf(file, fcntl.LOCK_UN)
        with locked(tmp_path / "gone" / "anna", file.fileno()):
            pass


# Others' programs.


def program(tree, name):
    path = PEERS / tree / "usr/bin" / name
    if not path.exists():
        pytest.skip(f"needs {name}: scripts/peers")
    return path


def takes(command):
    return subprocess.run(command, capture_output=True, timeout=60, check=False).returncode == 0


@pytest.mark.peers
@pytest.mark.parametrize(
    ("tree", "name", "take", "give_back"),
    [
        ("lockers", "dotlockfile", ["-l", "-r", "0", "{box}.lock"], ["-u", "{box}.lock"]),
        ("lockers", "lockfile", ["-r", "0", "{box}.lock"], None),
        ("clients", "mutt_dotlock", ["-r", "0", "{box}"], ["-u", "{box}"]),
    ],
)
def test_other_programs_and_we_exclude_each_other(box, tree, name, take, give_back):
    path, fd = box
    command = [str(program(tree, name)), *(word.format(box=path) for word in take)]
    with locked(path, fd):
        assert not takes(command)
    assert takes(command)
    with pytest.raises(Locked), locked(path, fd):
        pass
    if give_back:
        assert takes([command[0], *(word.format(box=path) for word in give_back)])
    else:
        Path(f"{path}.lock").unlink()
    with locked(path, fd):
        pass


def test_python_s_mailbox_and_we_exclude_each_other(box):
    path, fd = box
    with locked(path, fd), pytest.raises(mailbox.ExternalClashError):
        mailbox.mbox(path).lock()
    code = "import mailbox, sys; box = mailbox.mbox(sys.argv[1]); box.lock(); print(flush=True); input(); box.unlock()"
    with subprocess.Popen([sys.executable, "-c", code, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        with pytest.raises(Locked), locked(path, fd):
            pass
        other.communicate(b"\n")
    with locked(path, fd):
        pass
