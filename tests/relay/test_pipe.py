"""Real programs at the end of a route: what they get, how they end, and what they cannot do to us."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import pwd
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import uvloop

from egressguard.mail.outcome import Outcome, Result
from egressguard.policy.model import Policy
from egressguard.relay.attempt import Means, attempt, ways_of
from egressguard.store.content import Content
from tests.relay.setting import Table, claim_of, policy_of

B, C = "b@x.example", "c@x.example"
LETTER = b"Subject: hello\r\n\r\nFrom here\r\n.\r\nend\r\n"
USER = "nobody" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name

TELL = """
import json, os, sys
said = {"argv": sys.argv[1:], "cwd": os.getcwd(), "environ": sorted(os.environ), "uid": os.geteuid(),
        "leader": os.getsid(0) == os.getpid(), "files": sorted(os.listdir("/proc/self/fd"))[:-1],
        "input": sys.stdin.buffer.read().decode("latin-1")}
print(json.dumps(said))
sys.exit(75)
"""


def policy_with(*command: str, via: str = "pipe:p:next", **more: Any) -> Policy:
    pipe = {"command": list(command), "user": USER, "timeout_seconds": 20} | more
    return policy_of(pipes={"p": pipe}, routes=[{"name": "all", "via": via}])


def means() -> Means:
    return Means(Table(), "gw.example.org", Path("/nonexistent"))


def run(walk: Callable[[], Awaitable[Any]], loop: Callable[[], asyncio.AbstractEventLoop] | None = None) -> Any:
    with asyncio.Runner(loop_factory=loop) as runner:
        return runner.run(walk())  # type: ignore[arg-type]


def handed(
    policy: Policy, *paths: str, content: Content | None = None, loop: Any = None, **claim: Any
) -> Mapping[str, Outcome]:
    claimed = dataclasses.replace(claim_of(*(paths or (B,))), **claim)
    (way,) = ways_of(policy, claimed)

    async def walk() -> Mapping[str, Outcome]:
        return (await attempt(way, claimed, content or Content.of(LETTER), policy, means())).outcomes

    found: Mapping[str, Outcome] = run(walk, loop)
    return found


def told(policy: Policy, *paths: str, **claim: Any) -> dict[str, Any]:
    (outcome,) = set(handed(policy, *paths, **claim).values())
    assert outcome.result is Result.TRANSIENT, outcome
    return dict(json.loads(outcome.text.partition(": ")[2]))


@pytest.mark.parametrize("loop", [None, uvloop.new_event_loop])
def test_what_a_program_is_given(loop: Any) -> None:
    policy = policy_with(sys.executable, "-c", TELL, "{sender}", "{nexthop}!rmail", "({recipient})", max_recipients=5)
    said = told(policy, B, C, loop=loop)
    assert said["argv"] == ["a@example.org", "next!rmail", f"({B})", f"({C})"]
    assert said["input"] == LETTER.decode().replace("\r\n", "\n")
    assert (said["cwd"], said["environ"], said["leader"]) == ("/", ["HOME", "LC_ALL", "PATH"], True)
    assert said["files"] == ["0", "1", "2"]
    assert said["uid"] == pwd.getpwnam(USER).pw_uid


def test_the_line_in_front_and_the_lines_as_they_came() -> None:
    said = told(policy_with(sys.executable, "-c", TELL, from_line=True, line_ends="crlf"), reverse_path="")
    first, _, rest = said["input"].partition("\r\n")
    assert first.startswith("From <> ") and rest == LETTER.decode()


def test_each_recipient_has_a_run_of_its_own_unless_the_rules_say_more() -> None:
    script = "case $1 in b@*) exit 67;; *) cat >/dev/null;; esac"
    outcomes = handed(policy_with("/bin/sh", "-c", script, "sh", "{recipient}"), B, C)
    assert [outcomes[path].result for path in (B, C)] == [Result.PERMANENT, Result.DELIVERED]


@pytest.mark.parametrize("loop", [None, uvloop.new_event_loop])
def test_a_large_message_from_a_file(tmp_path: Path, loop: Any) -> None:
    octets = LETTER + b"0123456789abcdef\r\n" * 100_000
    file = tmp_path / "content"
    file.write_bytes(octets)
    content = Content(file=file, file_octets=len(octets))
    script = f"test $(wc -c) = {len(octets.replace(bytes([13, 10]), bytes([10])))} || exit 70"
    assert handed(policy_with("/bin/sh", "-c", script), content=content, loop=loop)[B].result is Result.DELIVERED


@pytest.mark.parametrize("loop", [None, uvloop.new_event_loop])
def test_a_program_that_ends_before_it_has_read_has_not_taken_it(loop: Any) -> None:
    large = Content.of(b"x" * 5_000_000)
    outcome = handed(policy_with("/bin/true"), content=large, loop=loop)[B]
    assert (outcome.result, "before it had read" in outcome.text) == (Result.TRANSIENT, True)
    assert handed(policy_with("/bin/sh", "-c", "exit 67"), content=large, loop=loop)[B].status == "5.1.1"


@pytest.mark.parametrize("loop", [None, uvloop.new_event_loop])
def test_what_overstays_is_killed_with_its_children(tmp_path: Path, loop: Any) -> None:
    tmp_path.chmod(0o777)
    for parent in list(tmp_path.parents)[:3]:
        parent.chmod(parent.stat().st_mode | 0o011)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo, 0o666)
    fifo.chmod(0o666)
    ear = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)  # at its end once nobody holds the other side
    script = f"exec 9>{fifo}; echo here >&9; sleep 600 & sleep 600"
    outcome = handed(policy_with("/bin/sh", "-c", script, timeout_seconds=1), loop=loop)[B]
    assert (outcome.result, "was killed" in outcome.text) == (Result.TRANSIENT, True)
    os.set_blocking(ear, True)
    assert os.read(ear, 100) == b"here\n"
    assert os.read(ear, 100) == b""
    os.close(ear)


def test_a_child_that_stays_behind_holds_nobody_up() -> None:
    script = "cat >/dev/null; sleep 20 & echo $! done; exit 75"
    outcome = handed(policy_with("/bin/sh", "-c", script))[B]
    assert outcome.text.endswith("done")
    child = int(outcome.text.split()[1])
    os.kill(child, 15)


def test_words_without_end_are_dropped() -> None:
    script = "cat >/dev/null; yes 5.1.1 nobody here | head -c 3000000; exit 67"
    outcome = handed(policy_with("/bin/sh", "-c", script))[B]
    assert (outcome.result, outcome.status, len(outcome.text) < 600) == (Result.PERMANENT, "5.1.1", True)


@pytest.mark.parametrize(
    ("command", "more", "words"),
    [
        (["/nonexistent/program"], {"user": pwd.getpwuid(os.geteuid()).pw_name}, "cannot be run"),
        (["/etc/passwd"], {"user": pwd.getpwuid(os.geteuid()).pw_name}, "cannot be run"),
        (["/bin/true"], {"user": "no-such-user"}, "no user no-such-user"),
        (["/bin/sh", "-c", "kill -9 $$"], {}, "ended by signal 9"),
        (["/bin/sh", "-c", "exit 64"], {}, "usage"),
    ],
)
def test_trouble_of_our_own_never_bounces(command: list[str], more: dict[str, str], words: str) -> None:
    outcome = handed(policy_with(*command, **more))[B]
    assert (outcome.result, words in outcome.text) == (Result.TRANSIENT, True), outcome


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: nobody else could run a program as root")
def test_root_runs_no_program_as_itself() -> None:
    outcome = handed(policy_with("/bin/true", user=None))[B]
    assert (outcome.result, "needs a `user`" in outcome.text) == (Result.TRANSIENT, True)


def test_a_pipe_that_left_the_rules_waits() -> None:
    (way,) = ways_of(policy_with("/bin/true"), claim_of(B))
    sent = asyncio.run(attempt(way, claim_of(B), Content.of(LETTER), policy_of(), means()))
    assert (sent.outcomes[B].result, sent.outcomes[B].status) == (Result.TRANSIENT, "4.3.5")


@pytest.mark.parametrize(
    ("claim", "status"),
    [({"requiretls": True}, "5.7.30"), ({"binary": True}, "5.6.3"), ({"reverse_path": "-x@y.example"}, "5.1.7")],
)
def test_what_no_program_can_take(claim: dict[str, Any], status: str) -> None:
    outcome = handed(policy_with("/bin/false"), **claim)[B]
    assert (outcome.result, outcome.status) == (Result.PERMANENT, status)


def test_an_address_with_a_meaning_is_refused_and_the_others_go() -> None:
    policy = policy_with("/bin/sh", "-c", "cat >/dev/null", "sh", "{recipient}")
    outcomes = handed(policy, "-rf@x.example", C)
    assert [outcome.result for outcome in outcomes.values()] == [Result.PERMANENT, Result.DELIVERED]


def test_no_more_run_at_once_than_the_rules_say(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    for parent in list(tmp_path.parents)[:3]:
        parent.chmod(parent.stat().st_mode | 0o011)
    script = 'cat >/dev/null; mkdir "$1/lock" || exit 67; sleep 0.05; rmdir "$1/lock"'
    policy = policy_with("/bin/sh", "-c", script, "sh", str(tmp_path), max_processes=1)

    async def walk() -> list[Result]:
        shared, claim = means(), claim_of(B)
        (way,) = ways_of(policy, claim)
        letter = Content.of(LETTER)
        sent = await asyncio.gather(*(attempt(way, claim, letter, policy, shared) for _ in range(5)))
        return [one.outcomes[B].result for one in sent]

    assert run(walk) == [Result.DELIVERED] * 5
