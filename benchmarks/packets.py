"""What the table costs the router: packets of ours beside no table, a bare drop, a small set, an empty callback.

    sudo .venv/bin/python benchmarks/packets.py [--quick] [--only GROUP]

Routers stand side by side in network namespaces, one with our table, others with the peers', flooded in turns, some
milliseconds each. "packets/s" is what one core takes in and routes or stops; `*_net` is that less the generator's part,
which a router tells that drops all at once. `allowed*` has no table as its peer, and so no conntrack;
`*_conntrack` a table with one conntrack match; `blocked` a bare `tcp dport 25 drop`, `blocked_reject` a bare reset;
`exempt_100k` the same rules with 10 addresses; `load_100k` a target. The last line is JSON; a ratio over 1 means that
ours is better.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from ipaddress import IPv4Address, ip_address
from pathlib import Path
from statistics import median
from typing import Any

from netfilterqueue import NetfilterQueue

from benchmarks.packet_world import (
    BLACK_HOLE,
    EARLY_DROP,
    SITE_NET,
    Bulk,
    Costs,
    Sender,
    World,
    datagram,
    in_turns,
    syn,
)
from egressguard.firewall import nft
from egressguard.firewall.host import Host
from egressguard.firewall.render import render_ruleset
from egressguard.firewall.verdicts import HEADER_OCTETS, WAITING_PACKETS, Verdicts
from egressguard.net.flow import IPAddress
from egressguard.policy.flows import Surroundings
from egressguard.policy.load import parse_rules
from egressguard.policy.model import Policy

SHIPPED = Path(__file__).parents[1] / "rules"
CORES = sorted(os.sched_getaffinity(0))
"""The last one sends, routes and receives; the first one gives verdicts."""
INSIDE = frozenset({"lan0"})
OWN = frozenset(map(ip_address, ("192.0.2.1", "198.51.100.1", "127.0.0.1", "::1")))
FLOWS = 1024
MANY, FEW = 100_000, 10
LOAD_SECONDS = 5.0
STRAY_SHARE = 0.01
ROUNDS, CONNECTIONS, VERDICTS, VERDICT_ROUNDS = 25, 6, 20_000, 5
START_SECONDS = 10
SLICE_SECONDS, BULK_ROUNDS, BULK_PORT = 0.02, 10, 443

_FORWARD = "table inet peer {{\n\tchain forward {{\n\t\ttype filter hook forward priority filter\n\t\t{}\n\t}}\n}}\n"
CONNTRACK = _FORWARD.format("ct state new accept")
BARE_DROP = _FORWARD.format("tcp dport 25 drop")
BARE_REJECT = _FORWARD.format("tcp dport 25 reject with tcp reset")

RULES = """
site:
  zones: {{lan: {{interfaces: "@inside"}}}}
  sets: {{exempt: ["file:lists/exempt.txt"]}}
flows:
  - {{name: passes, from: lan, {matchers}, port: 25, action: allow}}
  - {{name: block, from: lan, port: 25, action: reject}}
"""
BY_SET = RULES.format(matchers="source: '@exempt'").encode()
BY_NAME = RULES.format(matchers="destination_host: mx.partner.example, decide: queue").encode()

QUICK, FULL = 1, 6
"""How much is measured, in multiples of the numbers above."""
Cases = dict[str, dict[str, Any]]


def case(ours: float, peer: float, unit: str, *, less_is_better: bool = False) -> dict[str, Any]:
    ratio = peer / ours if less_is_better else ours / peer
    return {"ours": round(ours, 3), "peer": round(peer, 3), "ratio": round(ratio, 3), "unit": unit}


def tell(what: str, side: str, words: str) -> None:
    print(f"{what:<12} {side:<9} {words}", file=sys.stderr, flush=True)


def policy_of(files: Mapping[str, bytes]) -> Policy:
    loaded = parse_rules(files)
    if loaded.policy is None:
        raise RuntimeError(f"the benchmark's rules: {loaded.faults[:3]}")
    return loaded.policy


def table_of(policy: Policy) -> str:
    """As the gate renders it on a router with a relay."""
    return render_ruleset(policy, Host(INSIDE, redirect_port=10025, relay_uid=64999, own_addresses=OWN))


def shipped_table() -> str:
    return table_of(policy_of({path.name: path.read_bytes() for path in SHIPPED.glob("*.yaml")}))


def rule_files(rules: bytes, addresses: Sequence[str]) -> dict[str, bytes]:
    return {"rules.yaml": rules, "lists/exempt.txt": "\n".join(addresses).encode()}


def scattered_addresses(count: int) -> list[str]:
    """Even addresses only: neighbours would melt into one prefix."""
    first = int(IPv4Address(SITE_NET.partition("/")[0]))
    picked = random.Random(count).sample(range(first + 2, first + (1 << 24), 2), count)
    return [str(IPv4Address(number)) for number in picked]


@contextlib.contextmanager
def worlds(rulesets: Mapping[str, str]) -> Iterator[dict[str, World]]:
    with contextlib.ExitStack() as stack:
        yield {name: stack.enter_context(World(ruleset)) for name, ruleset in rulesets.items()}


def routed(
    what: str, rulesets: Mapping[str, str], frames: Mapping[str, Sequence[bytes]], rounds: int, *, passes: bool
) -> dict[str, tuple[float, float]]:
    """Packets/s that each router routes, or stops, on one core: with the generator's part, and net of it.

    `frames` are those of each, `frames[""]` of all others; `passes`: whether they reach the internet."""
    with worlds({"generator": EARLY_DROP, **rulesets}) as made, contextlib.ExitStack() as stack:
        senders = {name: Sender(world, frames.get(name) or frames[""]) for name, world in made.items()}
        for sender in senders.values():
            stack.callback(sender.close)
        costs = in_turns(senders, rounds, SLICE_SECONDS)
        for name in rulesets:
            share = made[name].forwarded() / senders[name].sent
            if abs(share - passes) > STRAY_SHARE:
                raise RuntimeError(f"{what}, {name}: {share:.1%} of the packets got through")
    # the lower quartile: the machine's other work only ever adds
    spent = {name: sorted(values)[len(values) // 4] for name, values in costs.items()}
    floor = spent.pop("generator")
    tell(what, "generator", f"{floor:5.0f} ns a packet, {1e6 / floor:5.0f} kpps: the limit of what is sent")
    net = {name: nanoseconds - floor for name, nanoseconds in spent.items()}
    for name, own in net.items():
        both = f"{1e6 / (own + floor):5.0f} kpps with the generator's part"
        tell(what, name, f"{own:5.0f} ns a packet, {1e6 / own:5.0f} kpps; {both}")
    return {name: (1e9 / (own + floor), 1e9 / own) for name, own in net.items()}


def rates(what: str, ours: tuple[float, float], peer: tuple[float, float]) -> Cases:
    return {what: case(ours[0], peer[0], "packets/s"), f"{what}_net": case(ours[1], peer[1], "packets/s")}


def flood(make: Callable[[str, int, int], bytes], port: int, sources: Sequence[str] = ("10.1.2.3",)) -> list[bytes]:
    """A frame of each of FLOWS flows from `sources`."""
    return [make(source, 20_000 + i, port) for i, source in zip(range(FLOWS), itertools.cycle(sources), strict=False)]


def transferred(what: str, scale: int, *, offload: bool) -> Cases:
    """Gbit/s of TCP through the router, over several connections: each has its own luck with windows and buffers."""
    contestants = {"ours": shipped_table(), "no table": "", "conntrack": CONNTRACK}
    found: Costs = {name: [] for name in contestants}
    with worlds(contestants) as made:
        for world in made.values() if not offload else ():
            world.packets_of_one_segment()
        for _ in range(CONNECTIONS * scale):
            for name, values in transfer(made).items():
                found[name] += values
    gigabits = {name: 8 / median(values) for name, values in found.items()}
    for name, rate in gigabits.items():
        tell(what, name, f"{rate:6.2f} Gbit/s")
    return {what: case(gigabits["ours"], gigabits["no table"], "Gbit/s")}


def transfer(made: Mapping[str, World]) -> Costs:
    with contextlib.ExitStack() as stack:
        connections = {name: Bulk(world, BULK_PORT) for name, world in made.items()}
        for connection in connections.values():
            stack.callback(connection.close)
        return in_turns(connections, BULK_ROUNDS, SLICE_SECONDS)


def allowed(scale: int) -> Cases:
    return transferred("allowed", scale, offload=True) | transferred("allowed_1500", scale, offload=False)


def allowed_small(scale: int) -> Cases:
    rulesets = {"ours": shipped_table(), "no table": "", "conntrack": CONNTRACK}
    found = routed("allowed_pps", rulesets, {"": flood(datagram, BULK_PORT)}, ROUNDS * scale, passes=True)
    return rates("allowed_pps", found["ours"], found["no table"]) | rates(
        "allowed_pps_conntrack", found["ours"], found["conntrack"]
    )


def blocked(scale: int) -> Cases:
    rulesets = {"ours": shipped_table(), "drop": BARE_DROP, "reject": BARE_REJECT}
    found = routed("blocked", rulesets, {"": flood(syn, 25)}, ROUNDS * scale, passes=False)
    return rates("blocked", found["ours"], found["drop"]) | rates("blocked_reject", found["ours"], found["reject"])


def exempt(scale: int) -> Cases:
    many, few = scattered_addresses(MANY), scattered_addresses(FEW)
    rulesets = {name: table_of(policy_of(rule_files(BY_SET, those))) for name, those in (("many", many), ("few", few))}
    frames = {"many": flood(syn, 25, many), "": flood(syn, 25, few)}
    found = routed("exempt_100k", rulesets, frames, ROUNDS * scale, passes=True)
    return rates("exempt_100k", found["many"], found["few"])


def load(scale: int) -> Cases:
    """Rule files in memory -> a table in the kernel."""
    files, best = rule_files(BY_SET, scattered_addresses(MANY)), float("inf")
    for _ in range((scale + 1) // 2):
        with World() as world:
            started = time.perf_counter()
            policy = policy_of(files)
            parsed = time.perf_counter()
            ruleset = table_of(policy)
            rendered = time.perf_counter()
            world.load(ruleset)
            loaded = time.perf_counter()
        best = min(best, loaded - started)
        words = f"parse {parsed - started:.2f} s, render {rendered - parsed:.2f} s, load {loaded - rendered:.2f} s"
        tell("load_100k", "ours", words)
    return {"load_100k": case(best, LOAD_SECONDS, "seconds", less_is_better=True)}


def answer_ours(queue_number: int, policy: Policy, known: frozenset[IPAddress]) -> None:
    async def serve() -> None:
        Verdicts(queue_number, policy, Surroundings(INSIDE, lambda _name: known), lambda *_: None).start()
        await asyncio.Event().wait()

    asyncio.run(serve())


def answer_blindly(queue_number: int) -> None:
    queue = NetfilterQueue()
    queue.bind(queue_number, lambda packet: packet.accept(), max_len=WAITING_PACKETS, range=HEADER_OCTETS)
    queue.run()


def in_router(world: World, answer: Callable[..., None], *arguments: object) -> None:
    """The body of a process of its own."""
    os.sched_setaffinity(0, {CORES[0]})
    with world.inside("router"):
        answer(*arguments)


@contextlib.contextmanager
def answering(world: World, queue_number: int, answer: Callable[..., None], *arguments: object) -> Iterator[None]:
    context = multiprocessing.get_context("fork")
    process = context.Process(target=in_router, args=(world, answer, queue_number, *arguments))
    process.start()
    try:
        deadline = time.monotonic() + START_SECONDS
        while not world.has_queue(queue_number):
            if time.monotonic() > deadline or not process.is_alive():
                raise RuntimeError("nobody listens on the queue")
            time.sleep(0.01)
        yield
    finally:
        process.kill()
        process.join()


def verdicts_a_second(world: World, sender: Sender, queue_number: int, count: int) -> float:
    """The queue is kept filled, never so full that the kernel drops."""
    waiting, first = world.queue_state(queue_number)
    started, seen = time.perf_counter(), first
    while seen < first + count or waiting:
        if seen < first + count and waiting < WAITING_PACKETS // 2:
            sender.send()
        waiting, seen = world.queue_state(queue_number)
    return (seen - first) / (time.perf_counter() - started)


def nfqueue(scale: int) -> Cases:
    policy = policy_of(rule_files(BY_NAME, scattered_addresses(FEW)))
    number, known = policy.site.packet_plane.queue_number, frozenset({ip_address(BLACK_HOLE)})
    found: dict[str, list[float]] = {"ours": [], "empty": []}
    with worlds({"ours": "", "empty": ""}) as made, contextlib.ExitStack() as stack:
        senders = {}
        for name, world in made.items():
            with world.inside("router"):
                queue = asyncio.run(nft.probe()).queue
            world.load(render_ruleset(policy, Host(INSIDE, queue=queue)), queue, number)
            senders[name] = Sender(world, flood(syn, 25))
            stack.callback(senders[name].close)
        stack.enter_context(answering(made["ours"], number, answer_ours, policy, known))
        stack.enter_context(answering(made["empty"], number, answer_blindly))
        for name, sender in senders.items():  # of two packets that open one flow, conntrack drops the later
            verdicts_a_second(made[name], sender, number, 1)
        for _ in range(VERDICT_ROUNDS):
            for name, sender in senders.items():
                found[name].append(verdicts_a_second(made[name], sender, number, VERDICTS * scale))
        if made["ours"].forwarded() < senders["ours"].sent * (1 - STRAY_SHARE):
            raise RuntimeError("nfqueue: our verdicts do not let the partner's packets pass")
    for name, rates in found.items():
        tell("nfqueue", name, f"{median(rates):7.0f} verdicts/s of {min(rates):.0f} to {max(rates):.0f}")
    return {"nfqueue": case(median(found["ours"]), median(found["empty"]), "verdicts/s")}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    parser.add_argument("--only", choices=[group.__name__ for group in GROUPS], help="one group of cases")
    options = parser.parse_args()
    if os.geteuid() != 0 or not (shutil.which("ip") and shutil.which("nft")):
        print("cannot measure here: needs root, ip and nft", file=sys.stderr)
        return 1
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the namespaces go
    os.sched_setaffinity(0, {CORES[-1]})
    scale = QUICK if options.quick else FULL
    results: Cases = {}
    for group in GROUPS:
        if options.only in {None, group.__name__}:
            results |= group(scale)
    print(json.dumps({"benchmark": "packets", "results": results}))
    return 0


GROUPS = (allowed, allowed_small, blocked, exempt, nfqueue, load)

if __name__ == "__main__":
    sys.exit(main())
