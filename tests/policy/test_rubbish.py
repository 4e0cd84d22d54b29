"""Whatever the octets: a policy or located faults, never an exception, in bounded time, and every fault can be shown.

EGRESSGUARD_FUZZ is how many damaged rule directories are tried (`make fuzz`)."""

from __future__ import annotations

import os
import random
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from egressguard.net.flow import Flow
from egressguard.policy.facts import MailFacts, ScanReport
from egressguard.policy.flows import Surroundings, decide_flow
from egressguard.policy.load import Loaded, parse_rules, render_faults
from egressguard.policy.mail import decide_envelope, decide_mail
from egressguard.policy.model import Policy
from egressguard.policy.verdict import Verdict
from tests.policy import language, mutations

ROOT = Path(__file__).parents[2]
TRIES = int(os.environ.get("EGRESSGUARD_FUZZ", "200"))
BATCHES = 8


def read(directory: Path) -> dict[str, bytes]:
    paths = [path for path in sorted(directory.rglob("*")) if path.suffix in {".yaml", ".txt"}]
    return {str(path.relative_to(directory)): path.read_bytes() for path in paths if "expect" not in path.parts}


SHIPPED = read(ROOT / "rules")
EXAMPLE = read(ROOT / "docs/example")
EVERY_KEY = {"everything.yaml": language.in_blocks(language.everything()), **language.LISTED}
CORPUS = [(SHIPPED, ""), (EXAMPLE, ""), (EXAMPLE, "north"), (EVERY_KEY, "")]


def well_behaved(files: dict[str, bytes], site: str = "") -> Loaded:
    loaded = parse_rules(files, site)
    shown = render_faults(loaded.faults, files)
    assert (loaded.policy is None) == bool(loaded.faults)
    assert list(loaded.faults) == sorted(set(loaded.faults))
    for fault in loaded.faults:
        assert fault.file in files or fault.file in {"(rules)", f"sites/{site}"}
        lines = files.get(fault.file, b"").decode("utf-8-sig", "replace").splitlines()
        assert 1 <= fault.line <= len(lines) + 1 and fault.column >= 1
        assert "expected" in fault.message or "was not read" in fault.message, fault
        assert len(fault.message) < 1000
    assert shown.count("\n") <= 3 * len(loaded.faults)
    if loaded.policy is not None:
        decides(loaded.policy)
    return loaded


def decides(policy: Policy) -> None:
    """A policy that was taken answers every question."""
    client = ip_address("192.168.1.70")
    facts = MailFacts(client, "lan", reverse_path="printer@example.org", forward_path="a@b.example")
    decide_envelope(policy, facts)
    decide_mail(policy, facts)
    decide_mail(policy, MailFacts(client, "lan", size_octets=10, headers={}, scan=ScanReport(Verdict.CLEAN, (), ())))
    decide_flow(policy, Flow(client, ip_address("203.0.113.9"), 25, "eth0"), Surroundings())


@pytest.mark.parametrize(("files", "site"), CORPUS, ids=["shipped", "example", "example-north", "every-key"])
def test_what_is_damaged_below_is_good_before(files: dict[str, bytes], site: str) -> None:
    assert [str(fault) for fault in well_behaved(files, site).faults] == []


@pytest.mark.parametrize("batch", range(BATCHES))
def test_damaged_rules_are_a_policy_or_faults(batch: int) -> None:
    for seed in range(batch, TRIES, BATCHES):
        chance = random.Random(seed)
        files, site = chance.choice(CORPUS)
        try:
            well_behaved(mutations.damaged(chance, files), site)
        except Exception as wrong:
            raise AssertionError(f"seed {seed}") from wrong


WORDS = """
site flows mail limits routes devices include variables zones sets relay listeners name match action port via client
networks interfaces tls auth device retry scan access metrics from source limit tag header add_header per hours x
"""
KEYS = st.sampled_from(WORDS.split())
TEXTS = [
    "lan",
    "@inside",
    "10.0.0.0/8",
    "${x}",
    "${",
    "file:a.yaml",
    "b.yaml",
    "../a.yaml",
    "mon-fri",
    "accept",
    "host",
]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.sampled_from(TEXTS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


def flow_style(value: object) -> str:
    """A value as YAML in flow style, all text quoted."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {flow_style(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(flow_style, value)) + "]"
    if isinstance(value, str):
        return "'" + value.replace("'", "''").replace("\n", " ") + "'"
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else str(value)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(["a.yaml", "b.yaml", "sites/n/a.yaml"]), st.binary(max_size=200)))
def test_random_octets_are_faults(files: dict[str, bytes]) -> None:
    assert well_behaved(files, "n").policy is None


@settings(max_examples=max(300, TRIES), deadline=None)
@given(st.dictionaries(KEYS, VALUES, max_size=5), st.dictionaries(KEYS, VALUES, max_size=3))
def test_well_written_nonsense_is_explained(base: dict[str, object], overlay: dict[str, object]) -> None:
    files = {"a.yaml": flow_style(base), "sites/n/a.yaml": flow_style(overlay), "b.yaml": "variables: {x: [y]}"}
    well_behaved({name: text.encode("utf-8", "replace") for name, text in files.items()}, "n")


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_the_shipped_rules_cut_anywhere_are_a_policy_or_faults(name: str) -> None:
    content = SHIPPED[name]
    for length in range(0, len(content), max(1, len(content) // 40)):
        well_behaved({**SHIPPED, name: content[:length]})


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_the_shipped_rules_without_any_one_line_are_a_policy_or_faults(name: str) -> None:
    lines = SHIPPED[name].splitlines(keepends=True)
    for index, line in enumerate(lines):
        if not line.lstrip().startswith(b"#"):
            well_behaved({**SHIPPED, name: b"".join(lines[:index] + lines[index + 1 :])})
