"""This gateway as a relay beside Debian's Postfix: the same load through both into smtp-sink, in one run.

    sudo .venv/bin/python -m benchmarks.relay [--quick] [--only CASE[,CASE]]

Both take mail on loopback, in namespaces of their own, and send it to an smtp-sink each by a smart host (relayhost).
The sides take turns, and the best of each side's rounds counts. The last line is JSON; a ratio over 1 means that ours
is better, whatever the unit.

- accept_*: until smtp-source has its last 250; e2e_*: until the sink has counted the last message; from the same load.
  20 connections of messages of 4 KB, or 200 KB; reuse: each carries many (smtp-source -d); new: one for each message.
  e2e_4k_50rcpt: 50 recipients each, counted as one message.
- accept_p99: from the final dot to its 250, 20 connections with reuse, a client in asyncio, the same for both.
- cpu_per_1000: user and system time of all processes of a side, and of those it reaped, a thousand messages of
  e2e_4k_reuse. memory_idle, memory_peak: the sum of PSS of all processes after the start, and sampled under the loads
  of 4k_reuse, 4k_new and 200k, once more and untimed. What the gateway's Python shares with this benchmark's counts a
  little less for it.
- memory_100m: growth of the relay role, fresh after a warm-up, by one message of 100 MB; its peer is our aim, 8 MB.
- e2e_4k_dkim: as e2e_4k_reuse, each message signed with the same RSA key of 2048 bits; Postfix with Debian's opendkim
  as milter on a Unix socket.
- *_scanned: ours with what the shipped rules ask about content; Postfix as before, without any filter.

Both are durable: queue and spool lie in one temporary directory, each side syncs as it does by default. Postfix has
Debian's main.cf: 20 deliveries at once to one destination, connections cached on demand, 100 processes a service,
in_flow_delay, TLS where it is offered (nobody offers it here). Other than Debian's are paths, no chroot, a limit of 200
MB a message (ours too), and a log file of its own, for there is no syslog here; ours writes its journal meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.relay_latency import latencies, percentile_99
from benchmarks.relay_load import Load, Measured, peak_under, send
from benchmarks.relay_sides import Gateway, Postfix, SigningPostfix
from benchmarks.relay_usage import command_line, family, memory_octets, peak_octets, reset_peak
from benchmarks.relay_world import Relay, enter
from egressguard.senderauth.sign_keys import make_key
from tests.lab.internet import ROOT

LOADS = {
    "4k_reuse": Load(4000),
    "4k_new": Load(2500, reuse=False),
    "200k": Load(600, size_octets=200 * 1024),
    "4k_50rcpt": Load(300, recipients=50),
}
SCANNED = {"4k_reuse": Load(2000), "200k": Load(300, size_octets=200 * 1024)}
SIGNED = Load(2000)
WARM_UP = Load(200)
LARGE = Load(1, size_octets=100 * 1024 * 1024, connections=1)
LATENCY_MESSAGES = 2000
ROUNDS = 3
QUICK_SHARE = 5
"""A quick run has one round and this part of the messages."""
LARGE_TARGET_MB = 8.0
IDLE_SECONDS = 2.0
MB = 1024 * 1024

Case = dict[str, float | str]
Sides = dict[str, Relay]

RATES = {f"{kind}_{name}": name for name in ("4k_reuse", "4k_new", "200k") for kind in ("accept", "e2e")}
RATES["e2e_4k_50rcpt"] = "4k_50rcpt"
USED_BY = {name: {load} for name, load in RATES.items()}
USED_BY["cpu_per_1000"] = {"4k_reuse"}
"""The loads that a case needs."""
OF_MEMORY = ("4k_reuse", "4k_new", "200k")
SCANNED_RATES = {f"e2e_{name}_scanned": name for name in SCANNED}
APART = ("memory_100m", "e2e_4k_dkim")
"""Cases with sides of their own."""
CASES = (*RATES, "accept_p99", "cpu_per_1000", "memory_idle", "memory_peak", *APART, *SCANNED_RATES)


def tell(case: str, side: str, words: str) -> None:
    print(f"{case:<16} {side}: {words}", file=sys.stderr, flush=True)


def more(ours: float, peer: float, unit: str) -> Case:
    """A case where more is better."""
    return {"ours": round(ours, 2), "peer": round(peer, 2), "ratio": round(ours / peer, 3), "unit": unit}


def less(ours: float, peer: float, unit: str) -> Case:
    return more(ours, peer, unit) | {"ratio": round(peer / ours, 3)}


class Plan:
    """What is asked for, and how thoroughly."""

    def __init__(self, folder: Path, cases: set[str], quick: bool) -> None:
        self.folder, self.cases, self._quick = folder, cases, quick
        self.results: dict[str, Case] = {}

    def wants(self, *cases: str) -> bool:
        return not self.cases.isdisjoint(cases)

    def load(self, whole: Load) -> Load:
        share = QUICK_SHARE if self._quick else 1
        return Load(whole.count // share, whole.size_octets, whole.reuse, whole.recipients, whole.connections)

    def keep(self, case: str, found: Case) -> None:
        if case in self.cases:
            self.results[case] = found

    def in_turn(self, sides: Sides, measure: Callable[[str, Relay], Any]) -> dict[str, list[Any]]:
        """What `measure` finds on each side, round by round; who begins changes."""
        found: dict[str, list[Any]] = {side: [] for side in sides}
        for number in range(1 if self._quick else ROUNDS):
            for side in sorted(sides, reverse=bool(number % 2)):
                found[side].append(measure(side, sides[side]))
        return found


def rates(plan: Plan, sides: Sides, label: str, load: Load) -> dict[str, list[Measured]]:
    def once(side: str, relay: Relay) -> Measured:
        seen = send(relay, plan.load(load))
        words = f"{seen.accepted:7.0f} accepted/s {seen.delivered:7.0f} delivered/s"
        words += f" {seen.cpu_seconds_per_1000:6.2f} CPU s/1000"
        tell(label, side, f"{words}, {seen.sink_connections} connections to the sink")
        return seen

    return plan.in_turn(sides, once)


def best(found: dict[str, list[Measured]], what: str) -> tuple[float, float]:
    """(ours, peer): the most messages a second."""
    ours, peer = (max(getattr(one, what) for one in found[side]) for side in ("ours", "peer"))
    return ours, peer


def plain(plan: Plan, postfix: Relay) -> None:
    """The cases without content rules; Postfix starts here."""
    with Gateway(plan.folder / "ours", 2525, 10025, scanned=False) as gateway, postfix:
        sides: Sides = {"ours": gateway, "peer": postfix}
        idle(plan, sides)
        for relay in sides.values():
            send(relay, WARM_UP)
        found = {}
        for name, load in LOADS.items():
            if any(name in USED_BY[case] for case in plan.cases & USED_BY.keys()):
                found[name] = rates(plan, sides, name, load)
        for case, name in RATES.items():
            if name in found:
                what = "accepted" if case.startswith("accept") else "delivered"
                plan.keep(case, more(*best(found[name], what), "messages/s"))
        costs(plan, found)
        if plan.wants("accept_p99"):
            latency(plan, sides)
        if plan.wants("memory_peak"):
            peak(plan, sides)
        if plan.wants(*SCANNED_RATES):
            gateway.stop()
            scanned(plan, postfix)


def idle(plan: Plan, sides: Sides) -> None:
    time.sleep(IDLE_SECONDS)  # what the start leaves to be done
    found = {side: memory_octets(family(relay.pid)) / MB for side, relay in sides.items()}
    for side, relay in sides.items():
        tell("memory_idle", side, f"{found[side]:.1f} MB in {len(family(relay.pid))} processes")
    plan.keep("memory_idle", less(found["ours"], found["peer"], "MB"))


def peak(plan: Plan, sides: Sides) -> None:
    found: dict[str, float] = {}
    for side, relay in sides.items():
        found[side] = max(peak_under(relay, plan.load(LOADS[name])) for name in OF_MEMORY) / MB
        tell("memory_peak", side, f"{found[side]:.1f} MB")
    plan.keep("memory_peak", less(found["ours"], found["peer"], "MB"))


def costs(plan: Plan, found: dict[str, dict[str, list[Measured]]]) -> None:
    if "4k_reuse" in found and plan.wants("cpu_per_1000"):
        ours, peer = (min(x.cpu_seconds_per_1000 for x in found["4k_reuse"][side]) for side in ("ours", "peer"))
        plan.keep("cpu_per_1000", less(ours, peer, "CPU-seconds"))


def latency(plan: Plan, sides: Sides) -> None:
    def once(side: str, relay: Relay) -> float:
        seconds = latencies(relay, plan.load(Load(LATENCY_MESSAGES)).count)
        late = percentile_99(seconds) * 1000
        tell("accept_p99", side, f"{late:.1f} ms; median {sorted(seconds)[len(seconds) // 2] * 1000:.1f} ms")
        return late

    found = plan.in_turn(sides, once)
    plan.keep("accept_p99", less(min(found["ours"]), min(found["peer"]), "ms"))


def scanned(plan: Plan, postfix: Relay) -> None:
    with Gateway(plan.folder / "scanned", 2527, 10027, scanned=True) as gateway:
        sides: Sides = {"ours": gateway, "peer": postfix}
        send(gateway, WARM_UP)
        for case, name in SCANNED_RATES.items():
            if case in plan.cases:
                found = rates(plan, sides, f"{name}_scanned", SCANNED[name])
                plan.keep(case, more(*best(found, "delivered"), "messages/s"))


def large(plan: Plan) -> None:
    with Gateway(plan.folder / "large", 2528, 10028, scanned=False) as gateway:
        send(gateway, WARM_UP)
        time.sleep(IDLE_SECONDS)
        before = {pid: reset_peak(pid) for pid in family(gateway.pid)}
        send(gateway, LARGE)
        grown = {pid: (peak_octets(pid) - octets) / MB for pid, octets in before.items()}
        words = {pid: " ".join(command_line(pid)) for pid in grown}
        ours = sum(grown[pid] for pid in grown if "role relay" in words[pid] or "role smtpd" in words[pid])
        tell("memory_100m", "ours", f"{ours:.1f} MB in relay and smtpd, {sum(grown.values()):.1f} MB in all")
        plan.keep("memory_100m", less(ours, LARGE_TARGET_MB, "MB"))


def signed(plan: Plan) -> None:
    key = make_key("rsa").pem
    peer = SigningPostfix(plan.folder / "signed-peer", 2530, 10030, signing_key=key)
    with Gateway(plan.folder / "signed", 2529, 10029, signing_key=key) as gateway, peer:
        sides: Sides = {"ours": gateway, "peer": peer}
        for relay in sides.values():
            send(relay, WARM_UP)
        found = rates(plan, sides, "4k_dkim", SIGNED)
        if gateway.signed() != gateway.sink.count():
            raise RuntimeError(f"{gateway.signed()} of {gateway.sink.count()} messages were signed")
        plan.keep("e2e_4k_dkim", more(*best(found, "delivered"), "messages/s"))


def measure(folder: Path, cases: set[str], quick: bool) -> dict[str, Case]:
    plan = Plan(folder, cases, quick)
    if plan.wants(*(set(CASES) - set(APART))):
        plain(plan, Postfix(folder / "peer", 2526, 10026))
    if plan.wants("memory_100m"):
        large(plan)
    if plan.wants("e2e_4k_dkim"):
        signed(plan)
    return {case: plan.results[case] for case in CASES if case in plan.results}


def missing() -> str:
    """Why nothing can be measured here; "" when it can."""
    if os.geteuid() != 0:
        return "needs root: it makes namespaces"
    for program in ("unshare", "ip", "setpriv"):
        if not shutil.which(program):
            return f"needs {program}"
    peers = [name for name in ("postfix", "opendkim") if not (ROOT / ".peers" / name / ".unpacked").exists()]
    return f"needs {' and '.join(peers)}: run scripts/peers" if peers else ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer messages, one round")
    parser.add_argument("--only", metavar="CASE[,CASE]", default=",".join(CASES), help="some cases")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    cases = set(options.only.split(","))
    if unknown := cases - set(CASES):
        parser.error(f"no such case: {', '.join(unknown)}; there are {', '.join(CASES)}")
    if reason := missing():
        print(f"cannot measure here: {reason}", file=sys.stderr)
        return 1
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that everything is torn down
    if options.inside:
        print(json.dumps({"benchmark": "relay", "results": measure(options.inside, cases, options.quick)}))
        return 0
    with tempfile.TemporaryDirectory(prefix="eg-relay-", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o755)  # the roles' users pass through
        return enter(Path(name), sys.executable, "-m", "benchmarks.relay", "--inside", name, *sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
