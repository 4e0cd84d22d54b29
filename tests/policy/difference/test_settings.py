"""What no rule decides: key by key, and nothing where only names are others."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from egressguard.policy.difference.settings import setting_changes
from tests.policy.difference.sites import BASE, load

Edit = Callable[[dict[str, Any]], object]


def told(edit: Edit) -> list[tuple[str, str, str, str]]:
    rules = copy.deepcopy(BASE)
    edit(rules)
    changes = setting_changes(load(BASE), load(rules))
    return [(change.part, change.which, change.before, change.after) for change in changes]


def rename_host(rules: dict[str, Any]) -> None:
    hosts = rules["site"]["smart_hosts"]
    hosts["isp"] = hosts.pop("provider")
    rules["routes"][1]["via"] = ["isp", "backup"]


@pytest.mark.parametrize(
    ("edit", "change"),
    [
        (lambda r: r["site"].update(dnssec=True, resolvers="127.0.0.1"), ("site", "dnssec", "false", "true")),
        (lambda r: r["site"]["relay"].update(max_hops=30), ("site", "relay.max_hops", "50", "30")),
        (
            lambda r: r["site"]["smart_hosts"]["provider"].update(port=465),
            ("site", "smart_hosts.provider.port", "587", "465"),
        ),
        (rename_host, ("site", "smart_hosts", "provider", "isp")),
        (
            lambda r: r["site"].update(domains=["example.org", "b.example"]),
            ("site", "domains", "example.org", "example.org, b.example"),
        ),
        (
            lambda r: r["site"]["zones"]["guests"].update(networks="192.168.8.0/24"),
            (
                "site",
                "networks of the zones, all together",
                "10.0.0.0/8, fd00::/8, 192.168.7.0/24",
                "10.0.0.0/8, fd00::/8, 192.168.8.0/24",
            ),
        ),
        (
            lambda r: r["site"]["zones"]["guests"].update(interfaces="wlan1"),
            ("site", "interfaces of the zones, all together", "@inside, wlan0", "@inside, wlan1"),
        ),
        (
            lambda r: r["limits"][0].update(messages_per_hour=9),
            ("limits", "limit per-user", "per user: messages_per_hour 100", "per user: messages_per_hour 9"),
        ),
        (
            lambda r: r.update(invariants=[{"name": "i", "never": {"from": "lan", "port": 25}}]),
            ("invariants", "i", "not promised", "never {from lan, protocol tcp, port 25}"),
        ),
    ],
)
def test_a_setting_is_told(edit: Edit, change: tuple[str, str, str, str]) -> None:
    assert change in told(edit)


@pytest.mark.parametrize(
    "edit",
    [
        lambda r: r["site"]["sets"].update(unused=["192.0.2.1"]),
        lambda r: r["site"]["zones"].update(offices={"networks": "10.1.0.0/16"}),
        lambda r: r["limits"].append({"name": "nobody", "per": "host", "messages_per_hour": 1}),
        lambda r: r["limits"][0].update(note="for the reader"),
        lambda r: r["site"]["relay"].update(max_hops=50),
    ],
)
def test_what_means_the_same_is_silent(edit: Edit) -> None:
    assert told(edit) == []


def test_of_a_long_list_what_came_and_went_is_told() -> None:
    names = [f"d{number}.example" for number in range(20)]
    rules = copy.deepcopy(BASE)
    rules["site"]["domains"] = names
    old = load(rules)
    rules["site"]["domains"] = [*names[1:], "new.example"]
    (change,) = setting_changes(old, load(rules))
    assert (change.before, change.after) == ("20 of them, less d0.example", "20 of them, more: new.example")
