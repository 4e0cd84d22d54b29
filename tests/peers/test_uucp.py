"""Mail by UUCP between two nodes: our pipe runs uux, uucico calls the other node, whose rmail hands to our sendmail."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from egressguard.mail.outcome import Outcome, Result
from egressguard.relay.attempt import Means, attempt, ways_of
from egressguard.store.content import Content
from egressguard.store.drop import Dropped, read, waiting
from tests.relay.setting import Table, claim_of, policy_of

pytestmark = pytest.mark.peers

ROOT = Path(__file__).parent.parent.parent
UUCP = ROOT / ".peers" / "uucp" / "usr"
PROGRAMS = ("bin/uux", "sbin/rmail", "sbin/uuxqt", "lib/uucp/uucico")
UNIX_USER = "nobody"
LETTER = b"From: anna@example.org\r\nSubject: by UUCP\r\n\r\n.dot\r\nFrom here on\r\n\r\nend\r\n"


@dataclass(frozen=True)
class Nodes:
    """Two nodes with a spool each; "nodea" knows how to call "nodeb", by a pipe."""

    directory: Path

    def config(self, node: str) -> Path:
        return self.directory / node / "config"

    def handed(self, *paths: str, nexthop: str = "nodeb", sender: str = "anna@example.org") -> Mapping[str, Outcome]:
        """By node A's relay."""
        command = [str(self.directory / "bin/uux"), "-I", str(self.config("nodea")), "-r", "-z", "-a{sender}", "-"]
        pipe = {"command": [*command, "{nexthop}!rmail", "({recipient})"], "user": UNIX_USER, "from_line": True}
        routes = [{"name": "by-uucp", "via": f"pipe:uucp:{nexthop}"}]
        policy = policy_of(pipes={"uucp": pipe | {"max_recipients": 10}}, routes=routes)
        claim = claim_of(*paths, reverse_path=sender)
        (way,) = ways_of(policy, claim)
        means = Means(Table(), "gw.example.org", Path("/nonexistent"))
        return asyncio.run(attempt(way, claim, Content.of(LETTER), policy, means)).outcomes

    def call(self) -> None:
        """Node A calls node B, and B executes what came. rmail knows /usr/sbin/sendmail only: that is ours there."""
        self._run(f"{self.directory}/bin/uucico -I {self.config('nodea')} -q -s nodeb")
        self._run(f"{self.directory}/bin/uuxqt -I {self.config('nodeb')}")

    def _run(self, command: str) -> None:
        as_user = f"setpriv --reuid {UNIX_USER} --regid nogroup --clear-groups -- {command}"
        script = f"mount --make-rprivate / && mount --bind {self.directory}/sbin /usr/sbin && exec {as_user}"
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-ec", script], capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr + self.log()

    def log(self) -> str:
        return "".join(path.read_text() for path in self.directory.glob("node?/Log"))

    def taken(self) -> list[Dropped]:
        """What node B's sendmail has put down."""
        drop = self.directory / "state" / "drop"
        return [read(drop, name, 100_000) for name in waiting(drop)]


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    if os.geteuid() != 0 or not all((UUCP / program).exists() for program in PROGRAMS):
        pytest.skip("needs root, and Debian's uucp and rmail: run scripts/peers")
    directory = Path(tempfile.mkdtemp(prefix="eg-"))
    try:
        for name in ("nodea/spool", "nodea/pub", "nodeb/spool", "nodeb/pub", "state/drop", "sbin", "bin"):
            (directory / name).mkdir(parents=True)
        for program in PROGRAMS:  # copies: the package's own are setuid, and uucico is not for everybody
            shutil.copy(UUCP / program, directory / "bin")
            (directory / "bin" / Path(program).name).chmod(0o755)
        _write_node(directory / "nodea", "nodea", 'system nodeb\nport nodeb\ntime any\nchat ""\nprotocol i\n')
        _write_node(
            directory / "nodeb", "nodeb", f"system nodea\ncommands rmail\ncommand-path {directory}/bin\nprotocol i\n"
        )
        answer = directory / "answer"
        answer.write_text(f"#!/bin/sh\nexec {directory}/bin/uucico -I {directory}/nodeb/config -q\n")
        (directory / "nodea" / "port").write_text(f"port nodeb\ntype pipe\ncommand {answer}\n")
        sendmail = directory / "sbin" / "sendmail"
        program = Path(sys.executable).with_name("egressguard")
        sendmail.write_text(f'#!/bin/sh\nEGRESSGUARD_STATE={directory}/state exec {program} sendmail "$@"\n')
        for script in (answer, sendmail):
            script.chmod(0o755)
        for path in (directory, *directory.rglob("*")):
            shutil.chown(path, UNIX_USER, "nogroup")
        yield Nodes(directory)
    finally:
        shutil.rmtree(directory)


def _write_node(directory: Path, name: str, system: str) -> None:
    files = {"logfile": "Log", "statfile": "Stats", "debugfile": "Debug", "sysfile": "sys", "portfile": "port"}
    files |= {"dialfile": "dial", "callfile": "call", "passwdfile": "passwd", "spool": "spool", "pubdir": "pub"}
    lines = [f"nodename {name}", f"lockdir {directory}"]
    lines += [f"{key} {directory}/{file}" for key, file in files.items()]
    (directory / "config").write_text("\n".join(lines) + "\n")
    (directory / "sys").write_text(system)
    for file in ("port", "dial", "call", "passwd"):
        (directory / file).touch()


def test_a_message_goes_from_node_to_node(nodes: Nodes) -> None:
    outcomes = nodes.handed("bert@far.example", "cleo@far.example")
    assert {outcome.result for outcome in outcomes.values()} == {Result.DELIVERED}, outcomes
    assert nodes.taken() == []  # it waits in node A's spool
    nodes.call()
    (dropped,) = nodes.taken()
    assert (dropped.sender, set(dropped.recipients)) == ("anna@example.org", {"bert@far.example", "cleo@far.example"})
    assert dropped.content.endswith(LETTER), dropped.content


def test_a_bounce_stays_a_bounce(nodes: Nodes) -> None:
    assert nodes.handed("bert@far.example", sender="")["bert@far.example"].result is Result.DELIVERED
    nodes.call()
    assert [dropped.sender for dropped in nodes.taken()] == [""]


def test_a_node_that_nobody_knows_is_refused_in_the_words_of_uux(nodes: Nodes) -> None:
    outcome = nodes.handed("bert@far.example", nexthop="nowhere")["bert@far.example"]
    assert (outcome.result, outcome.status) == (Result.PERMANENT, "5.3.0")
    assert "nowhere: System not found" in outcome.text
