"""The grammar of command lines: strict, and never an error of our own."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egressguard.smtp.commands import Command, Mail, Refusal, parse_command, parse_helo, parse_mail, parse_rcpt


def refused(parse: object, *args: object, **kwargs: object) -> str:
    with pytest.raises(Refusal) as refusal:
        parse(*args, **kwargs)  # type: ignore[operator]
    return str(refusal.value.reply)


def mail(argument: str) -> Mail:
    return parse_mail(argument, extended=True, offers_auth=False)


@pytest.mark.parametrize(
    ("line", "command"),
    [
        (b"NOOP", Command("NOOP")),
        (b"noop  ", Command("NOOP")),
        (b"mail FROM:<A@b.example>", Command("MAIL", "FROM:<A@b.example>")),
        ("RCPT TO:<jürgen@b.example>".encode(), Command("RCPT", "TO:<jürgen@b.example>")),
        (b"AUTH " + b"x" * 12000, Command("AUTH", "x" * 12000)),
    ],
)
def test_commands(line: bytes, command: Command) -> None:
    assert parse_command(line) == command


@pytest.mark.parametrize(
    ("line", "reply"),
    [
        (b"", "500 5.5.1"),
        (b" NOOP", "500 5.5.1"),
        (b"NO-OP", "500 5.5.1"),
        (b"NOOP\tx", "500 5.5.1"),
        (b"\xff", "500 5.5.2"),
        (b"\xed\xa0\x80", "500 5.5.2"),
        (b"RCPT TO:<" + b"x" * 3000, "500 5.5.2"),
    ],
)
def test_what_is_no_command(line: bytes, reply: str) -> None:
    assert refused(parse_command, line).startswith(reply)


@pytest.mark.parametrize(
    ("argument", "wanted"),
    [
        ("FROM:<>", Mail("")),
        ("from: <>", Mail("")),
        ("FROM:<a@b.example>", Mail("a@b.example")),
        ("FROM:<A.B@Example.ORG>", Mail("A.B@Example.ORG")),
        ('FROM:<"a> <b"@b.example>', Mail('"a> <b"@b.example')),
        ("FROM:<a@[192.0.2.1]>", Mail("a@[192.0.2.1]")),
        ("FROM:<a@b.example> SIZE=12 body=8bitmime", Mail("a@b.example", 12, True)),
        ("FROM:<ä@b.example> SMTPUTF8", Mail("ä@b.example", None, False, True)),
    ],
)
def test_mail(argument: str, wanted: Mail) -> None:
    assert mail(argument) == wanted


@pytest.mark.parametrize(
    ("argument", "reply"),
    [
        ("", "501 5.5.4"),
        ("FROM:", "501 5.5.4"),
        ("FROM <a@b.example>", "501 5.5.4"),
        ("TO:<a@b.example>", "501 5.5.4"),
        ("FROM:a@b.example", "501 5.5.4"),
        ("FROM:<a@b.example", "501 5.5.4"),
        ("FROM:<<a@b.example>>", "501 5.5.4"),
        ("FROM:<a@b.example>SIZE=1", "501 5.5.4"),
        ("FROM:<a@b.example> SIZE=", "501 5.5.4"),
        ("FROM:<a@b.example> SIZE=-1", "501 5.5.4"),
        ("FROM:<a@b.example> SIZE=" + "9" * 21, "501 5.5.4"),
        ("FROM:<a@b.example> SIZE=٣", "501 5.5.4"),
        ("FROM:<a@b.example> BODY=BINARYMIME", "501 5.5.4"),
        ("FROM:<a@b.example> SMTPUTF8=1", "501 5.5.4"),
        ("FROM:<a@b.example> size=1 SIZE=1", "501 5.5.4"),
        ("FROM:<a@b.example> ENVID=x", "555 5.5.4"),
        ("FROM:<a@b.example> AUTH=<>", "555 5.5.4"),
        ("FROM:<@x.example,@y.example:a@b.example>", "553 5.1.7"),
        ("FROM:<a>", "553 5.1.7"),
        ("FROM:<a@>", "553 5.1.7"),
        ("FROM:<@b.example>", "553 5.1.7"),
        ("FROM:<a..b@b.example>", "553 5.1.7"),
        (f"FROM:<{'a' * 65}@b.example>", "553 5.1.7"),
        (f"FROM:<a@{'b' * 60}.{'c' * 60}.{'d' * 60}.{'e' * 60}.{'f' * 60}>", "553 5.1.7"),
        ("FROM:<ä@b.example>", "553 5.6.7"),
        ("FROM:<a\u2028b@b.example> SMTPUTF8", "553 5.1.7"),
        ("FROM:<a\x85b@b.example> SMTPUTF8", "553 5.1.7"),
    ],
)
def test_mail_that_is_refused(argument: str, reply: str) -> None:
    assert refused(mail, argument).startswith(reply)


def test_parameters_need_ehlo() -> None:
    assert refused(parse_mail, "FROM:<> SIZE=1", extended=False, offers_auth=False).startswith("555 5.5.4")


def test_whom_a_client_vouches_for_is_taken_and_forgotten() -> None:
    assert parse_mail("FROM:<> AUTH=a+40b", extended=True, offers_auth=True) == Mail("")


@pytest.mark.parametrize("path", ["postmaster", "Postmaster", "anna@example.org"])
def test_rcpt(path: str) -> None:
    assert parse_rcpt(f"TO:<{path}>", smtputf8=False) == path


@pytest.mark.parametrize(
    "argument", ["TO:<>", "TO:<anna>", "TO:<@x.example:a@b.example>", "TO:<a@b.example> X=1", "TO:"]
)
def test_rcpt_that_is_refused(argument: str) -> None:
    assert refused(parse_rcpt, argument, smtputf8=False)[0] == "5"


@pytest.mark.parametrize("argument", ["", "a b", "a" * 256, "ä", "a\x01"])
def test_helo_that_is_refused(argument: str) -> None:
    assert refused(parse_helo, argument).startswith("501 5.5.4")


@given(st.binary(max_size=400))
def test_any_octets_are_a_command_or_a_refusal(octets: bytes) -> None:
    try:
        command = parse_command(octets)
        parse_mail(command.argument, extended=True, offers_auth=True)
    except Refusal as refusal:
        assert refusal.reply.is_permanent


PATHS = st.text(st.sampled_from('<>@"\\ab.:, =\u00e4'), max_size=30)


@given(PATHS, st.booleans())
def test_any_path_is_a_mailbox_or_a_refusal(text: str, smtputf8: bool) -> None:
    try:
        path = parse_rcpt("TO:" + text, smtputf8=smtputf8)
    except Refusal as refusal:
        assert refusal.reply.is_permanent
    else:
        assert f"<{path}>" in text
        assert "@" in path
