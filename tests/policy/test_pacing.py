from __future__ import annotations

from typing import Any

import pytest

from egressguard.policy.model import Policy
from egressguard.policy.pacing import concurrency_at, concurrency_over, destination_of, retry_of

DESTINATIONS: dict[str, Any] = {
    "slow": {"domain": ["One.example", ".two.example"], "concurrency": {"limit": 2}, "retry": {"first_seconds": 900}},
    "other": {"domain": ["x.two.example", ".one.example"]},
}


def policy_of(**site: Any) -> Policy:
    routes = [{"name": "own", "via": "mx", "retry": {"first_seconds": 60}}, {"name": "none", "via": "mx"}]
    site = {"zones": {"lan": {"networks": "192.0.2.0/24"}}} | site
    return Policy.model_validate({"site": site, "routes": routes})


@pytest.mark.parametrize(
    ("domain", "name"),
    [
        ("one.example", "slow"),
        ("a.one.example", "other"),
        ("a.b.one.example", "other"),
        ("two.example", None),
        ("a.two.example", "slow"),
        ("x.two.example", "slow"),  # the first mapping that has it
        ("example", None),
        ("", None),
    ],
)
def test_a_domain_belongs_to_the_first_mapping_that_has_it(domain: str, name: str | None) -> None:
    found = destination_of(policy_of(destinations=DESTINATIONS), domain)
    assert (found[0] if found else None) == name


def test_without_destinations_nothing_is_looked_up() -> None:
    assert destination_of(policy_of(), "one.example") is None


def test_a_destination_and_a_smart_host_may_bear_less_than_others() -> None:
    hosts = {"isp": {"host": "a.example", "concurrency": {"limit": 3}}, "other": {"host": "b.example"}}
    policy = policy_of(destinations=DESTINATIONS, smart_hosts=hosts, relay={"concurrency": {"limit": 7}})
    assert concurrency_at(policy, "one.example").limit == 2
    assert concurrency_at(policy, "a.one.example").limit == 7
    assert [concurrency_over(policy, name).limit for name in ("isp", "other", "gone")] == [3, 7, 7]


@pytest.mark.parametrize(
    ("route", "path", "by_mx", "first_seconds"),
    [
        (None, "b@one.example", True, 900),
        (None, "b@one.example", False, 300),
        (None, "b@three.example", True, 300),
        (0, "b@one.example", True, 60),
        (1, "b@one.example", True, 900),
        (1, "b@one.example", False, 300),
    ],
)
def test_the_route_comes_before_the_destination_and_that_before_the_site(
    route: int | None, path: str, by_mx: bool, first_seconds: int
) -> None:
    policy = policy_of(destinations=DESTINATIONS)
    taken = None if route is None else policy.routes[route]
    assert retry_of(policy, taken, path, by_mx=by_mx).first_seconds == first_seconds
