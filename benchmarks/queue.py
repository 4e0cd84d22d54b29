"""A long queue to a dead destination: what it costs at start-up, in memory, and for mail that goes elsewhere.

    sudo .venv/bin/python -m benchmarks.queue [--quick]

A million messages (quick: 50,000) of 1 KB wait for a smart host that refuses connections, half of them due. The gateway
starts on them, as an ordinary user, and relays 4 KB messages over 20 connections to a sink of ours (aiosmtpd); then the
same gateway does so with an empty queue. The peers of the first two cases are targets (5 s, 300 MB), that of the third
is the empty queue. The start-up is that of `egressguard run`, all roles, until it says that it is ready; its program is
compiled before, as scripts/run does it.
The last line is JSON; a ratio over 1 means that ours is better.
"""

from __future__ import annotations

import argparse
import compileall
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from aiosmtpd.controller import Controller

from benchmarks.relay_usage import memory_octets
from egressguard.store.queue_id import new_queue_id
from egressguard.store.schema import open_database
from tests.app.test_gateway import Running
from tests.lab.internet import ROOT

MB = 1_000_000
BODY = b"Subject: x\r\n\r\n" + b"y" * 1000 + b"\r\n"
START_SECONDS, MEMORY_MB = 5, 300
MESSAGES, ROUNDS = 1500, 3
SETTLE_SECONDS = 10

_MESSAGE = (
    "INSERT INTO message (number, id, reverse_path, smtputf8, body_8bit, binary, requiretls, size_octets, received_at,"
    " client, listener, rule, policy_revision, tags, is_ascii)"
    " VALUES (?, ?, 'a@b.example', 0, 0, 0, 0, ?, ?, '', '', '', '', '', 1)"
)


class Sink:
    """Takes everything and counts."""

    def __init__(self) -> None:
        self.taken = 0

    async def handle_DATA(self, *_: Any) -> str:
        self.taken += 1
        return "250 OK"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        return int(unused.getsockname()[1])


def site(live_port: int, dead_port: int) -> str:
    rules = {
        "site": {
            "zones": {"lan": {"networks": "127.0.0.0/8"}},
            "resolvers": "127.0.0.1:9",
            "relay": {"hostname": "gw.example", "listeners": {"lan": {"kind": "smtp", "port": 0}}},
            "metrics": {"port": 0},
            "smart_hosts": {
                "live": {"host": "127.0.0.1", "port": live_port, "tls": "none"},
                "dead": {"host": "127.0.0.1", "port": dead_port, "tls": "none"},
            },
        },
        "mail": [{"name": "lan", "match": {"client": "lan"}, "action": "accept"}],
        "routes": [
            {"name": "dead", "match": {"recipient_domain": "dead.example"}, "via": "dead"},
            {"name": "all", "via": "live"},
        ],
    }
    return json.dumps(rules)  # JSON is YAML


def fill(spool: Path, count: int) -> None:
    """As if they had waited for an hour; every second one is due."""
    spool.mkdir(parents=True)
    db, now = open_database(spool / "spool.sqlite"), time.time()
    db.execute("PRAGMA synchronous = OFF")
    db.execute("BEGIN")
    for number in range(1, count + 1):
        queue_id = new_queue_id(now - 3600, number)
        due = now - 10 if number % 2 else now + 60 + 3600 * (number % 24) / 24
        db.execute(_MESSAGE, (number, queue_id, len(BODY), now - 3600))
        db.execute("INSERT INTO body VALUES (?, ?)", (number, BODY))
        path = f"u{number}@dead.example"
        query = "INSERT INTO recipient VALUES (?, ?, 'dead', 'queued', 3, ?, '', '', '', NULL, NULL)"
        db.execute(query, (queue_id, path, due))
    db.execute("COMMIT")
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()


def rate(running: Running, sink: Sink, count: int) -> float:
    """Messages a second from the first word to the last arrival."""
    words = [str(ROOT / "scripts" / "peer"), "postfix", "smtp-source", "-s", "20", "-d", "-m", str(count), "-l", "4096"]
    words += ["-f", "a@x.example", "-t", "b@live.example", f"127.0.0.1:{running.port('lan')}"]
    before, started = sink.taken, time.monotonic()
    subprocess.run(words, check=True)
    while sink.taken < before + count:
        if time.monotonic() - started > 120:
            raise RuntimeError(f"{sink.taken - before} of {count} arrived")
        time.sleep(0.01)
    return count / (time.monotonic() - started)


def measured(folder: Path, rules: str, sink: Sink, label: str) -> tuple[float, float, float]:
    """(seconds until ready, MB of relay and smtpd, messages a second)"""
    started = time.monotonic()
    running = Running(folder, rules)
    try:
        seconds = time.monotonic() - started
        rate(running, sink, MESSAGES // 3)
        rates = [rate(running, sink, MESSAGES) for _ in range(ROUNDS)]
        time.sleep(SETTLE_SECONDS)
        pids = [pid for role in ("relay", "smtpd") if (pid := running.role_pid(role)) is not None]
        megabytes = memory_octets(pids) / MB
    finally:
        running.process.terminate()
        running.process.wait(60)
    median = statistics.median(rates)
    print(f"{label}: ready after {seconds:.1f} s, {megabytes:.0f} MB, {median:.0f} messages/s", file=sys.stderr)
    return seconds, megabytes, median


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fifty thousand messages instead of a million")
    options = parser.parse_args()
    if os.geteuid() != 0 or not (ROOT / ".peers" / "postfix" / ".unpacked").exists():
        print("cannot measure here: needs root, and Postfix's smtp-source: run scripts/peers", file=sys.stderr)
        return 1
    compileall.compile_dir(ROOT / "egressguard", quiet=1)
    sink = Sink()
    live_port = free_port()
    controller = Controller(sink, hostname="127.0.0.1", port=live_port)
    controller.start()
    with tempfile.TemporaryDirectory(prefix="eg-queue-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)
        for part in ("long", "empty"):
            (folder / part).mkdir()
        rules = site(live_port, free_port())
        fill(folder / "long" / "state" / "spool", 50_000 if options.quick else 1_000_000)
        subprocess.run(["chown", "-R", "65534", str(folder / "long")], check=True)
        started, memory, slow = measured(folder / "long", rules, sink, "long queue")
        shutil.rmtree(folder / "long")
        _, _, fast = measured(folder / "empty", rules, sink, "empty queue")
    controller.stop()
    suffix = "50k" if options.quick else "1m"
    cases = {
        f"startup_{suffix}": (started, START_SECONDS, START_SECONDS / started, "s"),
        f"memory_{suffix}": (memory, MEMORY_MB, MEMORY_MB / memory, "MB"),
        f"throughput_{suffix}": (slow, fast, slow / fast, "messages/s"),
    }
    results = {
        case: {"ours": round(ours, 2), "peer": round(peer, 2), "ratio": round(ratio, 3), "unit": unit}
        for case, (ours, peer, ratio, unit) in cases.items()
    }
    print(json.dumps({"benchmark": "queue", "results": results}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
