"""What the gate records of flows: real packets, each decision as it was, and decided again by the same rules alike."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from egressguard.observe.clock import local_moment
from egressguard.policy.backtest import FlowJudge, Tally, tally_flow
from egressguard.policy.model import Policy
from egressguard.policy.recorded import RecordedFlow, recorded_flow
from tests.firewall.conftest import GateRunner, Program
from tests.firewall.test_traffic import BLOCK, ZONES, dial, policy
from tests.lab.network import MX_4, MX_6, SMART_4, Network

pytestmark = pytest.mark.system

OWN = {"name": "own-server", "from": "lan", "source": "192.0.2.10", "port": 25, "action": "allow"}
QUEUED = {"name": "asked", "from": "lan", "port": 26, "decide": "queue", "action": "reject"}


@pytest.fixture(scope="module")
def internet(network: Network) -> Iterator[Program]:
    servers = [Program(network, "internet", "-m", "tests.firewall.run_server", port) for port in ("25", "587")]
    for server in servers:
        server.wait("ready")
    yield servers[0]
    for server in servers:
        server.end()


def recorded(running: Program, wanted: int) -> list[RecordedFlow]:
    """So many classes of flows, as they come."""
    found = [recorded_flow(running.wait("flow.decided")) for _ in range(wanted)]
    return [each for each in found if each is not None]


def test_what_was_decided_stands_there_and_is_decided_again_alike(
    network: Network, internet: Program, gate: GateRunner
) -> None:
    given = policy(OWN, BLOCK, QUEUED, journal={"passed_flows": {"port": [25, 26, 587]}})
    running = gate.start(given)
    has_queue = running.wait("ready")["queue_backend"] != "none"
    tried = [("bot", MX_4, 25), ("bot", MX_6, 25), ("laptop", SMART_4, 25), ("printer", MX_4, 587)]
    tried += [("bot", MX_4, 26)] if has_queue else []
    for host, address, port in tried:
        dial(network, host, address, port)

    found = recorded(running, len(tried))
    told = {
        (str(each.facts.flow.source), str(each.facts.flow.destination), each.facts.flow.destination_port): (
            each.facts.action,
            each.facts.rule,
        )
        for each in found
    }
    expected = {
        ("192.0.2.30", MX_4, 25): ("reject", "block"),
        ("2001:db8:1::30", MX_6, 25): ("reject", "block"),
        ("192.0.2.10", SMART_4, 25): ("allow", "own-server"),
        ("192.0.2.20", MX_4, 587): ("allow", ""),
    }
    expected |= {("192.0.2.30", MX_4, 26): ("reject", "asked")} if has_queue else {}
    assert told == expected
    assert all(each.facts.flow.interface == "br0" and each.facts.flow.source_mac for each in found)

    same, open_to_all = Tally(), Tally()
    for each in found:
        tally_flow(same, each, FlowJudge(Policy.model_validate(given), local_moment))
        tally_flow(open_to_all, each, FlowJudge(Policy.model_validate(policy(OWN)), local_moment))
    assert same.is_same and same.judged["flow"] == sum(each.count for each in found)
    assert {row["host"] for row in open_to_all.found()} == {"192.0.2.30", "2001:db8:1::30"}


# A day under rules A; then, for each change of them, the day again under the changed ones.

TALK = """
import socket, sys
try:
    with socket.create_connection((sys.argv[1], int(sys.argv[2])), 2) as sock:
        greeting = sock.recv(100).decode().strip()
        sock.sendall(b"EHLO x\\r\\n")
        try:
            print("reset" if sock.recv(100) else greeting)
        except ConnectionResetError:
            print("reset")
except ConnectionRefusedError:
    print("refused")
except TimeoutError:
    print("silence")
"""
ADDRESSES = {"laptop": ("192.0.2.10", "2001:db8:1::10"), "printer": ("192.0.2.20", "2001:db8:1::20")}
ADDRESSES |= {"bot": ("192.0.2.30", "2001:db8:1::30"), "guest": ("192.0.2.140", "2001:db8:2::140")}
DAY = [(host, address, 25, False) for host in ADDRESSES for address in (MX_4, MX_6)]
DAY += [("laptop", SMART_4, 25, False), ("bot", SMART_4, 587, False), ("laptop", MX_4, 587, False)]
DAY += [("printer", SMART_4, 587, True)]
"""(who, whereto, port, whether it speaks as an SMTP client there)."""
SPEAKS = {"name": "disguised", "from": "lan", "speaks": "smtp", "action": "reject"}
FLOWS: list[dict[str, Any]] = [OWN, BLOCK | {"from": "lan"}, SPEAKS]
WORDS = {"220 here": "allow", "220 relay": "redirect", "refused": "reject", "reset": "reject", "silence": "drop"}
Flows = list[dict[str, Any]]


def with_rule(at: int, **keys: Any) -> Callable[[Flows], Flows]:
    return lambda flows: [rule | keys if number == at else rule for number, rule in enumerate(flows)]


def before(**rule: Any) -> Callable[[Flows], Flows]:
    return lambda flows: [{"name": "new", "port": 25} | rule, *flows]


CHANGES: dict[str, Callable[[Flows], Flows]] = {
    "same": lambda flows: flows,
    "redirected-guests": before(**{"from": "guest"}, action="redirect"),
    "nothing-speaks": lambda flows: flows[:2],
    "open": lambda flows: [],
    "own-server-moved": with_rule(0, source="192.0.2.20"),
    "own-server-on-both-families": with_rule(0, source=["192.0.2.10", "2001:db8:1::10"]),
    "own-server-to-one-host": with_rule(0, destination=SMART_4),
    "guests-too": with_rule(1, **{"from": ["lan", "guest"]}),
    "everybody": lambda flows: [flows[0], {k: v for k, v in flows[1].items() if k != "from"}, flows[2]],
    "dropped": with_rule(1, action="drop"),
    "staged": with_rule(1, staged=True),
    "submission-closed": with_rule(1, port=[25, 587]),
    "one-destination": before(destination=MX_4, action="reject"),
    "a-network": before(destination="198.51.100.24/31", action="reject"),
    "one-family": before(destination="2001:db8::/32", action="allow"),
    "bot-and-printer": before(source="192.0.2.20-192.0.2.30", action="allow"),
    "order": lambda flows: [flows[1], flows[0], flows[2]],
    "never-at-this-hour": before(hours="{past}", action="allow"),
    "always-by-day": before(weekdays=["mon-fri", "sat", "sun"], action="allow"),
    "speakers-first": lambda flows: [flows[2], *flows[:2]],
    "exception-for-who-speaks": before(source="192.0.2.20", port=587, action="allow"),
    "another-port": with_rule(1, port=26),
    "lan-redirected": with_rule(1, action="redirect"),
}
CHOSEN = list(CHANGES) if os.environ.get("EGRESSGUARD_CHANGES") == "all" else list(CHANGES)[:3]


def live(network: Network) -> dict[tuple[str, str, int, bool], str]:
    found = {}
    for host, address, port, speaks in DAY:
        if speaks:
            said = network.python(host, TALK, address, str(port)).stdout.strip()
        else:
            said = dial(network, host, address, port, seconds=0.7)
        found[host, address, port, speaks] = WORDS[said]
    return found


def test_other_rules_give_the_differences_of_a_live_day(network: Network, internet: Program, gate: GateRunner) -> None:
    relay = Program(network, "gateway", "-m", "tests.firewall.run_server", "0", "220 relay")
    try:
        running = gate.start(given(FLOWS), redirect_port=relay.wait("ready"))
        running.wait("ready")
        past = live(network)
        rows = {key: row for key, row in ((_key(row), row) for row in recorded(running, len(DAY) + 1)) if key}
        assert rows.keys() == past.keys()
        wrong, changed = {}, set()
        for name in CHOSEN:
            flows = [_timed(rule) for rule in CHANGES[name](FLOWS)]
            running.say("reload", given(flows))
            running.wait("reloaded")
            judge = FlowJudge(Policy.model_validate(given(flows)), local_moment)
            told = {key: judge.outcome(row).action for key, row in rows.items()}
            seen = live(network)
            wrong |= {(name, key): (told[key], seen[key]) for key in told if told[key] != seen[key]}
            changed |= {name} if told != past else set()
        assert wrong == {}
        same = {"same", "never-at-this-hour", "speakers-first"}
        assert changed == set(CHOSEN) - same
    finally:
        relay.end()


def given(flows: Flows) -> dict[str, Any]:
    passed = {"port": [25, 26, 587], "per_second": 1000}
    zones = {"lan": ZONES["lan"], "guest": {"interfaces": ["guest0"], "networks": ["192.0.2.128/25"]}}
    made = policy(*flows, journal={"passed_flows": passed}, packet_plane={"log_per_second": 1000})
    made["site"]["zones"] = zones
    return made


def _timed(rule: dict[str, Any]) -> dict[str, Any]:
    """An hour long past, or far ahead, whenever this runs."""
    hour = (time.localtime().tm_hour + 12) % 23
    return rule | {"hours": f"{hour:02}:00-{hour + 1:02}:00"} if "hours" in rule else rule


def _key(row: RecordedFlow) -> tuple[str, str, int, bool] | None:
    """Which of the day it was; None: the opening of one that spoke later."""
    flow = row.facts.flow
    host = next(name for name, addresses in ADDRESSES.items() if str(flow.source) in addresses)
    speaks = (host, str(flow.destination), flow.destination_port, True)
    if speaks in DAY:
        return speaks if flow.speaks else None
    return (*speaks[:3], False)
