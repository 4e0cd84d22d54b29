"""The load of `benchmarks/relay.py`: smtp-source(1) to one relay, timed until the last 250 and until the last delivery.

Contract
    `send` counts nothing that is not whole: one message refused, lost or doubled is a RuntimeError.
    It returns with the relay's queue empty.
"""

from __future__ import annotations

import subprocess
import time
from dataclasses import dataclass

from benchmarks.relay_usage import cpu_seconds, family, memory_octets
from benchmarks.relay_world import LOOPBACK, Relay, postfix_program

CONNECTIONS = 20
SENDER, RECIPIENT = "load@client.example", "bob@sink.example"
POLL_SECONDS = 0.005
MEMORY_SECONDS = 0.25
LOAD_SECONDS = 120


@dataclass(frozen=True, slots=True)
class Load:
    """`reuse`: one connection for many messages; else one for each."""

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
    peak_octets: int
    sink_connections: int


def send(relay: Relay, load: Load) -> Measured:
    before, sessions, cpu = relay.sink.count(), relay.sink.count("sess"), cpu_seconds(relay.pid)
    started = time.monotonic()
    accepted, peak = _offer(relay, load, started)
    ended = relay.delivered(before + load.count)
    relay.rest(before + load.count)
    return Measured(
        accepted=load.count / accepted,
        delivered=load.count / (ended - started),
        cpu_seconds_per_1000=(cpu_seconds(relay.pid) - cpu) * 1000 / load.count,
        peak_octets=max(peak, memory_octets(family(relay.pid))),
        sink_connections=relay.sink.count("sess") - sessions,
    )


def _offer(relay: Relay, load: Load, started: float) -> tuple[float, int]:
    """Seconds until the last 250, and the most memory seen until then."""
    words = ["-s", str(load.connections), "-m", str(load.count), "-l", str(load.size_octets)]
    words += ["-r", str(load.recipients), "-f", SENDER, "-t", RECIPIENT, "-M", "client.example"]
    words += [*(["-d"] if load.reuse else []), f"{LOOPBACK}:{relay.port}"]
    peak, look = 0, started + MEMORY_SECONDS
    with subprocess.Popen(postfix_program("smtp-source", *words), stderr=subprocess.PIPE, text=True) as source:
        try:
            while source.poll() is None:
                time.sleep(POLL_SECONDS)
                now = time.monotonic()
                if now > started + LOAD_SECONDS:
                    raise RuntimeError(f"{relay.folder.name} took no more mail:\n{relay.words()}")
                if now > look:
                    peak = max(peak, memory_octets(family(relay.pid)))
                    look = time.monotonic() + MEMORY_SECONDS
            took = time.monotonic() - started
        finally:
            source.kill()
        if source.returncode or (source.stderr and (said := source.stderr.read())):
            raise RuntimeError(f"smtp-source to {relay.folder.name}: {said[-500:]}\n{relay.words()}")
    return took, peak
