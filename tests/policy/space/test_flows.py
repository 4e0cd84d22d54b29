"""One law, twice: what decide_flow says of one flow, the outcomes say of all.

EGRESSGUARD_POLICIES is how many policies are tried (make system)."""

from __future__ import annotations

import os
from typing import Any

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from egressguard.net.flow import Flow, IPAddress
from egressguard.policy.decision import FlowAction
from egressguard.policy.facts import Moment
from egressguard.policy.flows import Surroundings, decide_flow
from egressguard.policy.networks import normal
from egressguard.policy.space.flows import IN_SIDE, FlowOutcome, FlowRegions, flow_outcomes, numbers_of
from egressguard.policy.space.region import Space
from tests.policy.test_index_flows import EDGES, FLOWS, HOSTS, INSIDE, RULES, SITES, policy_from

POLICIES = int(os.environ.get("EGRESSGUARD_POLICIES", "25"))
MOMENTS = st.builds(Moment, st.integers(0, 6), st.sampled_from([0, 359, 360, 479, 480, 1079, 1080, 1319, 1320, 1439]))
KNOWN = st.fixed_dictionaries({host: st.frozensets(st.sampled_from(EDGES), max_size=8) for host in HOSTS})


@settings(max_examples=POLICIES, deadline=None)
@given(SITES, RULES, st.lists(st.tuples(FLOWS, MOMENTS), min_size=1, max_size=20), KNOWN, INSIDE)
def test_the_outcomes_are_the_decisions(
    site: dict[str, Any],
    rules: list[dict[str, Any]],
    asked: list[tuple[Flow, Moment]],
    known: dict[str, frozenset[IPAddress]],
    inside: frozenset[str],
) -> None:
    inside = inside - {""}  # a packet of the gateway itself arrives nowhere
    policy, space = policy_from(site, rules), Space()
    outcomes = flow_outcomes(space, policy, inside)
    for flow, moment in asked:
        if flow.source.version != flow.destination.version:  # of no packet
            continue
        decision = decide_flow(policy, flow, Surroundings(inside, known.get, lambda m=moment: m))  # type: ignore[misc]
        assert decision.action is not None
        hosts = [host for host in HOSTS if normal(flow.destination) in map(normal, known[host])]
        told = outcomes.at(numbers_of(space, flow, moment, hosts))
        assert told == FlowOutcome(decision.action, decision.rule)


@settings(max_examples=POLICIES, deadline=None)
@given(SITES, RULES)
def test_a_witness_of_each_outcome_comes_to_it(site: dict[str, Any], rules: list[dict[str, Any]]) -> None:
    plain = [{key: value for key, value in rule.items() if key != "destination_host"} for rule in rules]
    policy, space = policy_from(site, plain), Space()
    outcomes = flow_outcomes(space, policy)
    assume(len(outcomes.labels()) > 1)
    for outcome in outcomes.labels():
        found = outcomes.region(outcome).witness()
        assert found is not None
        if (flow := found.flow) is None:
            continue
        decision = decide_flow(policy, flow, Surroundings(frozenset([IN_SIDE]), moment=found.moment))
        assert FlowOutcome(decision.action or FlowAction.DROP, decision.rule) == outcome


def test_a_set_that_many_rules_name_is_one_region() -> None:
    rules: list[dict[str, Any]] = [{"source": "@one"}, {"source": "@one", "port": 25}, {"destination": "@one"}]
    site = {"zones": {"lan": {"interfaces": "@inside"}}, "sets": {"one": ["10.0.0.0/8"]}}
    policy, space = policy_from(site, rules), Space()
    regions = FlowRegions(space, policy)
    assert regions.listed("from", ("@one",)) is regions.listed("from", ("@one",))
    assert regions.listed("from", ("@one",)) != regions.listed("to", ("@one",))
    assert regions.zones(["lan"]) == space.interfaces([IN_SIDE])
