"""Whatever the octets: a policy or located faults, never an exception, and every fault can be shown."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from egressguard.policy.load import Loaded, parse_rules, render_faults

SHIPPED = {path.name: path.read_bytes() for path in sorted(Path(__file__).parents[2].glob("rules/*.yaml"))}
SNIPPETS = [b"'", b'"', b"[", b"{", b"- ", b"*", b"&a ", b"!x ", b"@", b"\t", b"\x00", b"\xff", b"~", b"-1", b"9" * 40]
SNIPPETS += [b"null", b"true", b": ", b"\n", b"---\n", b"#", b"mail:", b"name: ", b"\r", b"\xe2\x80\xa8", b"0.0.0.0/0"]


def well_behaved(files: dict[str, bytes]) -> Loaded:
    loaded = parse_rules(files)
    assert (loaded.policy is None) == bool(loaded.faults)
    assert list(loaded.faults) == sorted(set(loaded.faults))
    for fault in loaded.faults:
        assert fault.file in files or fault.file == "(rules)"
        lines = files.get(fault.file, b"").decode("utf-8-sig", "replace").splitlines()
        assert 1 <= fault.line <= len(lines) + 1 and fault.column >= 1
        assert fault.message and len(fault.message) < 1000
    assert render_faults(loaded.faults, files).count("\n") <= 3 * len(loaded.faults)
    return loaded


WORDS = """
site flows mail routes devices zones sets relay listeners name match action port via client networks interfaces
tls auth device retry scan access metrics from source x
"""
KEYS = st.sampled_from(WORDS.split())
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.sampled_from(["lan", "@inside", "10.0.0.0/8"]),
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


@given(st.dictionaries(st.sampled_from(["a.yaml", "b.yaml"]), st.binary(max_size=200)))
def test_random_octets_are_faults(files: dict[str, bytes]) -> None:
    assert well_behaved(files).policy is None


@settings(max_examples=300)
@given(st.dictionaries(KEYS, VALUES, max_size=5))
def test_well_written_nonsense_is_explained(value: dict[str, object]) -> None:
    well_behaved({"a.yaml": flow_style(value).encode("utf-8", "replace")})


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(SHIPPED)), st.randoms(use_true_random=False))
def test_the_shipped_rules_with_typing_slips_are_a_policy_or_faults(name: str, chance: random.Random) -> None:
    content = bytearray(SHIPPED[name])
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(content))
        content[at : at + chance.choice([0, 0, 1, 5])] = chance.choice([*SNIPPETS, b""])
    well_behaved({**SHIPPED, name: bytes(content)})


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
