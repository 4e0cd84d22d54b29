from __future__ import annotations

import contextlib
import imaplib
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from egressguard.access.directories import forget_stale_pid
from egressguard.access.model import Ports
from egressguard.access.ports import choose_ports
from egressguard.access.programs import Programs


def group_of(pid):
    return {
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and _group(entry.name) == pid and _state(entry.name) != "Z"
    }


def _group(pid):
    with contextlib.suppress(OSError):
        return os.getpgid(int(pid))
    return None


def _state(pid):
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return "Z"


def eventually(check, seconds=20):
    deadline = time.monotonic() + seconds
    while not (answer := check()):
        if time.monotonic() > deadline:
            pytest.fail("did not become true in time")
        time.sleep(0.05)
    return answer


def test_without_dovecot_the_role_runs_on_and_says_how_to_get_it(house, start):
    running = start(None)
    eventually(lambda: running.access.status()["state"] == "not installed")

    assert "apt install dovecot-imapd dovecot-pop3d" in running.access.status()["problem"]
    assert not running.running.done()
    running.stop()
    assert running.running.done()


def test_with_no_port_nothing_is_started(house, start):
    running = start(Programs(*[Path("/nonexistent")] * 3), house.model(ports=Ports()))
    eventually(lambda: running.access.status()["state"] == "off")

    assert running.access.status()["problem"] == ""
    assert running.metric("server_starts_total") == 0


@pytest.mark.parametrize("version", ["2.2.36", "3.0.0", "what?"])
def test_a_version_that_we_do_not_know_is_not_started(house, start, version):
    program = house.directory / "dovecot"
    program.write_text(f"#!/bin/sh\necho '{version}'\n")
    program.chmod(0o755)
    running = start(Programs(program, program, program))
    eventually(lambda: running.access.status()["state"] == "refused")

    assert version[0] in running.access.status()["problem"]
    assert running.metric("server_starts_total") == 0


@pytest.mark.peers
class TestWithDovecot:
    @pytest.fixture(autouse=True)
    def account(self, house):
        house.add("anna")

    def test_stopping_leaves_no_process_behind(self, house, start, programs):
        running = start(programs).wait_running()
        pid = running.access._server.pid
        client = running.imap("anna")
        assert len(group_of(pid)) > 2

        running.stop()

        assert group_of(pid) == set()
        assert running.access.status()["state"] == "off"
        assert running.metric("server_running") == 0
        with pytest.raises((imaplib.IMAP4.abort, OSError)):
            client.noop()

    def test_a_master_that_is_killed_comes_back_and_its_children_do_not_stay(self, house, start, programs):
        running = start(programs).wait_running()
        pid = running.access._server.pid
        running.imap("anna")
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: running.metric("server_starts_total") == 2)

        assert group_of(pid) == set()
        running.wait_running().imap("anna").logout()

    def test_our_own_death_ends_dovecot(self, house, certificate):
        """Killed, without a chance to clean up. Dovecot is started as the present user: no wrapper in between."""
        program = Path(__file__).with_name("run_access.py")
        arguments = [house.directory, house.user, house.group]
        child = subprocess.Popen([sys.executable, program, *map(str, arguments)], stdout=subprocess.PIPE, text=True)
        try:
            line = child.stdout.readline()
            if line == "not installed\n":
                pytest.skip("needs Dovecot: apt install dovecot-imapd dovecot-pop3d")
            pid = int(line)
            assert group_of(pid)
        finally:
            child.kill()
            child.wait()
            child.stdout.close()

        eventually(lambda: not group_of(pid))

    def test_a_port_in_use_is_told_and_tried_again(self, house, start, programs):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            running = start(programs, house.model(ports=Ports(imaps=taken.getsockname()[1])))
            eventually(lambda: "in use" in running.access.status()["problem"])
        running.wait_running()

        assert running.access.status()["problem"] == ""

    def test_a_missing_certificate_is_told_in_words(self, house, start, programs):
        (house.directory / "certificate").unlink()
        running = start(programs)
        eventually(lambda: running.access.status()["state"] == "refused")

        assert "certificate: No such file" in running.access.status()["problem"]

    def test_a_reload_that_is_refused_leaves_the_old_one_at_work(self, house, start, programs):
        running = start(programs).wait_running()
        before = house.model().config.read_text()
        bad = replace(house.model(), certificate=house.directory / "nowhere")

        problem = running.call(running.access.reload(bad))

        assert "nowhere" in problem
        assert house.model().config.read_text() == before
        running.imap("anna").logout()
        assert running.access.status()["state"] == "running"

    def test_a_reload_moves_a_port_without_ending_sessions(self, house, start, programs):
        model = house.model()
        running = start(programs, model).wait_running()
        client = running.imap("anna")
        moved = replace(model, ports=replace(model.ports, imaps=choose_ports(Ports(0), ("127.0.0.1",)).imap))

        assert running.call(running.access.reload(moved)) is None
        eventually(lambda: _connects(moved.ports.imaps))
        assert client.noop()[0] == "OK"
        assert running.metric("server_starts_total") == 1

    def test_an_admin_who_is_one_no_more_loses_the_quarantine_at_once(self, house, start, programs):
        house.hold("HELD0001", b"Subject: held\r\n\r\n")
        model = house.model(admins=("anna",))
        running = start(programs, model).wait_running()
        client = running.imap("anna")
        assert client.select("Quarantine-all/Held")[0] == "OK"

        assert running.call(running.access.reload(replace(model, quarantine_admins=("boss",)))) is None

        with pytest.raises((imaplib.IMAP4.abort, OSError)):
            client.fetch("1", "(BODY.PEEK[])")
        running.wait_running()
        assert running.imap("anna").select("Quarantine-all/Held")[0] == "NO"

    def test_reloading_to_no_ports_ends_it(self, house, start, programs):
        running = start(programs).wait_running()
        pid = running.access._server.pid
        running.call(running.access.reload(house.model(ports=Ports())))
        eventually(lambda: running.access.status()["state"] == "off")

        assert group_of(pid) == set()

    def test_a_stale_pid_file_does_not_stop_it(self, house, start, programs):
        (house.directory / "base_dir").mkdir()
        (house.directory / "base_dir" / "master.pid").write_text(f"{os.getpid()}\n")

        start(programs).wait_running()


def _connects(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def test_a_living_server_s_pid_file_is_kept(house):
    model = house.model()
    model.base_dir.mkdir()
    program = [sys.executable, "-c", "import sys; print(flush=True); sys.stdin.read()", str(model.config)]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as living:
        living.stdout.readline()
        (model.base_dir / "master.pid").write_text(f"{living.pid}\n")
        forget_stale_pid(model)
        kept = (model.base_dir / "master.pid").exists()
        living.stdin.close()

    assert kept
