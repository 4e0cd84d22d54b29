"""Limits counted again say what the gateway's own count said."""

from __future__ import annotations

import tempfile
from ipaddress import ip_address
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from egressguard.policy.limits import Amounts
from egressguard.policy.model import Policy
from egressguard.policy.recount import Recount
from egressguard.store.limits import LimitStore

UNITS = ("messages", "recipients", "distinct_recipients", "octets", "new_destinations", "refusals")
POLICY = Policy.model_validate(
    {
        "site": {"zones": {"lan": {"networks": "192.0.2.0/24"}}},
        "limits": [
            {"name": "host", "per": "host", **{f"{unit}_per_minute": 3 for unit in UNITS}},
            {"name": "user", "per": "user", **{f"{unit}_per_hour": 4 for unit in UNITS}},
            {"name": "domain", "per": "sender_domain", "messages_per_day": 5, "new_destinations_per_day": 2},
            {"name": "zone", "per": "zone", "distinct_recipients_per_minute": 4},
        ],
        "mail": [{"name": "all", "limit": ["host", "user", "domain", "zone"], "action": "accept"}],
    }
)
PATHS = st.lists(st.sampled_from(["a@x.example", "A@x.example", "b@y.example", "c@z.example"]), max_size=3, unique=True)
AMOUNTS = st.builds(
    lambda messages, octets, refusals, paths: Amounts(messages, octets, refusals, tuple(paths)),
    st.integers(0, 1),
    st.integers(0, 2),
    st.integers(0, 1),
    PATHS,
)
STEPS = st.lists(
    st.tuples(
        st.sampled_from([0.0, 0.5, 4.0, 5.0, 59.0, 61.0, 4000.0, 90_000.0, 31 * 86_400.0]),
        st.integers(1, 2),
        st.sampled_from([None, "anna"]),
        AMOUNTS,
        st.booleans(),
    ),
    max_size=25,
)


@settings(max_examples=30, deadline=None)
@given(STEPS)
def test_it_counts_as_the_gateway_does(steps: list[tuple[float, int, str | None, Amounts, bool]]) -> None:
    now = 1_800_000_000.0
    names = tuple(limit.name for limit in POLICY.limits)
    with tempfile.TemporaryDirectory() as folder:
        store, again = LimitStore(Path(folder) / "limits.sqlite"), Recount(POLICY)
        try:
            for wait, host, user, amounts, charged in steps:
                now += wait
                asked = (POLICY, ip_address(f"192.0.2.{host}"), user, f"x@{host}.example", amounts, now)
                assert again.exceeded(*asked) == store.exceeded(*asked)
                if charged:
                    for each in (again, store):
                        with each.step():
                            each.charge(POLICY, names, *asked[1:])
        finally:
            store.close()


def test_hosts_are_shut_out_and_let_in_again() -> None:
    again = Recount(POLICY)
    again.contain("192.0.2.7", 100.0, "host")
    again.contain("192.0.2.7", 50.0, "other")
    shut = again.contained("192.0.2.7", 99.0)
    assert shut is not None and (shut.until, shut.limit) == (100.0, "host")
    assert again.contained("192.0.2.7", 100.0) is None
    assert again.contained("192.0.2.8", 0.0) is None


def test_what_no_rule_names_is_not_counted() -> None:
    unused = POLICY.replace(mail=())
    asked = (unused, ip_address("192.0.2.1"), None, "", Amounts(messages=100), 1.0)
    assert Recount(unused).exceeded(*asked) == {}
