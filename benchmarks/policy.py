"""How fast the rules decide, and what rules cost that have nothing to do with a flow or a message.

    .venv/bin/python benchmarks/policy.py [--quick]

One process, one core, nothing but policy: the made-up site of benchmarks/policy_site.py with 10 to 5000 mixed rules.
There is no peer: `peer` is the target. `*_growth` is how much longer a decision takes with 5000 rules than with 10
(target: 500 times the rules cost 3 times as much at the most); `check_site` is `egressguard check` and `egressguard
test` on tests/sites/campus, start of the interpreter included; `diff` is what `egressguard diff` works out of two
revisions of 500 flow rules and 500 message rules, five of each changed; `backtest` is a journal of half a million
messages and half a million classes of flows (20,000 different ones of each, over a week) decided again by two
processes, under the same 500 and 500 rules, limits counted anew; `prove_shipped` and `prove_site` are
`egressguard prove` on the shipped rules and on 500 flow rules with two lists of 20,000 prefixes, nft and the start of
the interpreter included. The last line is JSON; a ratio over 1 means that ours is better than the target.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.policy_past import write_past
from benchmarks.policy_site import changed, flows, messages, rule_files
from egressguard.app.backtest import backtest
from egressguard.app.places import Places
from egressguard.policy.difference.whole import compare
from egressguard.policy.flows import Surroundings, decide_flow
from egressguard.policy.load import parse_rules
from egressguard.policy.mail import decide_envelope, decide_mail
from egressguard.policy.model import Policy

ROOT = Path(__file__).parents[1]
CAMPUS = ROOT / "tests" / "sites" / "campus"
COUNTS = (10, 100, 1000, 5000)
ROUNDS = 5
PROGRAM = Path(sys.executable).with_name("egressguard")
PAST_ROWS, PAST_DIFFERENT, PAST_SECONDS = 1_000_000, 20_000, 60.0
Subject = TypeVar("Subject")

FLOWS_A_SECOND, MESSAGES_A_SECOND = 200_000, 20_000
CHECK_SECONDS = 3.0
DIFF_SECONDS = 30.0
PROVE_SECONDS, PROVE_SITE_SECONDS = 5.0, 60.0
GROWTH = 3.0


def case(ours: float, target: float, unit: str, *, more_is_better: bool) -> dict[str, Any]:
    ratio = ours / target if more_is_better else target / ours
    return {"ours": round(ours, 4), "peer": target, "ratio": round(ratio, 3), "unit": unit}


def load(files: dict[str, bytes]) -> Policy:
    policy = parse_rules(files).policy
    assert policy is not None
    return policy


def decisions_a_second(decide: Callable[[Subject], object], subjects: Sequence[Subject]) -> float:
    """The best of some rounds: the machine's other work only ever slows a round down."""
    best = 0.0
    for _ in range(ROUNDS):
        started = time.perf_counter()
        for subject in subjects:
            decide(subject)
        best = max(best, len(subjects) / (time.perf_counter() - started))
    return best


def decisions(subjects: int) -> dict[str, dict[str, Any]]:
    many_flows, many_messages, surroundings = flows(subjects), messages(subjects // 4), Surroundings()
    found: dict[str, dict[int, float]] = {"flow": {}, "message": {}, "envelope": {}}
    for count in COUNTS:
        policy = load(rule_files(flow_count=count, mail_count=count, listed=20_000))
        found["flow"][count] = decisions_a_second(lambda flow: decide_flow(policy, flow, surroundings), many_flows)  # noqa: B023
        found["message"][count] = decisions_a_second(lambda facts: decide_mail(policy, facts), many_messages)  # noqa: B023
        found["envelope"][count] = decisions_a_second(lambda facts: decide_envelope(policy, facts), many_messages)  # noqa: B023
        for what, by_count in found.items():
            print(f"{what:<9}{count:5} rules: {by_count[count]:9.0f} decisions/s", file=sys.stderr)
    targets = {"flow": FLOWS_A_SECOND, "message": MESSAGES_A_SECOND, "envelope": MESSAGES_A_SECOND}
    results = {}
    for what, by_count in found.items():
        results[f"{what}_decisions"] = case(by_count[1000], targets[what], "decisions/s", more_is_better=True)
        for count in COUNTS:
            if count != 1000:
                results[f"{what}_decisions_{count}"] = case(
                    by_count[count], targets[what], "decisions/s", more_is_better=True
                )
        growth = by_count[COUNTS[0]] / by_count[COUNTS[-1]]
        results[f"{what}_growth"] = case(growth, GROWTH, "times", more_is_better=False)
    return results


def check_site() -> dict[str, dict[str, Any]]:
    """Both commands, as an administrator types them before a commit."""
    best = float("inf")
    for _ in range(ROUNDS):
        started = time.perf_counter()
        for command in ("check", "test"):
            subprocess.run([str(PROGRAM), command, str(CAMPUS)], check=True, stdout=subprocess.DEVNULL)
        best = min(best, time.perf_counter() - started)
    print(f"check and test of {CAMPUS.name}: {best:.2f} s", file=sys.stderr)
    return {"check_site": case(best, CHECK_SECONDS, "seconds", more_is_better=False)}


def diff() -> dict[str, dict[str, Any]]:
    """From two loaded policies to the list of changes. They are loaded anew for each round: nothing is kept."""
    before = rule_files(flow_count=500, mail_count=500, listed=20_000)
    after = before | {name: changed(before[name]) for name in ("20-flows.yaml", "30-mail.yaml")}
    best, told = float("inf"), 0
    for _ in range(ROUNDS):
        old, new = load(before), load(after)
        started = time.perf_counter()
        found = compare(old, new)
        best, told = min(best, time.perf_counter() - started), len(found.changes)
        assert found.is_whole
    print(f"diff of two revisions with 500 + 500 rules: {told} changes, {best:.2f} s", file=sys.stderr)
    return {"diff": case(best, DIFF_SECONDS, "seconds", more_is_better=False)}


def past(rows: int) -> dict[str, dict[str, Any]]:
    """The same rules: nothing may change. A shorter past has a shorter target."""
    policy = load(rule_files(flow_count=500, mail_count=500, listed=20_000))
    with tempfile.TemporaryDirectory() as folder:
        places = Places(Path(folder), Path(folder) / "state", Path(folder))
        write_past(places, policy, mail_rows=rows // 2, flow_rows=rows // 2, distinct=min(PAST_DIFFERENT, rows // 10))
        started = time.perf_counter()
        tally = backtest(policy, places, since=0.0)
        took = time.perf_counter() - started
    assert tally.is_same and sum(tally.judged.values()) == rows, tally.summary()
    print(f"backtest: {rows} decisions again in {took:.1f} s", file=sys.stderr)
    return {"backtest": case(took, PAST_SECONDS * rows / PAST_ROWS, "seconds", more_is_better=False)}


def prove() -> dict[str, dict[str, Any]]:
    """As an administrator types it, once each: rendering, nft, reading back, and all proofs. Long sets need root."""
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, content in rule_files(flow_count=500, mail_count=100, listed=20_000).items():
            path = Path(folder, name)
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
        for what, rules, target in (
            ("prove_shipped", ROOT / "rules", PROVE_SECONDS),
            ("prove_site", Path(folder), PROVE_SITE_SECONDS),
        ):
            started = time.perf_counter()
            subprocess.run([str(PROGRAM), "prove", str(rules)], check=True, stdout=subprocess.DEVNULL)
            seconds = time.perf_counter() - started
            print(f"{what}: {seconds:.2f} s", file=sys.stderr)
            results[what] = case(seconds, target, "seconds", more_is_better=False)
    return results


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer flows and messages")
    options = parser.parse_args()
    results = decisions(4_000 if options.quick else 40_000) | check_site() | diff()
    results |= past(PAST_ROWS // 20 if options.quick else PAST_ROWS)
    results |= prove()
    print(json.dumps({"benchmark": "policy", "results": results}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
