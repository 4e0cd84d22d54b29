"""The whole gateway as one process tree, as an ordinary user runs it: up, heard, reloaded, mended, down."""

from __future__ import annotations

import json
import os
import shutil
import signal
import smtplib
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from egressguard.app.control import ask

ROOT = Path(__file__).parent.parent.parent
SITE = """
site:
  zones: {lan: {networks: 127.0.0.0/8}}
  resolvers: "127.0.0.1:9"
  relay:
    hostname: gw.test.example
    listeners:
      lan: {kind: smtp, port: 0}
      submission: {kind: submission, port: 0}
    retry: {first_seconds: 600}
  metrics: {port: 0}
flows:
  - {name: no-smtp, from: lan, port: 25, action: reject}
mail:
  - {name: everybody-here, match: {client: lan, sender_domain: test.example}, action: accept}
"""
SECONDS = 60
NOBODY = ("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups")


def until(truth: Callable[[], object], seconds: float = SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not truth():
        assert time.monotonic() < deadline, "did not come true in time"
        time.sleep(0.05)


class Running:
    """A gateway below `folder`; as root it runs under nobody, so that it is nobody special, or as `nobody` says."""

    def __init__(self, folder: Path, site: str = SITE, nobody: Sequence[str] = NOBODY) -> None:
        self.nobody = nobody
        self.folder, self.rules, self.runtime = folder, folder / "rules", folder / "run"
        self.rules.mkdir()
        (self.rules / "site.yaml").write_text(site)
        self.log = folder / "log"
        if os.geteuid() == 0:
            for path in (folder, self.rules):
                os.chown(path, 65534, -1)
        self._start()

    def again(self, number: signal.Signals = signal.SIGINT) -> None:
        """End it, by SIGKILL all at once, and start it on the same directories."""
        if number is signal.SIGKILL:
            os.killpg(self.process.pid, number)
        else:
            self.process.send_signal(number)
        self.process.wait(SECONDS)
        self._start()

    def _start(self) -> None:
        self.process = subprocess.Popen(
            self.command("run", "--high-ports"),
            stdout=self.log.open("wb"),
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            start_new_session=True,
        )
        try:
            until(lambda: "EgressGuard is ready" in self.words() or self.process.poll() is not None)
            assert self.process.poll() is None, self.words()
        except BaseException:
            os.killpg(self.process.pid, signal.SIGKILL)
            raise

    def command(self, *words: str) -> list[str]:
        command = [sys.executable, "-m", "egressguard", *words, "--rules", str(self.rules)]
        command += ["--state", str(self.folder / "state"), "--runtime", str(self.runtime)]
        return [*self.nobody, *command] if os.geteuid() == 0 else command

    def told(self, *words: str) -> str:
        """What a command answers."""
        return subprocess.run(self.command(*words), cwd=ROOT, capture_output=True, text=True, check=True).stdout

    def words(self) -> str:
        return self.log.read_text()

    def port(self, name: str) -> int:
        return int(json.loads((self.runtime / "listening.json").read_text())[name][0][1])

    def members(self) -> list[int]:
        listed = subprocess.run(["ps", "-o", "pid=", "-g", str(self.process.pid)], capture_output=True, check=False)
        return [int(pid) for pid in listed.stdout.split()]

    def role_pid(self, role: str) -> int | None:
        for pid in self.members():
            try:
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"role" in words and role.encode() in words and words[-2:] != [b""]:
                return pid
        return None

    def started_at(self, role: str) -> float:
        ticks = int(Path(f"/proc/{self.role_pid(role)}/stat").read_text().rpartition(")")[2].split()[19])
        booted_at = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
        return booted_at + (ticks + 1) / os.sysconf("SC_CLK_TCK")

    def ready_at(self, role: str) -> float:
        return (self.runtime / role / "control.sock").stat().st_ctime


@pytest.fixture
def gateway() -> Iterator[Running]:
    # Not pytest's own folder: that is closed to the ordinary user that root runs this as.
    with tempfile.TemporaryDirectory(prefix="eg-gateway-", ignore_cleanup_errors=True) as name:
        yield from running_in(Path(name))


def running_in(folder: Path, site: str = SITE, nobody: Sequence[str] = NOBODY) -> Iterator[Running]:
    if os.geteuid() == 0:
        probe = ["setpriv", "--reuid", "65534", "--clear-groups", "test", "-r", str(ROOT / "pyproject.toml")]
        if subprocess.run(probe, check=False).returncode:
            pytest.skip("needs a checkout that an ordinary user can read")
        folder.chmod(0o755)
    running = Running(folder, site, nobody)
    try:
        yield running
    finally:
        if running.process.poll() is None:
            os.killpg(running.process.pid, signal.SIGKILL)
            running.process.wait()


def test_it_listens_delivers_its_metrics_and_stops_with_status_0(gateway: Running) -> None:
    wall_and_scanner, others = ("gate", "scan"), ("relay", "access", "console")
    assert max(map(gateway.ready_at, wall_and_scanner)) < min(map(gateway.started_at, others))
    assert max(map(gateway.started_at, wall_and_scanner)) < min(map(gateway.ready_at, wall_and_scanner))
    assert max(map(gateway.started_at, others)) < gateway.ready_at("relay")  # they do not wait for each other
    with smtplib.SMTP("127.0.0.1", gateway.port("lan"), timeout=20) as client:
        client.sendmail("a@test.example", ["b@mx.example"], "Subject: x\r\n\r\nhello\r\n")
    page = urllib.request.urlopen(f"http://127.0.0.1:{gateway.port('metrics')}/metrics", timeout=20).read().decode()

    assert 'egressguard_smtpd_messages_total{decision="accepted",listener="lan"} 1.0' in page
    assert 'egressguard_enforcement_mode{mode="plan"} 1.0' in page
    assert page.count("# TYPE egressguard_up gauge") == 1
    queued = ask(gateway.runtime / "relay" / "control.sock", "queue.list", limit=10)
    assert [row["sender"] for row in queued] == ["a@test.example"]

    gateway.process.send_signal(signal.SIGINT)

    assert gateway.process.wait(SECONDS) == 0
    assert "Traceback" not in gateway.words()
    until(lambda: not gateway.members(), 5)


def test_a_role_that_is_killed_comes_back_and_the_queue_and_its_orders_with_it(gateway: Running) -> None:
    assert "mx:mx.example" in gateway.told("queue", "suspend", "mx.example", "--why", "they move")
    with smtplib.SMTP("127.0.0.1", gateway.port("lan"), timeout=20) as client:
        client.sendmail("a@test.example", ["b@mx.example"], "Subject: x\r\n\r\nhello\r\n")
    old = gateway.role_pid("relay")
    assert old is not None
    os.kill(old, signal.SIGKILL)

    until(lambda: gateway.role_pid("relay") not in {None, old})

    def queued() -> bool:
        try:
            return len(ask(gateway.runtime / "relay" / "control.sock", "queue.list", limit=10)) == 1
        except Exception:
            return False

    until(queued)
    until(lambda: "they move" in gateway.told("queue", "suspended"))
    (row,) = ask(gateway.runtime / "relay" / "control.sock", "queue.list", limit=10)
    assert [recipient["attempts"] for recipient in row["recipients"]] == [0]
    assert "1 destinations are suspended" in gateway.told("status")
    assert "mx:mx.example" in gateway.told("queue", "resume", "mx.example")
    assert "they move" not in gateway.told("queue", "suspended")


def test_mail_put_down_while_nothing_runs_is_taken_when_it_does(gateway: Running) -> None:
    gateway.process.send_signal(signal.SIGINT)
    gateway.process.wait(SECONDS)
    letter = "To: root@far.example\nBcc: ops@far.example\nSubject: disk full\n\n/var\n.\nnot this\n"
    command = [*gateway.command("sendmail")[:-6], "-t", "-f", "cron@test.example"]
    environment = os.environ | {"EGRESSGUARD_STATE": str(gateway.folder / "state")}
    put = subprocess.run(command, input=letter, text=True, env=environment, cwd=ROOT, capture_output=True, check=False)
    assert put.returncode == 0, put.stderr

    gateway.again()

    def queued() -> list[dict[str, Any]]:
        return list(ask(gateway.runtime / "relay" / "control.sock", "queue.list", limit=10))

    until(queued)
    (row,) = queued()
    assert row["sender"] == "cron@test.example"
    assert sorted(one["address"] for one in row["recipients"]) == ["ops@far.example", "root@far.example"]
    until(lambda: not list((gateway.folder / "state" / "drop").glob("*.msg")))
    assert len(queued()) == 1


def test_roles_follow_a_supervisor_that_was_killed(gateway: Running) -> None:
    os.kill(gateway.process.pid, signal.SIGKILL)
    gateway.process.wait()

    until(lambda: not gateway.members())


def said(gateway: Running, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        gateway.command(*words), capture_output=True, text=True, cwd=ROOT, check=False, timeout=SECONDS
    )


def revision(gateway: Running) -> str:
    return str(ask(gateway.runtime / "gate" / "control.sock", "status")["revision"])


def test_good_rules_are_applied_and_bad_ones_leave_the_old_in_force(gateway: Running) -> None:
    first = revision(gateway)
    (gateway.rules / "site.yaml").write_text(SITE.replace("no-smtp", "renamed"))
    planned = said(gateway, "plan")
    assert planned.returncode == 0, planned.stderr
    assert planned.stdout.startswith("no changes\n"), planned.stdout  # another name, and nothing else
    assert "+\tchain rule_renamed {" in planned.stdout and revision(gateway) == first

    applied = said(gateway, "apply")

    assert applied.returncode == 0, applied.stderr
    second = revision(gateway)
    assert second != first and f"revision {second} is in force" in applied.stdout
    assert "renamed" in (gateway.runtime / "gate" / "ruleset.nft").read_text()
    (gateway.rules / "site.yaml").write_text(SITE.replace("port: 25", "port: nonsense"))
    for command in ("plan", "apply"):
        refused = said(gateway, command)
        assert refused.returncode == 1 and "site.yaml:" in refused.stderr, command
    gateway.process.send_signal(signal.SIGHUP)
    until(lambda: "rules not applied" in gateway.words())
    assert revision(gateway) == second

    back = said(gateway, "rollback")
    assert back.returncode == 0, back.stderr
    assert revision(gateway) == first
    until(lambda: said(gateway, "journal", "--json").stdout.count('"policy.') == 2)
    told = said(gateway, "journal")
    assert told.returncode == 0 and "policy.applied" in told.stdout and "by hand" in told.stdout, told.stderr
    assert said(gateway, "rollback").returncode == 5


def test_sighup_applies(gateway: Running) -> None:
    first = revision(gateway)
    (gateway.rules / "site.yaml").write_text(SITE.replace("no-smtp", "renamed"))

    gateway.process.send_signal(signal.SIGHUP)

    until(lambda: revision(gateway) != first)


def test_what_nobody_confirms_is_rolled_back_and_what_is_confirmed_stays(gateway: Running) -> None:
    first = revision(gateway)
    assert said(gateway, "confirm").returncode == 5
    (gateway.rules / "site.yaml").write_text(SITE.replace("no-smtp", "renamed"))
    applied = said(gateway, "apply", "--confirm-within", "1s")
    assert applied.returncode == 0 and "unless you say: egressguard confirm" in applied.stdout

    until(lambda: revision(gateway) == first)
    status = json.loads(said(gateway, "status", "--json").stdout)["keeper"]
    assert "not confirmed in time" in status["last_rollback"] and status["pending_seconds"] is None
    late = said(gateway, "confirm")
    assert late.returncode == 5 and "not confirmed in time" in late.stderr

    assert said(gateway, "apply", "--confirm-within", "60s").returncode == 0
    second = revision(gateway)
    assert second != first and said(gateway, "confirm").returncode == 0
    gateway.again()
    assert revision(gateway) == second


def test_a_start_comes_back_to_what_was_confirmed(gateway: Running) -> None:
    first = revision(gateway)
    (gateway.rules / "site.yaml").write_text(SITE.replace("no-smtp", "renamed"))
    assert said(gateway, "apply", "--confirm-within", "1h").returncode == 0

    gateway.again(signal.SIGKILL)

    assert revision(gateway) == first
    until(lambda: "the rules directory says something else" in gateway.words())
    late = said(gateway, "confirm")
    assert late.returncode == 5


def test_a_change_that_cuts_the_administrator_off_is_refused(gateway: Running) -> None:
    first = revision(gateway)
    apply = "  apply: {management: [{from: 127.0.0.1, to: 198.51.100.9, port: 25}]}\n"
    (gateway.rules / "site.yaml").write_text(SITE.replace("  metrics:", f"{apply}  metrics:"))

    refused = said(gateway, "apply")

    assert refused.returncode == 6 and refused.stderr.count("\n") == 1
    assert "127.0.0.1 -> 198.51.100.9 port 25 meets reject, by rule 'no-smtp'" in refused.stderr
    assert revision(gateway) == first


def test_a_red_expectation_refuses_an_apply_unless_forced(gateway: Running) -> None:
    (gateway.rules / "expect").mkdir()
    case = "{name: it may, given: {from: 192.0.2.7, to: 198.51.100.1}, expect: {action: redirect}}"
    (gateway.rules / "expect" / "a.yaml").write_text(f"flows: [{case}]\n")

    refused = said(gateway, "apply")

    assert (
        refused.returncode == 1 and "a.yaml:1:9: it may" in refused.stderr and "nothing was changed" in refused.stderr
    )
    assert said(gateway, "plan").returncode == 1
    assert said(gateway, "apply", "--force").returncode == 2
    forced = said(gateway, "apply", "--force", "--reason", "the test is wrong")
    assert forced.returncode == 0, forced.stderr
    until(lambda: '"policy.forced"' in said(gateway, "journal", "--json").stdout)
    rows = map(json.loads, said(gateway, "journal", "--json").stdout.splitlines())
    (row,) = [row for row in rows if row["kind"] == "policy.forced"]
    assert row["reason"] == "the test is wrong" and row["by"] and "it may" in row["red"][0]


def test_a_listener_that_does_not_greet_vetoes_a_change(gateway: Running) -> None:
    """The relay's listeners are bound at the start: one that the new rules add is not there yet."""
    first = revision(gateway)
    (gateway.runtime / "listening.json").write_text('{"lan": [["127.0.0.1", 1]]}')
    (gateway.rules / "site.yaml").write_text(SITE.replace("no-smtp", "renamed"))

    refused = said(gateway, "apply")

    assert refused.returncode == 1 and "listener lan (127.0.0.1 port 1) does not answer" in refused.stderr
    assert "back to what was in force before" in refused.stderr
    assert revision(gateway) == first


def test_a_commit_of_the_rules_is_applied_by_itself(gateway: Running) -> None:
    if shutil.which("git") is None:
        pytest.skip("needs git")
    watching = SITE.replace("  metrics:", "  apply: {watch_git_seconds: 1, probes: []}\n  metrics:")
    (gateway.rules / "site.yaml").write_text(watching)
    commit(gateway, "init", "-q")
    commit(gateway, "add", "-A")
    commit(gateway, "commit", "-qm", "first")
    assert said(gateway, "apply").returncode == 0
    first = revision(gateway)
    (gateway.rules / "site.yaml").write_text(watching.replace("no-smtp", "renamed"))
    commit(gateway, "commit", "-qam", "second")

    until(lambda: revision(gateway) != first)
    assert "rule_renamed" in (gateway.runtime / "gate" / "ruleset.nft").read_text()
    second = revision(gateway)
    (gateway.rules / "site.yaml").write_text(watching.replace("port: 25", "port: nonsense"))
    commit(gateway, "commit", "-qam", "third")
    until(lambda: "moved, not applied" in gateway.words())
    assert revision(gateway) == second


def commit(gateway: Running, *words: str) -> None:
    who = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", f"safe.directory={gateway.rules}"]
    subprocess.run(["git", *who, *words], cwd=gateway.rules, check=True, capture_output=True)


def test_status_and_metrics_say_where_the_rules_come_from(gateway: Running) -> None:
    said = subprocess.run(gateway.command("status", "--json"), capture_output=True, text=True, cwd=ROOT, check=False)
    policy = json.loads(said.stdout)["policy"]
    page = urllib.request.urlopen(f"http://127.0.0.1:{gateway.port('metrics')}/metrics", timeout=20).read().decode()

    assert (policy["commit"], policy["signature"], len(policy["revision"])) == ("", "none", 12)
    labels = f'commit="",modified="false",revision="{policy["revision"]}",signature="none"'
    assert f"egressguard_policy_info{{{labels}}} 1.0" in page


def test_unsigned_rules_are_refused_where_only_signed_ones_are_taken(gateway: Running) -> None:
    other = gateway.folder / "other"
    other.mkdir()
    os.chown(other, *([65534, -1] if os.geteuid() == 0 else [-1, -1]))
    command = [*gateway.command("run"), "--only-signed", "--high-ports", "--state", str(other), "--runtime", str(other)]

    refused = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=SECONDS, check=False)

    assert refused.returncode == 1
    assert "only signed rules are taken, and these are not under git; commit" in refused.stderr


def test_a_second_gateway_on_the_same_state_is_refused(gateway: Running) -> None:
    command = gateway.command("run", "--high-ports")

    second = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=SECONDS, check=False)

    assert second.returncode == 1
    assert "another gateway runs" in second.stderr
