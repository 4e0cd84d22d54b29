"""The comparison of flow rules: the same as policy.space finds, and as policy.flows decides."""

from __future__ import annotations

import random
from typing import Any

import pytest

from egressguard.policy.difference.change import Change
from egressguard.policy.difference.flows import FlowComparison
from egressguard.policy.difference.witness import flow_comes_to
from egressguard.policy.model import Policy
from egressguard.policy.space.flows import FlowOutcome, flow_outcomes
from egressguard.policy.space.region import Space

POLICIES = 100
PREFIXES = ["10.0.0.0/8", "10.1.0.0/16", "10.1.2.3", "192.0.2.0/25", "192.0.2.128/25", "fd00::/8", "fd00::5", "@one"]
SITE = {
    "zones": {
        "lan": {"interfaces": ["@inside", "br0"], "networks": ["10.0.0.0/8", "fd00::/16"]},
        "dmz": {"networks": "192.0.2.0/24", "tunnels": "allow"},
        "wire": {"interfaces": "eth7"},
    },
    "sets": {"one": ["10.1.0.0/17", "2001:db8::/32"], "none": []},
    "mac_sets": {"cards": "00:53:00:00:00:01"},
    "relay": {"listeners": {"lan": {"kind": "smtp", "port": 25}}, "redirect_to": "lan"},
}
KEYS: dict[str, list[Any]] = {
    "from": ["lan", "dmz", ["lan", "wire"], ["dmz", "lan"]],
    "source": [*PREFIXES, "@none", ["10.1.2.3", "fd00::5"]],
    "destination": [*PREFIXES, "0.0.0.0/0"],
    "port": [25, [25, 465], 587],
    "hours": ["08:00-18:00", "22:00-06:00"],
    "weekdays": ["mon-fri", ["sat", "mon"]],
    "source_mac": ["@cards", "00:53:00:00:00:02"],
    "staged": [True],
}


def rule(chance: random.Random) -> dict[str, Any]:
    keys = {key: chance.choice(values) for key, values in KEYS.items() if chance.random() < 0.3}
    made = keys | {"action": chance.choice(["allow", "reject", "drop"])}
    kind = chance.choice(["", "", "", "udp", "gre", "speaks", "host"])
    if kind == "speaks":
        made["speaks"] = "smtp"
    elif kind == "host":
        made |= {"destination_host": chance.choice(["a.example", "b.example"]), "decide": "queue"}
    elif kind:
        made["protocol"] = kind
    return {key: value for key, value in made.items() if not (kind == "gre" and key == "port")}


def policy(rules: list[dict[str, Any]]) -> Policy:
    named = [{"name": f"r{number}", **each} for number, each in enumerate(rules)]
    return Policy.model_validate({"site": SITE, "flows": named})


def changed(chance: random.Random, before: list[dict[str, Any]]) -> list[dict[str, Any]]:
    after = [dict(each) for each in before]
    at, other = chance.randrange(len(after)), chance.randrange(len(after))
    what = chance.choice(["away", "swap", "new", "action"])
    if what == "away":
        del after[at]
    elif what == "swap":
        after[at], after[other] = after[other], after[at]
    elif what == "new":
        after.insert(at, rule(chance))
    else:
        after[at]["action"] = chance.choice(["allow", "reject", "drop"])
    return after


def changes(old: Policy, new: Policy) -> list[Change]:
    comparison = FlowComparison(old, new)
    comparison.run(lambda _done, _of: None)
    return comparison.changes()


def action_pairs(old: Policy, new: Policy) -> set[tuple[str, str]]:
    """What policy.space, another exact method, finds: (action before, action after)."""
    space = Space()
    met = flow_outcomes(space, old).against(flow_outcomes(space, new))
    pairs: list[tuple[FlowOutcome, FlowOutcome]] = list(met)
    return {(a.action.value, b.action.value) for a, b in pairs if a.action != b.action}


@pytest.mark.parametrize("block", range(10))
def test_random_policies_are_compared_as_another_exact_method_does(block: int) -> None:
    told = silent = 0
    for seed in range(block, POLICIES, 10):
        chance = random.Random(seed)
        rules = [rule(chance) for _ in range(chance.randint(1, 8))]
        old, new = policy(rules), policy(changed(chance, rules))
        found = changes(old, new)
        told, silent = told + bool(found), silent + (not found)
        for change in found:
            assert change.witness is not None
            assert flow_comes_to(old, change.witness) != flow_comes_to(new, change.witness), (seed, change)
        words = {"drop until a host name is resolved"}
        plain = {
            (c.before.partition(",")[0], c.after.partition(",")[0]) for c in found if not words & {c.before, c.after}
        }
        decided = {pair for pair in plain if pair[0] != pair[1] and "staged rule" not in pair[0]}
        assert decided == action_pairs(old, new), (seed, found)
    assert told and silent


BLOCK = {"from": "lan", "port": 25, "action": "reject"}


@pytest.mark.parametrize(
    ("old", "new", "witness"),
    [
        pytest.param(
            [{"source": "10.0.0.0/9", "port": 25, "action": "allow"}, BLOCK],
            [{"source": "10.0.0.0/8", "port": 25, "action": "allow"}, BLOCK],
            {"from": "10.128.0.1", "port": 25},
            id="a prefix off by one",
        ),
        pytest.param(
            [{"port": 25, "action": "reject"}],
            [{"destination": "0.0.0.0/0", "port": 25, "action": "reject"}],
            {"to": "2001:db8:ffff::7"},
            id="the IPv6 twin is missing",
        ),
        pytest.param(
            [{"protocol": "udp", "port": 53, "action": "drop"}],
            [{"port": 53, "action": "drop"}],
            {"protocol": "udp", "port": 53},
            id="another protocol",
        ),
        pytest.param(
            [BLOCK | {"hours": "08:00-18:00"}],
            [BLOCK | {"hours": "08:00-18:01"}],
            {"when": "mon 18:00"},
            id="a minute more",
        ),
        pytest.param(
            [BLOCK], [{"from": "dmz", "protocol": "gre", "action": "reject"}, BLOCK], {"protocol": "gre"}, id="tunnels"
        ),
    ],
)
def test_the_witness_is_where_it_bites(
    old: list[dict[str, Any]], new: list[dict[str, Any]], witness: dict[str, Any]
) -> None:
    given = [change.witness or {} for change in changes(policy(old), policy(new))]
    assert any(witness.items() <= found.items() for found in given), given


def test_a_zone_by_another_name_and_an_empty_set_are_nothing() -> None:
    old = policy([BLOCK])
    new = policy([{"source": "@none", "port": 25, "action": "allow"}, BLOCK])
    assert changes(old, new) == []
