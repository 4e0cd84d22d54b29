"""The load of `benchmarks/relay.py`: smtp-source(1) to one relay, timed until the last 250 and until the last delivery.

Contract
    `send` counts nothing that is not whole: one message refused, lost or doubled is a RuntimeError.
    It returns with the relay's queue empty.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.relay_usage import cpu_seconds, family, memory_octets
from benchmarks.relay_world import LOOPBACK, POLL_SECONDS, Relay, postfix_program

CONNECTIONS = 20
CLIENT, SENDER, RECIPIENT = "client.example", "load@client.example", "bob@sink.example"
MEMORY_SECONDS = 0.25
LOAD_SECONDS = 120


@dataclass(frozen=True, slots=True)
class Load:
    """`reuse`: each connection carries many messages; else each message opens one."""

    count: int
    size_octets: int = 4096
    reuse: bool = True
    recipients: int = 1
    connections: int = CONNECTIONS


@dataclass(frozen=True, slots=True)
class Measured:
    """Messages a second until the last 250 and until the sink had the last; what that cost the relay."""

    accepted: float
    delivered: float
    cpu_seconds_per_1000: float
    sink_connections: int


class Memory:
    """The most memory that a relay's processes had, as far as `look` saw it.

    Looking walks through all pages of all of them: it takes a large program's processor for 20 ms each time, so what
    is timed is not looked at."""

    def __init__(self, relay: Relay) -> None:
        self._pid = relay.pid
        self._next = 0.0
        self.peak_octets = 0

    def look(self) -> None:
        if time.monotonic() >= self._next:
            self.peak_octets = max(self.peak_octets, memory_octets(family(self._pid)))
            self._next = time.monotonic() + MEMORY_SECONDS


def send(relay: Relay, load: Load, meanwhile: Callable[[], None] = lambda: None) -> Measured:
    """`meanwhile` is called every few milliseconds."""
    before, sessions, cpu = relay.sink.count(), relay.sink.count("sess"), cpu_seconds(relay.pid)
    started = time.monotonic()
    accepted = _offer(relay, load, meanwhile)
    delivered = relay.delivered(before + load.count, meanwhile) - started
    relay.rest(before + load.count)
    return Measured(
        accepted=load.count / accepted,
        delivered=load.count / delivered,
        cpu_seconds_per_1000=(cpu_seconds(relay.pid) - cpu) * 1000 / load.count,
        sink_connections=relay.sink.count("sess") - sessions,
    )


def peak_under(relay: Relay, load: Load) -> int:
    """The most memory that its processes had under this load, in octets."""
    memory = Memory(relay)
    send(relay, load, memory.look)
    return memory.peak_octets


def _offer(relay: Relay, load: Load, meanwhile: Callable[[], None]) -> float:
    """Seconds until smtp-source ended, which it does with the last 250."""
    words = ["-s", str(load.connections), "-m", str(load.count), "-l", str(load.size_octets)]
    words += ["-r", str(load.recipients), "-f", SENDER, "-t", RECIPIENT, "-M", CLIENT]
    words += [*(["-d"] if load.reuse else []), f"{LOOPBACK}:{relay.port}"]
    started = time.monotonic()
    with subprocess.Popen(postfix_program("smtp-source", *words), stderr=subprocess.PIPE, text=True) as source:
        try:
            while source.poll() is None:
                if time.monotonic() > started + LOAD_SECONDS:
                    raise RuntimeError(f"{relay.name} took no more mail:\n{relay.words()}")
                meanwhile()
                time.sleep(POLL_SECONDS)
            took = time.monotonic() - started
        finally:
            source.kill()
        said = source.stderr.read() if source.stderr else ""
        if source.returncode or said:
            raise RuntimeError(f"smtp-source to {relay.name}: {said[-500:]}\n{relay.words()}")
    return took
