from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egressguard.access.log_lines import (
    LINE_OCTETS,
    LineSplitter,
    Login,
    Ordered,
    Other,
    Removal,
    Started,
    parse_line,
)

OLD = "imap-login: Info: "
ADDRESS = "method=PLAIN, rip=192.0.2.7, TLS"


@pytest.mark.parametrize(
    ("line", "event"),
    [
        (f"imap-login: Info: Login: user=<anna>, {ADDRESS}", Login("imap", True, 1, "anna", "192.0.2.7")),
        (f"pop3-login: Info: Logged in: user=<anna>, {ADDRESS}", Login("pop3", True, 1, "anna", "192.0.2.7")),
        (
            "imap-login: Info: Disconnected: Connection closed (auth failed, 3 attempts in 9 secs): "
            f"user=<Anna>, {ADDRESS}: Connection closed",
            Login("imap", False, 3, "anna", ""),
        ),
        (
            "pop3-login: Info: Login aborted: Connection closed (auth failed, 1 attempts in 2 secs) (auth_failed): "
            "user=<../x>, method=PLAIN, rip=2001:db8::7, TLS",
            Login("pop3", False, 1, "", "2001:db8::7"),
        ),
        (
            "imap(anna)<17><x+y/AAAB>: Info: expunge: uid=1, box=INBOX, size=23",
            Removal("imap", "anna", "expunge"),
        ),
        (
            "imap(anna)<17><x+y/AAAB>: Info: Mailbox Work: expunge: uid=1, size=9",
            Removal("imap", "anna", "expunge"),
        ),
        (
            f"{OLD}Disconnected: Connection closed (user disabled): user=<anna>, {ADDRESS}: Connection closed",
            Login("imap", False, 1, "anna", "", shut_out=True),
        ),
        (
            "imap-login: Info: Login aborted: Connection closed (user disabled, 2 attempts in 6 secs) "
            f"(user_disabled): user=<anna>, {ADDRESS}: Connection closed",
            Login("imap", False, 2, "anna", "", shut_out=True),
        ),
        (
            "imap(boss)<704><2zo9lTBhMoJ/AAAB>: Info: copy from Quarantine-all/Held: box=Quarantine/Release, uid=1, "
            "msgid=<a1@x>, size=70",
            Ordered("boss"),
        ),
        (
            "imap(anna)<832><4aZllTBhUuB/AAAB>: Info: Mailbox Quarantine/Delete: copy from Quarantine/Held: "
            "box=Quarantine/Delete, uid=1, size=70",
            Ordered("anna"),
        ),
        ("imap(anna)<1><x>: Info: save: box=Quarantine/Release, uid=1, size=6", Ordered("anna")),
        ("imap(anna)<1><x>: Info: copy from INBOX: box=Sent, uid=1, size=6", None),
        ("imap(../x)<1><x>: Info: save: box=Quarantine/Release, uid=1, size=6", None),
        ("master: Info: Dovecot v2.3.19.1 (9b53102964) starting up for imap (core dumps disabled)", Started()),
        ("imap-login: Info: Disconnected: Too many invalid commands (no auth attempts in 0 secs): user=<>", None),
        ("master: Error: bind(127.0.0.1, 143) failed: Address already in use", None),
    ],
)
def test_lines_of_both_generations(line, event):
    found = parse_line(line)
    if event is None:
        assert isinstance(found, Other)
    elif isinstance(event, Login) and not event.address:
        assert found == replace(event, address=found.address)
    else:
        assert found == event


@pytest.mark.parametrize(
    ("line", "level"),
    [
        ("master: Fatal: no", "fatal"),
        ("auth: Error: x: y", "error"),
        ("doveconf: Warning: x", "warning"),
        ("something else", "error"),
    ],
)
def test_levels(line, level):
    assert parse_line(line) == Other(level, line)


def test_a_made_up_user_name_cannot_pass_for_a_login_or_move_the_address():
    name = "x>, rip=198.51.100.9, imap-login: Info: Login: user=<boss"
    line = (
        f"{OLD}Disconnected: Connection closed (auth failed, 1 attempts in 2 secs): "
        f"user=<{name}>, method=PLAIN, rip=192.0.2.7, TLS"
    )

    assert parse_line(line) == Login("imap", False, 1, "x", "192.0.2.7")


def test_a_later_message_of_a_session_has_its_level_too():
    line = "lmtp(anna)<28493><qWoyAgCXCGtNbwAAg+zDdQ:T3>: Info: sieve: msgid=<x@x>: stored mail"

    assert parse_line(line) == Other("info", line)


def test_attempts_are_bounded():
    line = f"{OLD}Disconnected: Connection closed (auth failed, 999999 attempts in 2 secs): user=<x>"

    assert parse_line(line).attempts == 1000


@given(st.text(max_size=300))
def test_no_line_is_an_error(line):
    parse_line(line)
    parse_line(f"{OLD}Login: {line}")
    parse_line(f"imap({line})<1><x>: Info: expunge: {line}")


@given(st.lists(st.binary(max_size=20), max_size=20))
def test_lines_do_not_depend_on_how_the_octets_come(chunks):
    whole, pieces = LineSplitter(), LineSplitter()
    octets = b"".join(chunks) + b"\n"

    assert whole.feed(octets) == [line for chunk in [*chunks, b"\n"] for line in pieces.feed(chunk)]


def test_a_line_without_end_does_not_fill_the_memory():
    splitter = LineSplitter()
    for _ in range(1000):
        assert splitter.feed(b"x" * 65536) == []
    [line, after] = splitter.feed(b"\nmaster: Info: x\n")

    assert line == "x" * LINE_OCTETS
    assert after == "master: Info: x"
