"""The scripts themselves: they parse in the smallest shell, explain themselves, and leave the machine as it was."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted(path for path in (ROOT / "scripts").iterdir() if path.is_file())
WITH_HELP = ("run", "test", "fresh")
PEERS = (  # what the tests ask of each peer first
    ("postfix", "postconf -d mail_version", "mail_version = "),
    ("exim", "exim4 -bV", "Exim version"),
    ("nsd", "nsd -v", "NSD version"),
    ("unbound", "unbound -V", "Version "),
    ("unbound", "ldns-signzone -v", "zone signer version"),
    ("clamav", "clamd --help", "Clam AntiVirus"),
    ("prometheus", "promtool --version", "promtool, version"),
)


def _run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_parses_in_debians_sh(script: Path) -> None:
    done = _run("sh", "-n", str(script))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("script", [path for path in SCRIPTS if path.suffix != ".sh"], ids=lambda path: path.name)
def test_a_script_can_be_called_and_stops_at_the_first_error(script: Path) -> None:
    lines = script.read_text().splitlines()
    assert os.access(script, os.X_OK)
    assert lines[0] == "#!/bin/sh"
    assert "set -eu" in lines


@pytest.mark.parametrize("name", WITH_HELP)
def test_help_is_words_with_an_example_and_installs_nothing(name: str) -> None:
    done = _run("env", "-i", "PATH=/usr/bin:/bin", str(ROOT / "scripts" / name), "--help")
    assert done.returncode == 0
    assert done.stdout.lower().count("usage: ") == 1
    assert "Example:" in done.stdout
    assert done.stderr == ""


def test_a_debian_suite_that_we_do_not_know_is_refused_before_anything_is_made() -> None:
    done = _run(str(ROOT / "scripts" / "fresh"), "sid")
    assert done.returncode == 2
    assert not (ROOT / ".fresh" / "sid").exists()


def test_a_peer_that_is_not_there_is_named() -> None:
    done = _run(str(ROOT / "scripts" / "peer"), "no-such-peer", "true")
    assert done.returncode == 3
    assert "no-such-peer" in done.stderr


def _needs_peer(name: str) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: scripts/peer makes a mount namespace")
    if not (ROOT / ".peers" / name / ".unpacked").exists():
        pytest.skip(f"needs {name} in .peers: run scripts/peers")


@pytest.mark.peers
@pytest.mark.parametrize(("name", "command", "answer"), PEERS, ids=[peer[0] for peer in PEERS])
def test_a_peer_answers_and_the_machine_does_not_have_it_afterwards(name: str, command: str, answer: str) -> None:
    _needs_peer(name)
    mounts = Path("/proc/self/mountinfo").read_text()
    passwd = Path("/etc/passwd").read_bytes()
    done = _run(str(ROOT / "scripts" / "peer"), name, *command.split())
    assert answer in done.stdout + done.stderr
    assert Path("/proc/self/mountinfo").read_text() == mounts
    assert Path("/etc/passwd").read_bytes() == passwd


@pytest.mark.peers
def test_the_exit_status_of_a_peers_command_is_passed_on() -> None:
    _needs_peer("nsd")
    assert _run(str(ROOT / "scripts" / "peer"), "nsd", "sh", "-c", "exit 41").returncode == 41
