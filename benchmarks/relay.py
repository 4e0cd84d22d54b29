"""This gateway as a relay beside Debian's Postfix: the same load through both into smtp-sink, in one run.

sudo .venv/bin/python -m benchmarks.relay [--quick] [--only CASE[,CASE]]
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
from pathlib import Path

from benchmarks.relay_load import Load, Measured, send
from benchmarks.relay_world import Gateway, Postfix, Relay, enter
from tests.lab.internet import ROOT

LOADS = {
    "4k_reuse": Load(4000),
    "4k_new": Load(3000, reuse=False),
    "200k": Load(600, size_octets=200 * 1024),
}


def tell(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


def measure(folder: Path, quick: bool) -> None:
    relays: dict[str, Relay] = {}
    try:
        relays["ours"] = Gateway(folder / "ours", 2525, 10025, scanned=False)
        relays["peer"] = Postfix(folder / "peer", 2526, 10026)
        for relay in relays.values():
            relay.start()
        for relay in relays.values():
            send(relay, Load(200))
        results = {}
        for name, load in LOADS.items():
            found: dict[str, list[Measured]] = {"ours": [], "peer": []}
            for _ in range(1 if quick else 2):
                for side, relay in relays.items():
                    measured = send(relay, load)
                    found[side].append(measured)
                    tell(f"{name:<10} {side}: {measured}")
            for kind in ("accepted", "delivered"):
                ours, peer = (max(getattr(one, kind) for one in found[side]) for side in ("ours", "peer"))
                row = {"ours": ours, "peer": peer, "ratio": round(ours / peer, 3), "unit": "messages/s"}
                results[f"{'accept' if kind == 'accepted' else 'e2e'}_{name}"] = row
        print(json.dumps({"benchmark": "relay", "results": results}))
    finally:
        for relay in relays.values():
            relay.stop()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer messages, one round")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    if options.inside:
        measure(options.inside, options.quick)
        return 0
    with tempfile.TemporaryDirectory(prefix="eg-relay-", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o755)
        return enter(Path(name), sys.executable, "-m", "benchmarks.relay", "--inside", name, *sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
