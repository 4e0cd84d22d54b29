"""YAML without surprises: every slip has a place, no octets make it raise, and limits hold."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egressguard.policy.document import MAX_DEPTH, MAX_FAULTS, MAX_OCTETS, MAX_VALUES, parse_document


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("on", "on"),
        ("yes", "yes"),
        ("22:22", "22:22"),
        ("0755", "0755"),
        ("0o17", "0o17"),
        ("0x10", "0x10"),
        ("1e3", "1e3"),
        ("1.5", "1.5"),
        ("1_000", "1_000"),
        ("+5", "+5"),
        ("2026-01-01", "2026-01-01"),
        (".inf", ".inf"),
        ("True", "True"),
        ("25", 25),
        ("-1", -1),
        ("0", 0),
        ("9" * 18, int("9" * 18)),
        ("9" * 5000, "9" * 5000),
        ("true", True),
        ("false", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("'25'", "25"),
        ('"true"', "true"),
        ("[]", []),
        ("{}", {}),
        ("192.168.1.1", "192.168.1.1"),
        ("[fd00::1, 25]", ["fd00::1", 25]),
    ],
)
def test_only_json_like_words_are_more_than_text(text: str, value: object) -> None:
    document = parse_document("f", f"key: {text}\n".encode())
    assert document.faults == [] and document.value == {"key": value}
    assert type(document.value["key"]) is type(value)


def test_values_and_keys_know_where_they_stood() -> None:
    document = parse_document("f", b"# head\nsite:\n  sets:\n    a: [one, two]\n")
    assert document.places["site", "sets", "a", 1] == (4, 14)
    assert document.key_places["site", "sets"] == (3, 3)
    assert document.place(("site", "sets", "a", 7)) == (4, 8)  # the nearest parent


@pytest.mark.parametrize("content", [b"", b"\n", b"# nothing\n", b"---\n", b"--- \n...\n", b"\xef\xbb\xbf# mark\n"])
def test_a_file_without_values_says_nothing(content: bytes) -> None:
    document = parse_document("f", content)
    assert document.faults == [] and document.value == {}


@pytest.mark.parametrize(
    ("content", "place", "words"),
    [
        (b"a: 1\na: 2\n", (2, 1), "stands twice; the first is at 1:1"),
        (b"a: {b: 1, b: 2}\n", (1, 11), "stands twice"),
        (b"a: !!str 25\n", (1, 4), "a tag"),
        (b"a: !!python/object/apply:os.system [x]\n", (1, 4), "a tag"),
        (b"a: ! 25\n", (1, 4), "a tag"),
        (b"!x a: 25\n", (1, 1), "not plain text"),
        (b"a: &x [1]\nb: *x\n", (2, 4), "an alias"),
        (b"a: &x [*x]\n", (1, 8), "an alias"),
        (b"? [1, 2]\n: 3\n", (1, 3), "not plain text"),
        (b"a: 1\n---\nb: 2\n", (2, 1), "second document"),
        (b"- a\n", (1, 1), "expected a mapping of sections"),
        (b"text\n", (1, 1), "expected a mapping of sections"),
        (b"a: [1, 2\n", (2, 1), "not YAML"),
        (b"a: @lan\n", (1, 4), "needs quotes"),
        (b"a: *@example.org\n", (1, 5), "needs quotes"),
        (b"a:\n\tb: 1\n", (2, 1), "not tabs"),
        (b"a: 1\nb: \x00\n", (2, 4), "U+0000"),
        (b"a: 1\nb: x\x1b[31m\n", (2, 5), "U+001B"),
        ("a: 1\nb: x\u2028c: 2\n".encode(), (2, 5), "U+2028"),
        (b"a: 1\nb: \xff\n", (2, 4), "0xff is not UTF-8"),
        ("ä: é\nb: ".encode() + b"\xc3", (2, 4), "0xc3 is not UTF-8"),
        ("a: 1".encode("utf-16"), (1, 1), "not UTF-8"),
    ],
)
def test_what_is_not_plain_yaml_is_a_fault_at_its_place(content: bytes, place: tuple[int, int], words: str) -> None:
    fault = parse_document("f", content).faults[0]
    assert (fault.line, fault.column) == place
    assert words in fault.message


def test_every_duplicate_is_told_in_one_go() -> None:
    faults = parse_document("f", b"a: 1\na: 2\nb: {c: 1, c: 2}\nb: 3\n").faults
    assert [(f.line, f.column) for f in faults] == [(2, 1), (3, 11), (4, 1)]


def test_a_file_over_the_limit_is_not_looked_into() -> None:
    fits, too_large = b"#" * MAX_OCTETS, b"#" * (MAX_OCTETS + 1)
    assert parse_document("f", fits).faults == []
    assert "expected at most" in parse_document("f", too_large).faults[0].message


def nested(levels: int) -> bytes:
    return b"a: " + b"[" * levels + b"]" * levels


def test_depth_has_a_limit() -> None:
    assert parse_document("f", nested(MAX_DEPTH)).faults == []
    assert "nested too deep" in parse_document("f", nested(MAX_DEPTH + 1)).faults[0].message


@pytest.mark.parametrize("unit", [b"[", b"{a: ", b"- ", b"? ", b"a:\n "])
def test_a_nesting_bomb_ends_in_a_fault_and_not_in_a_dead_process(unit: bytes) -> None:
    program = (
        "import sys; from egressguard.policy.document import parse_document;"
        "print(parse_document('f', sys.stdin.buffer.read()).faults[0])"
    )
    bomb = b"a:\n  " + unit * 200_000
    done = subprocess.run([sys.executable, "-c", program], input=bomb, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.returncode
    assert done.stdout.startswith(b"f:")


def test_an_alias_bomb_costs_nothing() -> None:
    rows = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    rows += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 30)]
    document = parse_document("f", "\n".join(rows).encode())
    assert len(document.faults) == MAX_FAULTS + 1
    assert "the rest was not read" in document.faults[-1].message


def test_the_costliest_file_is_bounded_in_time_and_memory() -> None:
    """Without the limit it takes minutes, which pytest's own limit ends, and more than a gigabyte."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    document = parse_document("f", b"a: [" + b"a," * (MAX_OCTETS // 2 - 10) + b"]")
    assert f"at most {MAX_VALUES}" in document.faults[0].message
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 * 1024


@given(st.binary(max_size=300))
def test_no_octets_make_it_raise(content: bytes) -> None:
    document = parse_document("f", content)
    assert all(fault.line >= 1 and fault.column >= 1 for fault in document.faults)


@given(st.text(alphabet="ab:-[]{}?!&*#|>%@`'\"\\ \t\n,0~", max_size=60))
def test_no_punctuation_makes_it_raise(text: str) -> None:
    document = parse_document("f", text.encode())
    lines = len(text.splitlines()) + 1
    assert all(1 <= fault.line <= lines for fault in document.faults)
