from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from egressguard.access.programs import ProgramFailed, Programs
from egressguard.access.sessions import OpenSession, count_by_protocol, end_sessions, parse_who

OLD = '[{"username":"anna","service":"imap","pid":"7","ip":"127.0.0.1"}]'
NEW = '[{"username":"anna","service":"imap","pid":"7","ip":"127.0.0.1","dest_ip":""}]'


@pytest.mark.parametrize("text", [OLD, NEW])
def test_both_generations_say_who(text):
    assert parse_who(text) == [OpenSession("imap", "anna", "127.0.0.1")]


@pytest.mark.parametrize("text", ["", "[]"])
def test_nobody(text):
    assert parse_who(text) == []
    assert count_by_protocol([]) == {"imap": 0, "pop3": 0}


@pytest.mark.parametrize("text", ["{", "[1]", '[{"username":"anna"}]', "7", '{"a": 1}'])
def test_another_answer_is_none(text):
    with pytest.raises(ProgramFailed, match="not understood"):
        parse_who(text)


def test_sessions_are_counted_by_protocol():
    sessions = [OpenSession("imap", "anna", ""), OpenSession("imap", "bob", ""), OpenSession("pop3", "bob", "")]

    assert count_by_protocol(sessions) == {"imap": 2, "pop3": 1}


@pytest.mark.parametrize("name", ["*", "", "an?a", "-A", "Anna"])
def test_nobody_else_is_kicked_by_a_name_that_is_a_pattern(name):
    nowhere = Path("/nonexistent")
    with pytest.raises(ProgramFailed, match="not an account name"):
        asyncio.run(end_sessions(Programs(nowhere, nowhere, nowhere), nowhere, name))
