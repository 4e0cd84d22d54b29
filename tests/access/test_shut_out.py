from __future__ import annotations

import pytest

from egressguard.access import shut_out
from egressguard.access.shut_out import Guesses

ONE, OTHER = "192.0.2.7", "192.0.2.8"


def guesses(failures=3):
    return Guesses(failures, 600, 900)


@pytest.mark.parametrize(
    ("failed", "shut_at_the_last"),
    [
        ([(0, ONE, 1), (1, ONE, 1)], False),
        ([(0, ONE, 1), (1, ONE, 1), (2, ONE, 1)], True),
        ([(0, ONE, 3)], True),
        ([(0, ONE, 999)], True),
        ([(0, ONE, 2), (600, ONE, 2)], False),
        ([(0, ONE, 2), (599, ONE, 1)], True),
        ([(0, ONE, 2), (1, OTHER, 2)], False),
        ([(0, "2001:db8::1", 2), (1, "2001:db8::2", 1)], True),
        ([(0, "2001:db8::1", 2), (1, "2001:db8:0:1::1", 1)], False),
        ([(0, "::ffff:192.0.2.7", 2), (1, ONE, 1)], True),
        ([(0, "no address", 99)], False),
        ([(0, "", 99)], False),
    ],
)
def test_too_many_within_the_time_shut_a_client_out(failed, shut_at_the_last):
    counted = guesses()
    answers = [counted.failed(address, attempts, now) for now, address, attempts in failed]

    assert answers == [False] * (len(failed) - 1) + [shut_at_the_last]
    assert bool(counted.shut(failed[-1][0])) is shut_at_the_last


def test_it_ends_in_time_whatever_the_client_does_meanwhile():
    counted = guesses()
    assert counted.failed(ONE, 3, 0)
    assert not counted.failed(ONE, 99, 450)

    assert counted.shut(899) == [ONE]
    assert counted.shut(900) == []
    assert not counted.failed(ONE, 2, 900)
    assert counted.failed(ONE, 1, 901)


def test_each_address_of_an_ipv6_client_is_shut_out_as_soon_as_it_is_seen():
    counted = guesses()
    counted.failed("2001:db8::1", 3, 0)
    assert not counted.failed("2001:db8::2", 1, 1)

    assert counted.shut(2) == ["2001:db8::1", "2001:db8::2"]


def test_what_is_remembered_is_bounded(monkeypatch):
    monkeypatch.setattr(shut_out, "REMEMBERED", 10)
    monkeypatch.setattr(shut_out, "ADDRESSES_OF_ONE", 4)
    counted = guesses()
    for number in range(100):
        counted.failed(f"2001:db8::{number:x}", 3, 0)
    assert len(counted.shut(1)) == 4
    for number in range(100):
        counted.failed(f"192.0.2.{number}", 3, 0)
    assert len(counted.shut(1)) == 10
