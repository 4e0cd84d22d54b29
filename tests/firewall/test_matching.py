"""Local hours become spans of the kernel's UTC week; nothing is rendered for what nobody can match."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from egressguard.firewall.host import Host, own_addresses_4, own_addresses_6
from egressguard.firewall.matching import WEEK_MINUTES, each_match, utc_spans
from egressguard.firewall.textdiff import ruleset_diff
from egressguard.policy.facts import Moment
from egressguard.policy.fields import DAY_MINUTES, WEEKDAYS
from egressguard.policy.flows import time_matches
from egressguard.policy.model import FlowRule, Policy

CLOCK = st.builds("{:02}:{:02}".format, st.integers(0, 23), st.integers(0, 59))
HOURS = st.tuples(CLOCK, CLOCK).filter(lambda ends: ends[0] != ends[1]).map("-".join)


@given(
    st.lists(HOURS, max_size=2),
    st.lists(st.sampled_from(WEEKDAYS), max_size=3),
    st.integers(-12 * 60, 14 * 60),
    st.lists(st.integers(0, WEEK_MINUTES - 1), min_size=1, max_size=40),
)
def test_the_utc_spans_are_the_local_times(hours: list[str], days: list[str], offset: int, minutes: list[int]) -> None:
    times = {key: value for key, value in (("hours", hours), ("weekdays", days)) if value}
    rule = FlowRule.model_validate({"name": "r", "action": "drop", **times})
    spans = utc_spans(rule, offset)

    assert all(first < behind and first // DAY_MINUTES == (behind - 1) // DAY_MINUTES for first, behind in spans)
    for local in minutes:
        moment = Moment(local // DAY_MINUTES, local % DAY_MINUTES)
        utc = (local - offset) % WEEK_MINUTES
        assert time_matches(rule, lambda moment=moment: moment) == any(a <= utc < b for a, b in spans)  # type: ignore[misc]


def test_what_nobody_can_match_is_not_rendered() -> None:
    policy = Policy.model_validate(
        {
            "site": {
                "zones": {
                    "lan": {"interfaces": "@inside", "networks": "10.0.0.0/8"},
                    "empty": {"interfaces": "@inside"},
                },
                "sets": {"none": [], "six": ["fd00::/8"]},
            },
            "flows": [
                {"name": "nobody", "from": "lan", "source": "@none", "port": 25, "action": "drop"},
                {"name": "six", "from": "lan", "source": "@six", "port": 25, "action": "drop"},
                {"name": "wireless", "from": "empty", "port": 25, "action": "drop"},
                {"name": "both", "from": "lan", "port": 25, "action": "drop"},
            ],
        }
    )
    found = {rule.name: [match for _, match in each_match(policy, rule, Host(), asked=[25])] for rule in policy.flows}

    assert found == {"nobody": [], "six": [], "wireless": [], "both": [" ip saddr @zone_lan_4".strip()]}
    inside = [m for _, m in each_match(policy, policy.flows[1], Host(frozenset({"eth1"})), asked=[25])]
    assert inside == ['iifname "eth1" ip6 saddr @set_six_6']


def test_own_addresses() -> None:
    trie = """Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 192.0.2.0
        /24 link UNICAST
     |-- 192.0.2.2
        /32 host LOCAL
     |-- 192.0.2.255
        /32 link BROADCAST
"""
    assert {str(a) for a in own_addresses_4(trie)} == {"192.0.2.2"}
    six = "fd000000000000000000000000000002 04 40 00 82     eth0\n00000000000000000000000000000001 01 80 10 80 lo\n"
    assert {str(a) for a in own_addresses_6(six)} == {"fd00::2", "::1"}


def test_a_diff_names_the_elements_of_long_sets() -> None:
    def text(*numbers: int) -> str:
        return f"set s {{\n\telements = {{ {', '.join(f'10.0.0.{n}' for n in numbers)} }}\n}}\n"

    lines = ruleset_diff(text(*range(30)), text(*range(29), 40))
    assert [line for line in lines if line[0] in "+-" and line[:3] not in {"+++", "---"}] == [
        "-\t\t10.0.0.29",
        "+\t\t10.0.0.40",
    ]
    assert ruleset_diff(text(1, 2), text(1, 2)) == []
