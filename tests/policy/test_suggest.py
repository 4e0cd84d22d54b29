"""What is suggested allows what was seen, stops the rest, and is a patch that git takes."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from ipaddress import ip_address
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from egressguard.net.flow import Flow
from egressguard.policy.backtest import FlowJudge
from egressguard.policy.facts import Moment
from egressguard.policy.load import parse_rules
from egressguard.policy.model import Policy
from egressguard.policy.recorded import FlowFacts, RecordedFlow
from egressguard.policy.rule_patch import CannotPlace, patch, with_suggestions
from egressguard.policy.suggest import MAX_PAIRS, Suggested, suggest

SITE = """\
site:
  zones:
    lan: {networks: [192.0.2.0/24, "2001:db8:1::/64"]}
    guest: {networks: 198.51.100.0/24}
  journal: {passed_flows: {}}
"""
FLOWS = """\
# The wall.
flows:
  - name: block
    port: 25
    action: reject

  # Submission stays open.
  - name: submission
    from: lan
    port: [465, 587]
    action: allow

  - {name: partner, from: guest, source: 198.51.100.7, port: 2525, action: allow}
"""
FILES = {"flows.yaml": FLOWS, "site.yaml": SITE}


def policy_of(files: dict[str, str]) -> Policy:
    loaded = parse_rules({name: text.encode() for name, text in files.items()})
    assert loaded.policy is not None, loaded.faults
    return loaded.policy


def flow(source: str, destination: str, port: int = 587, action: str = "allow") -> RecordedFlow:
    return RecordedFlow(FlowFacts(Flow(ip_address(source), ip_address(destination), port), action), 3, 1.0, 2.0)


def moment_of(_at: float) -> Moment:
    return Moment(0, 720)


def suggested(policy: Policy, seen: Iterable[RecordedFlow], *, staged: bool = False) -> Suggested:
    return suggest(policy, seen, moment_of, staged=staged)


def action(policy: Policy, each: RecordedFlow) -> str:
    return FlowJudge(policy, moment_of).outcome(each).action


SEEN = [
    flow("192.0.2.10", "203.0.113.26"),
    flow("192.0.2.11", "203.0.113.26"),
    flow("192.0.2.11", "203.0.113.26", 465),
    flow("192.0.2.12", "203.0.113.27"),
    flow("2001:db8:1::10", "2001:db8:100::26"),
    flow("198.51.100.7", "203.0.113.30", 2525),
    flow("198.51.100.9", "203.0.113.31", 2525),
    flow("192.0.2.30", "203.0.113.25", 25, "reject"),
]


def test_what_was_seen_passes_and_nothing_else() -> None:
    policy = policy_of(FILES)
    found = suggested(policy, SEEN)
    after = policy_of(FILES | with_suggestions(FILES, policy, found.suggestions))
    assert [action(after, each) for each in SEEN] == [action(policy, each) for each in SEEN]
    for source, destination, port in [
        ("192.0.2.10", "203.0.113.27", 587),
        ("192.0.2.10", "203.0.113.26", 465),
        ("192.0.2.99", "203.0.113.26", 587),
        ("198.51.100.7", "203.0.113.31", 2525),
        ("198.51.100.8", "203.0.113.31", 2525),
        ("2001:db8:1::10", "2001:db8:100::27", 587),
    ]:
        assert action(policy, flow(source, destination, port)) == "allow"
        assert action(after, flow(source, destination, port)) == "reject"
    assert action(after, flow("192.0.2.99", "203.0.113.26", 443)) == "allow"


def test_hosts_with_the_same_destinations_share_a_rule() -> None:
    found = suggested(policy_of(FILES), SEEN)
    rules = [rule for each in found.suggestions for rule in each.rules if each.before == "submission"]
    assert [(rule["source"], rule["destination"], rule["port"]) for rule in rules[:-1]] == [
        (["192.0.2.11"], ["203.0.113.26"], [465, 587]),
        (["192.0.2.10"], ["203.0.113.26"], [587]),
        (["192.0.2.12"], ["203.0.113.27"], [587]),
        (["2001:db8:1::10"], ["2001:db8:100::26"], [587]),
    ]
    assert rules[-1] == {"name": "not-seen-465-587", "from": ["lan"], "port": [465, 587], "action": "reject"}
    assert found.flows == 3 * 7


def test_a_staged_rest_stops_nobody_yet() -> None:
    policy = policy_of(FILES)
    after = policy_of(FILES | with_suggestions(FILES, policy, suggested(policy, SEEN, staged=True).suggestions))
    assert action(after, flow("192.0.2.99", "203.0.113.26")) == "allow"


@pytest.mark.parametrize(
    "more",
    ["destination: 203.0.113.0/24", "hours: 00:00-24:00", 'source_mac: "00:53:00:00:00:01"', "weekdays: mon-sun"],
)
def test_a_rule_that_is_narrow_or_looks_elsewhere_is_left(more: str) -> None:
    text = FLOWS.replace("port: [465, 587]", f"port: [465, 587]\n    source: 192.0.2.10\n    {more}")
    found = suggested(policy_of({"flows.yaml": text, "site.yaml": SITE}), SEEN[:1])
    assert all(each.before != "submission" for each in found.suggestions)


def test_very_many_are_said_and_not_suggested() -> None:
    many = [flow("192.0.2.10", f"203.0.{number // 250}.{number % 250}") for number in range(MAX_PAIRS + 1)]
    found = suggested(policy_of(FILES), many)
    assert (found.suggestions, found.too_many) == ((), ("submission",))


def test_nothing_seen_suggests_nothing() -> None:
    assert suggested(policy_of(FILES), []).suggestions == ()


def test_comments_stay_with_their_rule_and_no_line_changes() -> None:
    policy = policy_of(FILES)
    after = with_suggestions(FILES, policy, suggested(policy, SEEN).suggestions)
    lines = iter(after["flows.yaml"].splitlines())
    assert all(line in lines for line in FLOWS.splitlines()), "a line is gone, or in another order"
    assert after["flows.yaml"].index("not-seen-465-587") < after["flows.yaml"].index("# Submission stays open.")


@pytest.mark.parametrize("below", ["", "etc/rules"])
@pytest.mark.parametrize("end", ["\n", ""])
def test_git_applies_the_patch(tmp_path: Path, below: str, end: str) -> None:
    files = FILES | {"flows.yaml": FLOWS.rstrip("\n") + end}
    policy = policy_of(files)
    after = with_suggestions(files, policy, suggested(policy, SEEN).suggestions)
    where = tmp_path / below
    where.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (where / name).write_text(text)
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    subprocess.run(["git", "apply", "-"], cwd=where, input=patch(files, after).encode(), check=True)
    assert {name: (where / name).read_text() for name in after} == after
    assert (tmp_path / below / "zz-suggested.yaml").exists()


@pytest.mark.parametrize("text", ["flows: [{name: s, from: lan, port: 587, action: allow}]\n"])
def test_rules_on_one_line_are_no_place(text: str) -> None:
    files = {"flows.yaml": text, "site.yaml": SITE}
    policy = policy_of(files)
    with pytest.raises(CannotPlace, match=r"flows\.yaml:1:"):
        with_suggestions(files, policy, suggested(policy, SEEN[:1]).suggestions)


ADDRESSES = st.sampled_from(["192.0.2.1", "192.0.2.2", "192.0.2.3", "2001:db8:1::1", "198.51.100.1"])
TO = {4: ["203.0.113.1", "203.0.113.2"], 6: ["2001:db8:100::1", "2001:db8:100::2"]}
TRIED = st.tuples(ADDRESSES, st.integers(0, 1), st.sampled_from([25, 465, 587, 2525, 443]))


@settings(deadline=None, max_examples=40)
@given(st.lists(TRIED, max_size=12))
def test_no_pair_that_was_not_seen_is_allowed(tried: list[tuple[str, int, int]]) -> None:
    policy = policy_of(FILES)

    def each(source: str, to: int, port: int) -> RecordedFlow:
        return flow(source, TO[ip_address(source).version][to], port)

    seen = {one for one in tried if action(policy, each(*one)) == "allow"}
    found = suggested(policy, [each(*one) for one in tried])
    after = policy_of(FILES | with_suggestions(FILES, policy, found.suggestions))
    narrowed = any(source.startswith(("192", "2001")) and port in {465, 587} for source, _, port in seen)
    for source in ["192.0.2.1", "192.0.2.2", "192.0.2.3", "2001:db8:1::1"] if narrowed else ():
        for to, port in product((0, 1), (465, 587)):
            assert (action(after, each(source, to, port)) == "allow") is ((source, to, port) in seen)
    assert all(action(after, each(*one)) == "allow" for one in seen)
