"""Three judges: a packet led through the listed rules one by one, the fates of all packets, and the rules themselves.

EGRESSGUARD_CASES says how many packets (`make system`: 120,000).
"""

from __future__ import annotations

import os
import random
from ipaddress import ip_address
from typing import Any

import pytest

from egressguard.firewall.fates import Fates
from egressguard.firewall.host import Host
from egressguard.firewall.proof import _ask
from egressguard.firewall.render import render_ruleset
from egressguard.firewall.table import ALLOW_MARK, REJECT_MARK, queue_mark
from egressguard.net.flow import Flow, Protocol
from egressguard.net.speech import speaks
from egressguard.policy.decision import FlowAction
from egressguard.policy.facts import Moment
from egressguard.policy.flows import Surroundings, decide_flow
from egressguard.policy.model import Policy
from egressguard.policy.space import axes
from egressguard.policy.space.flows import FlowRegions
from egressguard.policy.space.region import Space
from tests.firewall.simulator import Sent, fate_of
from tests.firewall.test_proof import SITE, drawn, listed

CASES = int(os.environ.get("EGRESSGUARD_CASES", "3000"))
OF_EACH = 300
PORTS = [24, 25, 26, 27, 586, 587, 1023, 1024, 2525, 3544]
SAID = [b"", b"", b"EHLO x\r\n", b"ehlo\r\n", b"MAIL FROM:<>", b"MAIL FROM", b"EHLOx", b"GET / HT"]
ENDS = {
    4: [f"10.1.0.{n}" for n in (0, 2, 3, 4, 7, 8, 9, 10, 23, 24, 27, 28, 255)] + ["10.0.255.255", "203.0.113.7"],
    6: ["fd00:1::", "fd00:1::7", "fd00:1::25", "fd00:1::26", "fd00:0:ffff::1", "2001:db8::7", "::ffff:10.1.0.7"],
}
PROTOCOLS = {6: Protocol.TCP, 17: Protocol.UDP, 47: Protocol.GRE}


def packet(dice: random.Random) -> Sent:
    family = dice.choice([4, 4, 6])
    protocol = dice.choices([6, 17, 47], [8, 3, 1])[0]
    state = dice.choices(["new", "established", "related", "invalid", "untracked"], [6, 4, 1, 1, 1])[0]
    return Sent(
        ip_address(dice.choice(ENDS[family])),
        ip_address(dice.choice(ENDS[family])),
        protocol,
        port=dice.choice(PORTS) if protocol != 47 else 0,
        flags=dice.choice([2, 16, 18, 24]),
        state=state,
        is_answer=state in {"established", "related"} and dice.random() < 0.4,
        arrives=dice.choice(["br0", "guest0", "guest1", "eth9"]),
        mac=dice.choice(["02:00:00:00:00:01", "02:00:00:00:00:09"]),
        payload=dice.choice(SAID) if protocol == 6 else b"",
        day=dice.randrange(7),
        minute=dice.choice([0, 359, 360, 479, 480, 1079, 1080, 1319, 1320, 1439]),
    )


def flow_of(sent: Sent) -> Flow:
    protocol = PROTOCOLS[sent.protocol]
    ports = (sent.port, sent.source_port) if protocol is not Protocol.GRE else (0, 0)
    said = speaks(sent.payload) if protocol is Protocol.TCP else ""
    return Flow(sent.source, sent.destination, ports[0], sent.arrives, protocol, ports[1], sent.mac, said)


def numbers_of(space: Space, sent: Sent) -> dict[int, int]:
    six = sent.source.version == 6
    fields = {
        axes.FAMILY: int(six),
        axes.PROTOCOL: sent.protocol,
        axes.TO_PORT: sent.port,
        axes.FROM_PORT: sent.source_port,
        axes.INTERFACE: space.name_number(sent.arrives),
        axes.OUT_INTERFACE: space.name_number(sent.leaves),
        axes.FROM_6 if six else axes.FROM_4: int(sent.source),
        axes.TO_6 if six else axes.TO_4: int(sent.destination),
        axes.CARD: axes.mac_number(sent.mac),
        axes.MINUTE: (sent.day - 1) % 7 * 1440 + sent.minute,
        axes.STATE: axes.STATES.index(f"{sent.state}, an answer" if sent.is_answer else sent.state),
        axes.FLAGS: sent.flags,
        axes.OWNER: axes.NO_OWNER,
        axes.PAYLOAD_LENGTH: len(sent.payload),
    }
    octets = dict(zip(axes.PAYLOAD, sent.payload, strict=False))
    return {axis.level: number for axis, number in (fields | octets).items()}


@pytest.mark.parametrize("part", range(2))
def test_the_rules_the_simulation_and_the_fates_agree(part: int) -> None:
    offset = 90
    decided: set[str] = set()
    for seed in range(part, CASES // OF_EACH, 2):
        dice = random.Random(seed)
        policy = Policy.model_validate({"site": SITE, "flows": list(drawn(dice))})
        listing = listed(render_ruleset(policy, Host(frozenset(), 25, 990, "xt", 2599, utc_offset_minutes=offset)))
        space = Space()
        regions = FlowRegions(space, policy, (), offset)
        fates = Fates(space, listing, _ask(regions), may=False).through()
        for _ in range(OF_EACH):
            sent = packet(dice)
            local = ((sent.day - 1) % 7 * 1440 + sent.minute + offset) % 10080
            now = Moment(*divmod(local, 1440))
            around = Surroundings(frozenset(), moment=lambda now=now: now)  # type: ignore[misc]

            def decide(queued: Sent, policy: Policy = policy, around: Surroundings = around) -> int | None:
                rule = policy.flows[queued.mark - queue_mark(0)].name
                found = decide_flow(policy, flow_of(queued), around, start_at=rule).action
                return {FlowAction.ALLOW: ALLOW_MARK, FlowAction.DROP: None}.get(found, REJECT_MARK)  # type: ignore[arg-type]

            simulated = fate_of(listing, sent, decide)
            told: Any = fates.at(numbers_of(space, sent))
            assert told is not None and told.kind == simulated, (seed, sent)
            decided.add(simulated)
            if not is_beside_the_rules(policy, sent):
                action = decide_flow(policy, flow_of(sent), around).action
                assert (action is FlowAction.ALLOW) == (simulated == "pass"), (seed, sent, action, simulated)
    assert decided >= {"pass", "drop", "reject"}
    assert CASES < 10_000 or "redirect" in decided


def is_beside_the_rules(policy: Policy, sent: Sent) -> bool:
    """Answers, which no rule judges, and openings that speak at once where a rule sends elsewhere."""
    sends = any(rule.action in {"redirect", "tarpit"} for rule in policy.flows)
    return sent.is_answer or (sends and sent.state in {"new", "related"} and bool(sent.payload))
