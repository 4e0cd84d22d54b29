"""What a program is given, and what its end means: truth tables."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egressguard.mail.outcome import Result
from egressguard.policy.pipes import Pipe
from egressguard.relay.program import REFUSALS, TROUBLES, arguments, from_line, outcome_of, unfit, with_line_feeds

UUX = Pipe(command=("/usr/bin/uux", "-r", "-a{sender}", "-", "{nexthop}!rmail", "({recipient})"))
GONE, LATER, NEVER = Result.DELIVERED, Result.TRANSIENT, Result.PERMANENT


def test_an_argument_with_a_recipient_comes_once_for_each() -> None:
    words = arguments(UUX, "a@example.org", ["b@x.example", "c@x.example"], "nodeb")
    assert words[2:] == ["-aa@example.org", "-", "nodeb!rmail", "(b@x.example)", "(c@x.example)"]


def test_bounces_have_a_sender_too() -> None:
    assert arguments(UUX, "", ["b@x.example"], "nodeb")[2] == "-a<>"


def test_an_address_is_no_placeholder() -> None:
    words = arguments(UUX, "{recipient}@example.org", ["{nexthop}@x.example"], "{sender}")
    assert words[2:] == ["-a{recipient}@example.org", "-", "{sender}!rmail", "({nexthop}@x.example)"]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("b@x.example", None),
        ("o'brien+tag=x@x.example", None),
        ("a!b%c@x.example", None),
        ("b@[192.0.2.1]", None),
        ("root", None),
        ("-oQ/tmp@x.example", "5.1.3"),
        ('"a b"@x.example', "5.1.3"),
        ("a b@x.example", "5.1.3"),
        ("a\tb@x.example", "5.1.3"),
        ("a\nb@x.example", "5.1.3"),
        ("a\x00b@x.example", "5.1.3"),
        ("a(b)@x.example", "5.1.3"),
        ("`id`@x.example", "5.1.3"),
        ("$HOME@x.example", "5.1.3"),
        ("a|b@x.example", "5.1.3"),
        ("a&b@x.example", "5.1.3"),
        ("a;b@x.example", "5.1.3"),
        ("a>b@x.example", "5.1.3"),
        ("a\\b@x.example", "5.1.3"),
        ("j\u00fcrgen@x.example", "5.6.7"),
    ],
)
def test_what_could_be_taken_for_something_else_is_given_to_no_program(path: str, status: str | None) -> None:
    found = unfit(path)
    assert (found.status if found else None) == status
    assert found is None or found.result is NEVER


def test_the_null_sender_fits() -> None:
    assert unfit("", sender=True) is None


@pytest.mark.parametrize(
    ("status", "output", "expected"),
    [
        (0, b"", (GONE, "2.0.0")),
        (0, b"5.1.1 no", (GONE, "2.0.0")),
        (67, b"", (NEVER, "5.1.1")),
        (67, b"5.2.1 off\nmore", (NEVER, "5.2.1")),
        (67, b"4.2.2 full", (NEVER, "5.1.1")),  # the status decides, words only refine it
        (75, b"4.2.2 full", (LATER, "4.2.2")),
        (75, b"5.2.1 off", (LATER, "4.3.0")),
        (69, b"", (NEVER, "5.3.0")),
        (65, b"\xff\x00", (NEVER, "5.6.0")),
        (64, b"", (LATER, "4.3.5")),
        (78, b"", (LATER, "4.3.5")),
        (1, b"5.1.1 no", (LATER, "4.3.0")),
        (126, b"", (LATER, "4.3.0")),
        (127, b"", (LATER, "4.3.0")),
        (-9, b"", (LATER, "4.3.0")),
        (-15, b"", (LATER, "4.3.0")),
    ],
)
def test_what_an_exit_status_means(status: int, output: bytes, expected: tuple[Result, str]) -> None:
    outcome = outcome_of("p", status, output, took_all=True)
    assert (outcome.result, outcome.status) == expected
    assert outcome.text.isprintable()


@given(st.integers(-64, 255), st.binary(max_size=100), st.booleans())
def test_only_what_speaks_of_the_mail_is_permanent(status: int, output: bytes, took_all: bool) -> None:
    outcome = outcome_of("p", status, output, took_all=took_all)
    assert (outcome.result is NEVER) == (status in REFUSALS)
    assert (outcome.result is GONE) == (status == 0 and took_all)
    assert outcome.status[0] == {GONE: "2", LATER: "4", NEVER: "5"}[outcome.result]


def test_every_status_of_sysexits_has_words() -> None:
    assert sorted([*REFUSALS, *TROUBLES]) == list(range(64, 79))


@given(st.lists(st.sampled_from([b"a", b"\r\n", b"bc\r\n", b"\r\n\r\n"])), st.lists(st.integers(1, 9)))
def test_line_ends_wherever_a_piece_ends(lines: list[bytes], cuts: list[int]) -> None:
    whole = b"".join(lines)
    pieces, rest = [], whole
    for cut in cuts:
        pieces.append(rest[:cut])
        rest = rest[cut:]
    assert b"".join(with_line_feeds([*pieces, rest])) == whole.replace(b"\r\n", b"\n")


def test_the_line_in_front() -> None:
    assert from_line("a@example.org", 0.0) == b"From a@example.org Thu Jan  1 00:00:00 1970\n"
