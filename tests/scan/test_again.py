"""Clamd asked again: only "OK" means that there is nothing, and a clamd that is of no use is left alone."""

from __future__ import annotations

import pytest

from egressguard.scan.again import ClamdAgain
from tests.scan.test_clamd_session import answers, clients_get, file_of, hear


@pytest.mark.parametrize(
    ("said", "is_nothing", "stays_of_use"),
    [
        (b"1: fd[7]: OK\0", True, True),
        (b"1: fd[7]: Worm FOUND\0", False, True),
        (b"1: fd[7]: Can't open file or directory ERROR\0", False, False),
        (b"1: fd[7]: OK, or not\0", False, False),
        (b"no answer\0", False, True),
        (b"", False, True),
    ],
)
def test_only_ok_means_nothing(said: bytes, is_nothing: bool, stays_of_use: bool) -> None:
    with clients_get(answers(1, said) if said else lambda client: hear(client, 1)) as path, file_of(b"x") as fd:
        clamd: ClamdAgain[str] = ClamdAgain(path, 10, 10)
        assert clamd.give("it", fd, 1)
        assert clamd.answered() == ("it", is_nothing)
        assert clamd.give("another", fd, 1) is stays_of_use
        assert clamd.close() == ["another"] * stays_of_use and not clamd


def test_what_is_too_large_is_not_given() -> None:
    with clients_get() as path, file_of(b"x") as fd:
        clamd: ClamdAgain[str] = ClamdAgain(path, 10, 10)
        assert not clamd.give("it", fd, 11)


def test_one_that_is_silent_is_waited_for_once() -> None:
    with clients_get(lambda client: hear(client, 9)) as path, file_of(b"x") as fd:
        clamd: ClamdAgain[str] = ClamdAgain(path, 0.05, 10)
        assert clamd.give("first", fd, 1) and clamd.give("second", fd, 1)
        assert clamd.answered() == ("first", False)
        assert not clamd.give("third", fd, 1)
        assert clamd.answered() == ("second", False)
