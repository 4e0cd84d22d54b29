"""Mail from the world into local mailboxes: this gateway beside Debian's Postfix, same client, same run.

    sudo .venv/bin/python benchmarks/inbound.py [--quick]

Both stand in the lab's network namespaces (scripts/peers unpacks Postfix). smtp-source sends N messages of 4 KB over
ten connections to each in turn, twice: `accept_*` is messages a second until the last 250, `e2e_*` until the last
message lies in its Maildir. Both are durable; ours also scans each message in another process, Postfix scans nothing.
The last line is JSON; a ratio over 1 means that ours is better.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.lab.internet import ROOT
from tests.lab.network import MX_4, missing_parts
from tests.lab.world import Lab, lab

CONNECTIONS = 10
SIZE_OCTETS = 4096
DELIVERY_SECONDS = 120
ROUNDS = 2


def messages_a_second(
    world: Lab, target: str, recipient: str, delivered: Callable[[], int], count: int, *, reuse: bool
) -> tuple[float, float]:
    """(accepted a second, delivered a second) of `count` messages to `recipient` at `target`."""
    before = delivered()
    words = ["smtp-source", "-s", str(CONNECTIONS), "-m", str(count), "-l", str(SIZE_OCTETS)]
    words += ["-f", "load@elsewhere.example", "-t", recipient, *(["-d"] if reuse else []), f"{target}:25"]
    started = time.monotonic()
    done = world.network.run("internet", str(ROOT / "scripts" / "peer"), "postfix", *words, timeout=DELIVERY_SECONDS)
    accepted = time.monotonic() - started
    if done.returncode:
        raise RuntimeError(f"smtp-source to {target}: {done.stderr.strip()[-300:]}")
    while delivered() < before + count:
        if time.monotonic() - started > DELIVERY_SECONDS:
            raise RuntimeError(f"{target} delivered {delivered() - before} of {count}")
        time.sleep(0.02)
    return count / accepted, count / (time.monotonic() - started)


def files(folder: Path) -> Callable[[], int]:
    return lambda: sum(1 for _ in folder.glob("*"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer messages, one round")
    options = parser.parse_args()
    if missing := missing_parts(ROOT):
        print(f"cannot measure here: {missing}", file=sys.stderr)
        return 1
    count, rounds = (200, 1) if options.quick else (1500, ROUNDS)
    best: dict[str, dict[str, float]] = {}
    with lab() as world:
        ours = files(world.gateway.state / "mailboxes" / "anna" / "new")
        peer = files(world.internet.maildir("mx") / "new")
        for _ in range(rounds):  # in turn, so that a slow moment of the machine hits both
            for name, reuse in (("new", False), ("reuse", True)):
                for side, target, recipient, seen in (
                    ("ours", "198.51.100.2", "anna@site.example", ours),
                    ("peer", MX_4, "bob@mx.example", peer),
                ):
                    accepted, delivered = messages_a_second(world, target, recipient, seen, count, reuse=reuse)
                    for case, value in ((f"accept_4k_{name}", accepted), (f"e2e_4k_{name}", delivered)):
                        sides = best.setdefault(case, {})
                        sides[side] = max(sides.get(side, 0.0), value)
                        print(f"{case:<16} {side}: {value:8.0f} messages/s", file=sys.stderr)
    results = {
        case: {
            "ours": round(sides["ours"], 1),
            "peer": round(sides["peer"], 1),
            "ratio": round(sides["ours"] / sides["peer"], 3),
            "unit": "messages/s",
        }
        for case, sides in best.items()
    }
    print(json.dumps({"benchmark": "inbound", "results": results}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
