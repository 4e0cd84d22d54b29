"""Thirty hosts with bad manners: what they cost mail that goes elsewhere.

    sudo .venv/bin/python -m benchmarks.bad_hosts [--quick]

Two gateways relay 4 KB messages over 20 connections to a sink of ours (aiosmtpd), in turn. One of them has mail for
thirty other hosts, too, which hang at every verb, cut, refuse and talk without end; the other one is its peer, and the
target is 0.9. The processor time of a message is the steadier figure where the machine has other work.
The last line is JSON; a ratio over 1 means that ours is better.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiosmtpd.controller import Controller

from benchmarks.queue import Sink, free_port, rate
from benchmarks.relay_usage import cpu_seconds
from tests.app.test_gateway import Running
from tests.lab.internet import ROOT
from tests.smtp.fake_mx import CUT, ENDLESS, HANG, FakeMx

HOSTS, EACH = 30, 20
MANNERS = [{verb: HANG} for verb in ("GREETING", "EHLO", "MAIL", "RCPT", "DATA", "CONTENT", "DOT")]
MANNERS += [{"GREETING": CUT}, {"MAIL": ENDLESS}, {"RCPT": "450 later"}, {"DOT": CUT}, {"EHLO": "x" * 100_000}]
MESSAGES, ROUNDS = 3000, 5
SECONDS = 60


def site(live_port: int, bad_ports: list[int]) -> str:
    hosts = {"live": live_port} | {f"bad{number}": port for number, port in enumerate(bad_ports)}
    rules: dict[str, Any] = {
        "site": {
            "zones": {"lan": {"networks": "127.0.0.0/8"}},
            "resolvers": "127.0.0.1:9",
            "relay": {"hostname": "gw.example", "listeners": {"lan": {"kind": "smtp", "port": 0}}},
            "metrics": {"port": 0},
            "smart_hosts": {name: {"host": "127.0.0.1", "port": port, "tls": "none"} for name, port in hosts.items()},
        },
        "mail": [{"name": "lan", "match": {"client": "lan"}, "action": "accept"}],
        "routes": [{"name": name, "match": {"recipient_domain": f"{name}.example"}, "via": name} for name in hosts],
    }
    return json.dumps(rules)  # JSON is YAML


@contextlib.contextmanager
def bad_hosts() -> Iterator[list[FakeMx]]:
    """In a thread of their own."""
    hosts, stack = [FakeMx(dict(MANNERS[n % len(MANNERS)])) for n in range(HOSTS)], contextlib.AsyncExitStack()
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def listen() -> None:
        for host in hosts:
            await stack.enter_async_context(host.listening())

    try:
        asyncio.run_coroutine_threadsafe(listen(), loop).result(SECONDS)
        yield hosts
        asyncio.run_coroutine_threadsafe(stack.aclose(), loop).result(SECONDS)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(SECONDS)


def mail_for(running: Running, hosts: list[FakeMx]) -> None:
    """All of the bad hosts are at it when this returns."""
    for number in range(HOSTS):
        words = [str(ROOT / "scripts" / "peer"), "postfix", "smtp-source", "-s", "5", "-m", str(EACH), "-l", "4096"]
        words += ["-f", "a@x.example", "-t", f"b@bad{number}.example", f"127.0.0.1:{running.port('lan')}"]
        subprocess.run(words, check=True)
    deadline = time.monotonic() + SECONDS
    while not all(host.connections for host in hosts):
        if time.monotonic() > deadline:
            raise RuntimeError("not every bad host was dialled")
        time.sleep(0.05)


@dataclass
class Measured:
    """A gateway, its rates, and the seconds of processor time that its processes took for them."""

    running: Running
    rates: list[float] = field(default_factory=list)
    seconds: float = 0

    def measure(self, sink: Sink, count: int) -> None:
        before = cpu_seconds(self.running.process.pid)
        self.rates.append(rate(self.running, sink, count))
        self.seconds += cpu_seconds(self.running.process.pid) - before

    def milliseconds_each(self, count: int) -> float:
        return 1000 * self.seconds / (count * len(self.rates))


def measured(folder: Path, sink: Sink, live_port: int, count: int) -> tuple[Measured, Measured]:
    """(the one beside bad hosts, the other)"""
    with bad_hosts() as hosts, contextlib.ExitStack() as stack:
        pair = []
        for part in ("beside", "alone"):
            (folder / part).mkdir()
            running = Running(folder / part, site(live_port, [host.port for host in hosts]))
            stack.callback(running.process.wait, 60)
            stack.callback(running.process.terminate)
            pair.append(Measured(running))
            rate(running, sink, count // 3)
        mail_for(pair[0].running, hosts)
        for _ in range(ROUNDS):
            for one in pair:
                one.measure(sink, count)
        return pair[0], pair[1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a third of the messages")
    count = MESSAGES // 3 if parser.parse_args().quick else MESSAGES
    if os.geteuid() != 0 or not (ROOT / ".peers" / "postfix" / ".unpacked").exists():
        print("cannot measure here: needs root, and Postfix's smtp-source: run scripts/peers", file=sys.stderr)
        return 1
    sink = Sink()
    controller = Controller(sink, hostname="127.0.0.1", port=free_port())
    controller.start()
    with tempfile.TemporaryDirectory(prefix="eg-bad-", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o755)
        beside, alone = measured(Path(name), sink, controller.port, count)
    controller.stop()
    for label, one in (("beside bad hosts", beside), ("alone", alone)):
        print(f"{label}: {', '.join(f'{each:.0f}' for each in one.rates)} messages/s", file=sys.stderr)
    ours, peer = statistics.median(beside.rates), statistics.median(alone.rates)
    ours_each, peer_each = beside.milliseconds_each(count), alone.milliseconds_each(count)
    cases = {
        "beside_bad_hosts": (ours, peer, ours / peer, "messages/s"),
        "beside_bad_hosts_processor": (ours_each, peer_each, peer_each / ours_each, "ms/message"),
    }
    results = {
        case: {"ours": round(ours, 3), "peer": round(peer, 3), "ratio": round(ratio, 3), "unit": unit}
        for case, (ours, peer, ratio, unit) in cases.items()
    }
    print(json.dumps({"benchmark": "bad_hosts", "results": results}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
