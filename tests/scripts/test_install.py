"""scripts/install.sh, with programs of the test's own in place of dpkg-query, apt-get and the like.

Nothing of this machine is touched: the shell finds only stubs, and the file that keeps services off lies in tmp_path.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BEFORE = "#!/bin/sh\n# the administrator's own\nexit 0\n"


def _heed_ctrl_c() -> None:
    """A shell started in the background ignores SIGINT for good, and so would all below it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Machine:
    """A machine where `installed` packages are there and every program called writes to a log."""

    def __init__(self, home: Path, installed: str = "", *, root: bool = True) -> None:
        self.home = home
        self.policy = home / "policy-rc.d"
        self.log = home / "log"
        self.log.touch()
        (home / "bin").mkdir()
        self.program("id", f"echo {0 if root else 1000}")
        self.program("sudo", "exit 1")
        self.program("dpkg-query", f'for name in {installed or "none"}; do echo "$name installed"; done')
        self.program("apt-get", "exit 0")
        for name in ("systemctl", "deb-systemd-helper", "update-rc.d"):
            self.program(name, "exit 0")

    def program(self, name: str, script: str) -> None:
        path = self.home / "bin" / name
        said = "" if name in ("id", "dpkg-query") else f'echo "{name} $*" >>{self.log}\n'
        path.write_text(f"#!/bin/sh\n{said}{script}\n")
        path.chmod(0o755)

    def run(self, script: str) -> subprocess.CompletedProcess[str]:
        lines = f". {ROOT}/scripts/install.sh; policy={self.policy}; {script}"
        path = f"{self.home}/bin:{os.environ['PATH']}"
        return subprocess.run(
            ["sh", "-c", lines, f"{ROOT}/scripts/test"],
            capture_output=True,
            text=True,
            env={"PATH": path, "HOME": str(self.home), "TMPDIR": str(self.home)},
            timeout=30,
            check=False,
            preexec_fn=_heed_ctrl_c,
        )

    def calls(self) -> list[str]:
        return self.log.read_text().splitlines()


def test_a_machine_that_has_everything_is_left_alone_in_silence(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "nftables gcc")
    done = machine.run("install_packages nftables gcc")
    assert (done.returncode, done.stdout, done.stderr, machine.calls()) == (0, "", "", [])


def test_an_ordinary_user_is_told_what_to_ask_for(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "nftables", root=False)
    done = machine.run("install_packages nftables gcc dovecot-imapd")
    assert done.returncode == 1
    assert "missing Debian packages: gcc dovecot-imapd" in done.stderr
    assert "apt-get install --no-install-recommends gcc dovecot-imapd" in done.stderr
    assert not any(call.startswith("apt-get") for call in machine.calls())


def test_only_what_is_missing_is_installed(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "nftables")
    assert machine.run("install_packages nftables gcc").returncode == 0
    [install] = [call for call in machine.calls() if call.startswith("apt-get")]
    assert install.endswith("--no-install-recommends gcc")


def test_old_package_lists_are_renewed_once_and_the_cause_is_shown(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.program("apt-get", 'case "$*" in *update*) ;; *) echo "E: no such package"; exit 100 ;; esac')
    done = machine.run("install_packages gcc")
    assert done.returncode == 1
    assert "E: no such package" in done.stderr
    verbs = [call.split("Timeout=120 ")[1].split()[0] for call in machine.calls() if call.startswith("apt-get")]
    assert verbs == ["install", "update", "install"]


def test_no_service_may_start_while_packages_are_installed(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.program("apt-get", f"{machine.policy}; echo policy says $? >>{machine.log}")
    assert machine.run("install_packages gcc").returncode == 0
    assert "policy says 101" in machine.calls()
    assert not machine.policy.exists()


@pytest.mark.parametrize(
    ("apt", "status"),
    [
        pytest.param("exit 0", 0, id="apt succeeds"),
        pytest.param("exit 100", 1, id="apt fails"),
        pytest.param("kill -TERM $PPID", 143, id="a TERM comes"),
        pytest.param("kill -INT $PPID", 130, id="Ctrl-C comes"),
        pytest.param("kill -HUP $PPID", 129, id="the terminal goes away"),
    ],
)
def test_the_administrators_service_policy_comes_back(tmp_path: Path, apt: str, status: int) -> None:
    machine = Machine(tmp_path)
    machine.policy.write_text(BEFORE)
    machine.program("apt-get", apt)
    assert machine.run("install_packages gcc").returncode == status
    assert machine.policy.read_text() == BEFORE
    assert [path.name for path in tmp_path.glob("policy-rc.d*")] == ["policy-rc.d"]


def test_what_a_killed_installation_left_is_mended_by_the_next(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.policy.write_text(BEFORE)
    machine.program("apt-get", "kill -KILL $PPID")
    assert machine.run("install_packages gcc").returncode == -signal.SIGKILL
    assert "exit 101" in machine.policy.read_text()
    machine.program("apt-get", "exit 0")
    assert machine.run("install_packages gcc").returncode == 0
    assert machine.policy.read_text() == BEFORE


@pytest.mark.parametrize(
    ("installed", "disabled"),
    [
        pytest.param("", ["dovecot.service", "dovecot.socket"], id="Dovecot is new"),
        pytest.param("dovecot-core dovecot-imapd", [], id="the administrator had Dovecot already"),
    ],
)
def test_only_a_dovecot_that_we_brought_is_kept_from_starting(
    tmp_path: Path, installed: str, disabled: list[str]
) -> None:
    machine = Machine(tmp_path, installed)
    assert machine.run("install_packages dovecot-imapd dovecot-pop3d").returncode == 0
    assert [call.split()[-1] for call in machine.calls() if call.startswith("systemctl disable")] == disabled


# --- the virtual environment: what is built, and when again ---------------------------------------------------------

BUILD = """
ROOT=$HOME VENV=$HOME/.venv
make_environment() { echo "make" >>$HOME/log; mkdir -p $VENV; }
pip_install() { echo "pip $1" >>$HOME/log; }
install_ourselves() { :; }
can_build() { [ -z "${no_compiler:-}" ]; }
"""


def _build(machine: Machine, script: str) -> list[str]:
    """Run `script` after the seams above; return what was done because of it."""
    before = len(machine.calls())
    done = machine.run(BUILD + script)
    assert done.returncode == 0, done.stderr
    return machine.calls()[before:]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    (tmp_path / "requirements.lock").write_text("one\n")
    (tmp_path / "requirements-dev.lock").write_text("one\ntwo\n")
    return Machine(tmp_path)


RUN, DEV = "install_python requirements.lock;", "install_python requirements-dev.lock;"


def test_the_second_time_nothing_is_done(machine: Machine) -> None:
    assert _build(machine, RUN) == ["make", "pip requirements.lock"]
    assert _build(machine, RUN) == []


def test_the_development_lock_is_added_and_then_serves_both_commands(machine: Machine) -> None:
    _build(machine, RUN)
    assert _build(machine, DEV) == ["pip requirements-dev.lock"]
    assert _build(machine, RUN + DEV) == []


def test_a_changed_lock_means_a_new_environment_also_when_it_changes_back(machine: Machine) -> None:
    lock = machine.home / "requirements.lock"
    _build(machine, RUN)
    for content in ("other\n", "one\n"):
        lock.write_text(content)
        assert _build(machine, RUN) == ["make", "pip requirements.lock"]


def test_a_checkout_that_moved_gets_a_new_environment(machine: Machine) -> None:
    _build(machine, RUN)
    moved = machine.home / "moved"
    moved.mkdir()
    for name in (".venv", "requirements.lock", "requirements-dev.lock"):
        (machine.home / name).rename(moved / name)
    assert _build(machine, f"ROOT={moved} VENV={moved}/.venv; {RUN}") == ["make", "pip requirements.lock"]


def test_an_interrupted_installation_starts_over(machine: Machine) -> None:
    machine.run(BUILD + "pip_install() { exit 1; };" + RUN)
    assert _build(machine, RUN) == ["make", "pip requirements.lock"]


def test_one_made_without_a_compiler_is_made_good_when_there_is_one(machine: Machine) -> None:
    assert _build(machine, "no_compiler=1;" + RUN) == ["make", "pip requirements.lock"]
    assert _build(machine, "no_compiler=1;" + RUN) == []
    assert _build(machine, RUN) == ["pip requirements.lock"]
    assert _build(machine, RUN) == []


def test_the_program_is_compiled_for_roles_that_may_not_write_there(machine: Machine) -> None:
    program = machine.home / "egressguard"
    program.mkdir()
    (program / "part.py").write_text("x = 1\n")
    makes = f"make_environment() {{ mkdir -p $VENV/bin; ln -s {sys.executable} $VENV/bin/python; }};"
    _build(machine, f"umask 077; {makes} {RUN}")
    (compiled,) = (program / "__pycache__").iterdir()
    assert compiled.stat().st_mode & 0o444 == 0o444 and compiled.parent.stat().st_mode & 0o555 == 0o555
