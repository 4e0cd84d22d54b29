from __future__ import annotations

from collections.abc import Callable

import pytest

from egressguard.policy.model import Policy
from egressguard.policy.routes import choose_route

ROUTES = """
routes:
  - {name: bounces, match: {sender: "<>", recipient_domain: partner.example}, via: backup}
  - {name: partner, match: {recipient_domain: [partner.example, .partner.example]}, via: provider}
  - {name: direct, match: {sender_domain: "@local", recipient_domain: near.example}, via: mx}
  - {name: boss, match: {sender: boss@example.org}, via: [backup, provider]}
  - {name: own, match: {sender_domain: "@local"}, via: provider}
"""


@pytest.mark.parametrize(
    ("reverse_path", "forward_path", "route"),
    [
        ("", "a@partner.example", "bounces"),
        ("x@y.example", "a@partner.example", "partner"),
        ("", "a@sub.partner.example", "partner"),
        ("anna@example.org", "a@near.example", "direct"),
        ("x@y.example", "a@near.example", None),
        ("boss@example.org", "a@far.example", "boss"),
        ("boss@example.org", "a@near.example", "direct"),
        ("anna@MAIL.example.org", "a@far.example", "own"),
        ("", "a@far.example", None),
        ("x@y.example", "postmaster", None),
    ],
)
def test_the_first_route_whose_matchers_all_match_is_taken(
    reverse_path: str, forward_path: str, route: str | None, policy_of: Callable[[str], Policy]
) -> None:
    chosen = choose_route(policy_of(ROUTES), reverse_path, forward_path)
    assert (chosen.name if chosen else None) == route


def test_a_route_without_matchers_takes_all(policy_of: Callable[[str], Policy]) -> None:
    policy = policy_of("routes: [{name: all, via: [provider, backup]}]")
    chosen = choose_route(policy, "", "a@x.example")
    assert chosen is not None and chosen.via == ("provider", "backup")
