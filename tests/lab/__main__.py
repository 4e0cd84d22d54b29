"""`make lab`: play every scenario, print what was tried, expected and seen; exit 1 if one row is wrong."""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import sys
import time
from dataclasses import asdict

from tests.lab.internet import ROOT
from tests.lab.network import missing_parts
from tests.lab.rows import Row
from tests.lab.scenarios import SCENARIOS, play
from tests.lab.world import Lab, lab


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.lab", description=__doc__)
    parser.add_argument("--only", action="append", choices=list(SCENARIOS), help="play only this scenario")
    parser.add_argument("--json", action="store_true", help="a JSON line per row")
    parser.add_argument("--keep", action="store_true", help="leave the lab standing after the last row, until Ctrl-C")
    options = parser.parse_args()
    if missing := missing_parts(ROOT):
        print(f"the lab cannot be built: {missing}", file=sys.stderr)
        return 1
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwinds, and so tears everything down
    started = time.monotonic()
    wrong = rows = 0
    with lab() as world:
        print(f"lab up after {time.monotonic() - started:.1f} s", file=sys.stderr)
        if not options.json:
            print(HEAD)
        for name in options.only or SCENARIOS:
            for row in play(world, name):
                rows += 1
                wrong += not row.ok
                print(json.dumps(asdict(row)) if options.json else line(row), flush=True)
        if wrong:
            print(world.gateway.log.read_text()[-6000:], file=sys.stderr)
        if options.keep:
            keep(world)
    print(f"{rows - wrong} rows as expected, {wrong} wrong, {time.monotonic() - started:.1f} s", file=sys.stderr)
    return 1 if wrong else 0


def keep(world: Lab) -> None:
    names = [world.network.ns(name) for name in ("gateway", "laptop", "printer", "bot", "guest", "internet")]
    print(f"namespaces: {' '.join(names)}\nfiles: {world.gateway.folder.parent}\nCtrl-C tears it down", file=sys.stderr)
    with contextlib.suppress(KeyboardInterrupt):
        signal.pause()


HEAD = f"{'':<5} {'SCENARIO':<14} {'TRIED':<58} {'EXPECTED':<26} SEEN"


def line(row: Row) -> str:
    mark = "ok   " if row.ok else "WRONG"
    seen = row.seen if len(row.seen) <= 60 or not row.ok else row.seen[:57] + "..."
    return f"{mark} {row.scenario:<14} {row.tried:<58} {row.expected:<26} {seen}"


if __name__ == "__main__":
    sys.exit(main())
