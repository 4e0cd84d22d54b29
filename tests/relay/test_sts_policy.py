"""MTA-STS records and policies: the examples of RFC 8461, and what is neither."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from egressguard.relay.sts_policy import PATTERNS, POLICY_OCTETS, StsPolicy, parse_policy, record_id

GOOD = "version: STSv1\r\nmode: enforce\r\nmx: mail.example.com\r\nmx: *.example.net\r\nmax_age: 604800\r\n"


@pytest.mark.parametrize(
    ("texts", "found"),
    [
        ([b"v=STSv1; id=20160831085700Z;"], "20160831085700Z"),
        ([b"v=STSv1;id=1"], "1"),
        ([b"v=STSv1; id=1; ext=yes;"], "1"),
        ([b"v=STSv1; ext=yes; id=1"], "1"),
        ([b"v=spf1 -all", b"v=STSv1; id=1;"], "1"),
        ([], None),
        ([b"v=STSv1; id=1;", b"v=STSv1; id=2;"], None),
        ([b"v=STSv1;"], None),
        ([b"v=STSv1; id="], None),
        ([b"v=STSv1; id=a b"], None),
        ([b"v=STSv1; id=" + b"a" * 33], None),
        ([b"v=STSv1; id=a-b"], None),
        ([b"V=STSv1; id=1"], None),
        ([b"v=STSv2; id=1"], None),
        ([b"v=STSv1; id=1\xff"], None),
    ],
)
def test_the_record(texts: list[bytes], found: str | None) -> None:
    assert record_id(texts) == found


def test_a_policy() -> None:
    assert parse_policy(GOOD.encode()) == StsPolicy("enforce", 604800, ("mail.example.com", "*.example.net"))


@pytest.mark.parametrize(
    ("text", "mode"),
    [
        (GOOD.replace("\r\n", "\n"), "enforce"),
        (GOOD.rstrip(), "enforce"),
        (GOOD + "\r\n", "enforce"),
        (GOOD.replace(": ", ":"), "enforce"),
        (GOOD.replace(": ", " : "), "enforce"),
        (GOOD + "future: thing\r\n", "enforce"),
        (GOOD + "mode: none\r\n", "enforce"),
        (GOOD.replace("enforce", "testing"), "testing"),
        ("version: STSv1\nmode: none\nmax_age: 86400\n", "none"),
    ],
)
def test_what_is_a_policy(text: str, mode: str) -> None:
    policy = parse_policy(text.encode())
    assert policy is not None and policy.mode == mode


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<html>",
        GOOD.replace("STSv1", "STSv2"),
        GOOD.replace("version: STSv1\r\n", ""),
        GOOD.replace("enforce", "Enforce"),
        GOOD.replace("mode: enforce\r\n", ""),
        GOOD.replace("604800", "-1"),
        GOOD.replace("604800", "31557601"),
        GOOD.replace("604800", "1e9"),
        GOOD.replace("max_age: 604800\r\n", ""),
        "version: STSv1\nmode: enforce\nmax_age: 86400\n",
        GOOD.replace("*.example.net", "mx.*.net"),
        GOOD.replace("*.example.net", "*"),
        GOOD.replace("*.example.net", ".example.net"),
        GOOD.replace("*.example.net", "a b"),
        GOOD + "no field\r\n",
        GOOD + "mx: mail.example.com\r\n" * 0 + "".join(f"mx: m{n}.example\r\n" for n in range(PATTERNS)),
        GOOD + "x: " + "y" * POLICY_OCTETS,
    ],
)
def test_what_is_no_policy(text: str) -> None:
    assert parse_policy(text.encode()) is None


def test_octets_that_are_no_text_are_no_policy() -> None:
    assert parse_policy(GOOD.encode() + b"x: \xff\r\n") is None


@pytest.mark.parametrize(
    ("host", "listed"),
    [
        ("mail.example.com", True),
        ("MAIL.example.com.", True),
        ("a.mail.example.com", False),
        ("mx.example.net", True),
        ("example.net", False),
        ("a.mx.example.net", False),
        ("example.com", False),
    ],
)
def test_hosts_that_a_policy_lists(host: str, listed: bool) -> None:
    policy = parse_policy(GOOD.encode())
    assert policy is not None and policy.lists(host) == listed


def test_its_lines_say_the_same_again() -> None:
    policy = parse_policy(GOOD.encode())
    assert policy is not None and parse_policy("\n".join(policy.lines).encode()) == policy


LINES = st.sampled_from(
    ["version: STSv1", "mode: enforce", "mode: none", "mx: *.a.example", "max_age: 60", "", ":", "\r"]
)


@given(st.one_of(st.binary(max_size=200), st.lists(LINES, max_size=12).map("\n".join).map(str.encode)))
@settings(max_examples=200, deadline=None)
def test_octets_never_raise_and_what_is_a_policy_can_be_written_again(octets: bytes) -> None:
    record_id([octets])
    policy = parse_policy(octets)
    assert policy is None or parse_policy("\n".join(policy.lines).encode()) == policy
