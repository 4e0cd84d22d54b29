"""The lab's network with a Gate of our own in it: real packets, real kernel, nothing outside the namespaces."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab.network import Network

ROOT = Path(__file__).parent.parent.parent
SECONDS = 60
RELAY_UID = 64999


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    if os.geteuid() != 0:
        pytest.skip("needs root: network namespaces are made")
    for program in ("ip", "nft", "setpriv", "conntrack"):
        if shutil.which(program) is None:
            pytest.skip(f"needs {program}")
    with Network() as made:
        yield made


class Program:
    """A Python program of ours in a namespace that speaks JSON lines."""

    def __init__(self, network: Network | None, host: str, *words: str, prefix: tuple[str, ...] = ()) -> None:
        """`network` None: on this machine, for what needs the loopback only."""
        command = [*prefix, sys.executable, *words]
        self.process = subprocess.Popen(
            command if network is None else network.command(host, *command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        self._lines: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def say(self, *words: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(words) + "\n")
        self.process.stdin.flush()

    def wait(self, kind: str, accept: Callable[[Any], bool] = lambda _fields: True) -> Any:
        """The fields of the next line of this kind that is accepted; other lines are passed over."""
        while True:
            try:
                line = self._lines.get(timeout=SECONDS)
            except queue.Empty:
                raise AssertionError(f"no {kind!r} within {SECONDS} s") from None
            assert line, f"the program ended while a {kind!r} was awaited"
            told, fields = json.loads(line)
            if told == kind and accept(fields):
                return fields

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)
        self._lines.put("")


def local_program(module: str, *words: str) -> Program:
    return Program(None, "", "-m", module, *words)


class GateRunner:
    """Starts gates in the gateway's namespace, one a test; leaves the namespace as it was before."""

    def __init__(self, network: Network, folder: Path) -> None:
        self._network = network
        self._folder = folder
        self._program: Program | None = None

    def start(
        self,
        policy: dict[str, Any],
        *,
        redirect_port: int | None = None,
        tarpit_port: int | None = None,
        capabilities: str = "",
    ) -> Program:
        """`capabilities` as setpriv(1) writes them: what is left to the gate; "" = root's own."""
        assert self._program is None
        sets = [f"--{which}={capabilities}" for which in ("bounding-set", "inh-caps") if capabilities]
        words = ("-m", "tests.firewall.run_gate")
        program = self._program = Program(self._network, "gateway", *words, prefix=("setpriv", *sets) if sets else ())
        program.say("start", policy, redirect_port, tarpit_port, RELAY_UID, str(self._folder / "plan.nft"))
        return program

    def end(self) -> None:
        if self._program is not None:
            self._program.end()
            self._program = None
        self._network.run("gateway", "nft", "flush", "ruleset")
        self._network.run("gateway", "conntrack", "--flush")


@pytest.fixture
def gate(network: Network, tmp_path: Path) -> Iterator[GateRunner]:
    runner = GateRunner(network, tmp_path)
    yield runner
    runner.end()
