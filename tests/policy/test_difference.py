"""What another policy changes, in words: by name, with as few moves as there are."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from egressguard.policy.difference import differences
from egressguard.policy.load import parse_rules
from egressguard.policy.model import Policy

SITE = "site: {zones: {lan: {networks: 10.0.0.0/8}}, sets: {a: [192.0.2.1, 192.0.2.2]}}\n"


def policy(flows: str, site: str = SITE) -> Policy:
    loaded = parse_rules({"a.yaml": f"{site}flows:\n{flows}".encode()})
    assert loaded.policy is not None, loaded.faults
    return loaded.policy


def rule(name: str, more: str = "port: 25, action: reject") -> str:
    return f"  - {{name: {name}, {more}}}\n"


def told(old: Policy | None, new: Policy) -> list[tuple[str, str, str]]:
    return [(change.what, change.section, change.name) for change in differences(old, new)]


def test_rules_by_name() -> None:
    old = policy(rule("a") + rule("b") + rule("c"))
    new = policy(rule("d") + rule("c") + rule("a", "port: 26, action: reject"))

    found = {(change.what, change.name): change.words for change in differences(old, new)}

    assert set(found) >= {("removed", "b"), ("added", "d"), ("changed", "a")}
    assert len(set(found) & {("moved", "a"), ("moved", "c")}) == 1 and len(found) == 4
    assert found["changed", "a"] == "port 25 -> 26"


def test_what_a_route_asks_and_where_it_leads() -> None:
    def routed(route: str) -> Policy:
        return policy(rule("a") + f"routes: [{{name: r, {route}}}]\n")

    old = routed("match: {recipient_domain: x.example, verdict: clean}, via: mx")
    new = routed('match: {recipient_domain: y.example, user: anna}, via: ["[192.0.2.1]:2525", "lmtp:unix:/l"]')
    (change,) = differences(old, new)
    assert (change.what, change.section, change.name) == ("changed", "routes", "r")
    assert change.words.split(", match.") == [
        "match.user nothing -> anna",
        "recipient_domain x.example -> y.example",
        "verdict clean -> nothing, via mx -> [192.0.2.1]:2525, lmtp:unix:/l",
    ]


def test_nothing_changes_between_equals_and_all_is_new_to_nothing() -> None:
    assert told(policy(rule("a")), policy(rule("a"))) == []
    assert ("added", "flows", "a") in told(None, policy(rule("a")))


def test_the_site_key_by_key() -> None:
    new = policy(rule("a"), SITE.replace("192.0.2.2", "192.0.2.3, 192.0.2.4").replace("10.0.0.0/8", "10.0.0.0/9"))

    found = {change.name: change.words for change in differences(policy(rule("a")), new)}

    assert found["sets.a"] == "+2 (192.0.2.3/32, 192.0.2.4/32), -1 (192.0.2.2/32)"
    assert "zones.lan.networks" in found


@given(st.permutations(list("abcdef")), st.permutations(list("abcdef")))
def test_what_is_not_moved_keeps_its_order(before: list[str], after: list[str]) -> None:
    changes = told(policy("".join(map(rule, before))), policy("".join(map(rule, after))))
    moved = {name for what, _, name in changes if what == "moved"}
    assert [n for n in before if n not in moved] == [n for n in after if n not in moved]
    assert (before == after) == (not moved)
