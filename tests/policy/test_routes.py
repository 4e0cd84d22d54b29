from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Any

import pytest

from egressguard.policy.match import RouteMatch
from egressguard.policy.model import Policy
from egressguard.policy.routes import LOCAL, MATCHERS, MX, RouteFacts, WayOut, choose_route, mismatch, way_out
from egressguard.policy.verdict import Verdict

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
    chosen = choose_route(policy_of(ROUTES), RouteFacts(reverse_path, forward_path))
    assert (chosen.name if chosen else None) == route


def test_a_route_without_matchers_takes_all(policy_of: Callable[[str], Policy]) -> None:
    policy = policy_of("routes: [{name: all, via: [provider, backup]}]")
    chosen = choose_route(policy, RouteFacts("", "a@x.example"))
    assert chosen is not None and chosen.via == ("provider", "backup")


A = RouteFacts(
    reverse_path="anna@example.org",
    forward_path="b@partner.example",
    tags=("bulk",),
    client=ipaddress.ip_address("192.168.1.25"),
    listener="submission",
    user="anna",
    size_octets=1000,
    verdict=Verdict.CLEAN,
)
NOBODY = RouteFacts("", "b@partner.example")


@pytest.mark.parametrize(
    ("match", "of_a", "of_nobody"),
    [
        ({"client": ["lan"]}, None, "client"),
        ({"client": ["@mail-servers"]}, None, "client"),
        ({"client": ["192.168.1.0/24", "198.51.100.0/24"]}, None, "client"),
        ({"client": ["dmz"]}, "client", "client"),
        ({"client": ["@nobody"]}, "client", "client"),
        ({"listener": ["submission", "lan"]}, None, "listener"),
        ({"listener": ["lan"]}, "listener", "listener"),
        ({"user": ["anna"]}, None, "user"),
        ({"user": ["bert"]}, "user", "user"),
        ({"sender": ["*@example.org"]}, None, "sender"),
        ({"sender": ["<>"]}, "sender", None),
        ({"sender_domain": ["@local"]}, None, "sender_domain"),
        ({"recipient": ["B@Partner.Example"]}, None, None),
        ({"recipient": ["*@far.example"]}, "recipient", "recipient"),
        ({"recipient_domain": [".example"]}, None, None),
        ({"recipient_domain": ["far.example"]}, "recipient_domain", "recipient_domain"),
        ({"larger_than_octets": 999}, None, "larger_than_octets"),
        ({"larger_than_octets": 1000}, "larger_than_octets", "larger_than_octets"),
        ({"smaller_than_octets": 1001}, None, None),
        ({"smaller_than_octets": 1000}, "smaller_than_octets", None),
        ({"verdict": ["clean"]}, None, "verdict"),
        ({"verdict": ["denied", "infected"]}, "verdict", "verdict"),
        ({"tag": ["slow", "bulk"]}, None, "tag"),
        ({"tag": ["slow"]}, "tag", "tag"),
        ({"user": ["anna"], "tag": ["slow"]}, "tag", "user"),
    ],
)
def test_what_each_matcher_asks(
    match: dict[str, Any], of_a: str | None, of_nobody: str | None, policy_of: Callable[[str], Policy]
) -> None:
    policy = policy_of("")
    asked = RouteMatch.model_validate(match)
    assert (mismatch(policy, asked, A), mismatch(policy, asked, NOBODY)) == (of_a, of_nobody)


def test_every_key_has_a_matcher() -> None:
    assert list(MATCHERS) == list(RouteMatch.model_fields)


@pytest.mark.parametrize(
    ("path", "said", "expected"),
    [
        ("b@example.org", (), WayOut((LOCAL,), written=(LOCAL,))),
        ("postmaster", (), WayOut((LOCAL,), written=(LOCAL,))),
        ("b@example.org", ("lmtp:unix:/run/lmtp",), WayOut(("lmtp:unix:/run/lmtp",), written=("lmtp:unix:/run/lmtp",))),
        ("b@far.example", (), WayOut((MX,), "far.example")),
        ("b@far.example", ("mx",), WayOut((MX,), "far.example")),
        ("b@far.example", ("provider",), WayOut(("provider",), written=("provider",))),
        ("b@host.example", (), WayOut(("smtp:[192.0.2.1]:25",), "", "host", ("smtp:[192.0.2.1]:25",))),
        ("b@other.example", (), WayOut((MX,), "partner.example", "other", ("smtp:partner.example",))),
        ("b@stays.example", (), WayOut((MX,), "stays.example", "stays")),
        ("b@staged.example", (), WayOut((MX,), "staged.example")),
    ],
)
def test_the_way_out(path: str, said: tuple[str, ...], expected: WayOut, policy_of: Callable[[str], Policy]) -> None:
    policy = policy_of(
        """
routes:
  - {name: host, match: {recipient_domain: host.example}, via: "[192.0.2.1]"}
  - {name: other, match: {recipient_domain: other.example}, via: "smtp:Partner.example"}
  - {name: stays, match: {recipient_domain: stays.example}, via: mx}
  - {name: not-yet, match: {recipient_domain: staged.example}, via: provider, staged: true}
"""
    )
    assert way_out(policy, RouteFacts("", path), said) == expected
