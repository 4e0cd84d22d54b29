"""The grammar of command lines: strict, and never an error of our own."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egressguard.mail.envelope import RecipientOptions
from egressguard.smtp import commands
from egressguard.smtp.commands import Command, Mail, Rcpt, parse_command, parse_helo, parse_mail, parse_rcpt
from egressguard.smtp.parameters import Offers
from egressguard.smtp.replies import Refusal

PLAIN = Offers()
ALL = Offers(auth=True, dsn=True, requiretls=True, binarymime=True)


def refused(parse: object, *args: object, **kwargs: object) -> str:
    with pytest.raises(Refusal) as refusal:
        parse(*args, **kwargs)  # type: ignore[operator]
    return str(refusal.value.reply)


def mail(argument: str) -> Mail:
    return parse_mail(argument, PLAIN)


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
    assert refused(parse_mail, "FROM:<> SIZE=1", Offers(extended=False)).startswith("555 5.5.4")


def test_whom_a_client_vouches_for_is_taken_and_forgotten() -> None:
    assert parse_mail("FROM:<> AUTH=a+40b", Offers(auth=True)) == Mail("")


@pytest.mark.parametrize("path", ["postmaster", "Postmaster", "anna@example.org"])
def test_rcpt(path: str) -> None:
    assert parse_rcpt(f"TO:<{path}>", PLAIN, smtputf8=False) == Rcpt(path)


@pytest.mark.parametrize(
    "argument", ["TO:<>", "TO:<anna>", "TO:<@x.example:a@b.example>", "TO:<a@b.example> X=1", "TO:"]
)
def test_rcpt_that_is_refused(argument: str) -> None:
    assert refused(parse_rcpt, argument, PLAIN, smtputf8=False)[0] == "5"


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("RET=FULL", {"ret": "FULL"}),
        ("ret=hdrs", {"ret": "HDRS"}),
        ("ENVID=QQ314159", {"envid": "QQ314159"}),
        ("ENVID=" + "x" * 100, {"envid": "x" * 100}),
        ("envid=a+2Bb+20c", {"envid": "a+2Bb+20c"}),
        ("RequireTLS", {"requiretls": True}),
        ("BODY=7bit", {}),
        ("BODY=BinaryMIME", {"body_8bit": True, "binary": True}),
        ("AUTH=<>", {}),
        ("AUTH=e+3Dmc2@b.example SIZE=5", {"size_octets": 5}),
        ("RET=HDRS ENVID=1 REQUIRETLS SMTPUTF8", {"ret": "HDRS", "envid": "1", "requiretls": True, "smtputf8": True}),
    ],
)
def test_what_may_stand_behind_a_reverse_path(words: str, wanted: dict[str, Any]) -> None:
    assert parse_mail(f"FROM:<a@b.example> {words}", ALL) == Mail("a@b.example", **wanted)


@pytest.mark.parametrize(
    "words",
    [
        "RET",
        "RET=BODY",
        "RET=FULL RET=FULL",
        "ENVID",
        "ENVID=" + "x" * 101,
        "ENVID=+",
        "ENVID=+2b",
        "ENVID=+2",
        "ENVID=+0D+0A",
        "ENVID=+00",
        "ENVID=+C3+A4",
        "ENVID=\u00e4",
        "REQUIRETLS=1",
        "BODY=\u212aBIT",
        "BODY=8BIT",
        "BODY",
        "AUTH",
        "AUTH=a+4",
        "AUTH=" + "x" * 501,
        "AUTH=\u00e4@b.example",
    ],
)
def test_values_that_their_rfc_does_not_allow(words: str) -> None:
    assert refused(parse_mail, f"FROM:<a@b.example> {words}", ALL).startswith("501 5.5.4")


@pytest.mark.parametrize("word", ["RET=FULL", "ENVID=1", "REQUIRETLS", "AUTH=<>", "NOTIFY=NEVER", "MT-PRIORITY=3"])
def test_what_was_not_offered_is_refused(word: str) -> None:
    assert refused(parse_mail, f"FROM:<> {word}", PLAIN).startswith("555 5.5.4")


@pytest.mark.parametrize("word", ["NOTIFY=NEVER", "MT-PRIORITY=3", "HOLDFOR=9", "BY=9;R"])
def test_what_mail_does_not_have_is_refused_whatever_was_offered(word: str) -> None:
    assert refused(parse_mail, f"FROM:<> {word}", ALL).startswith("555 5.5.4")


@pytest.mark.parametrize("word", ["NOTIFY=NEVER", "ORCPT=rfc822;a@b.example", "RET=HDRS"])
def test_what_rcpt_was_not_offered_is_refused(word: str) -> None:
    assert refused(parse_rcpt, f"TO:<a@b.example> {word}", PLAIN, smtputf8=False).startswith("555 5.5.4")


@pytest.mark.parametrize(
    ("words", "smtputf8", "wanted"),
    [
        ("NOTIFY=NEVER", False, RecipientOptions(("NEVER",))),
        ("notify=failure", False, RecipientOptions(("FAILURE",))),
        ("NOTIFY=DELAY,success", False, RecipientOptions(("SUCCESS", "DELAY"))),
        ("NOTIFY=FAILURE,DELAY,SUCCESS", False, RecipientOptions(("SUCCESS", "FAILURE", "DELAY"))),
        ("ORCPT=rfc822;Bob+2Bx@b.example", False, RecipientOptions(None, "rfc822;Bob+2Bx@b.example")),
        ("ORCPT=rfc822;gr+C3+A5@b.example", False, RecipientOptions(None, "rfc822;gr+C3+A5@b.example")),
        ("ORCPT=x400;/S+3DSmith/", False, RecipientOptions(None, "x400;/S+3DSmith/")),
        ("ORCPT=utf-8;gr\\x{E5}@b.example", False, RecipientOptions(None, "utf-8;gr\\x{E5}@b.example")),
        ("ORCPT=UTF-8;gr\u00e5@b.example", True, RecipientOptions(None, "UTF-8;gr\u00e5@b.example")),
        ("ORCPT=rfc822;" + "x" * 493, False, RecipientOptions(None, "rfc822;" + "x" * 493)),
        ("ORCPT=rfc822;a NOTIFY=NEVER", False, RecipientOptions(("NEVER",), "rfc822;a")),
    ],
)
def test_what_may_stand_behind_a_forward_path(words: str, smtputf8: bool, wanted: RecipientOptions) -> None:
    assert parse_rcpt(f"TO:<b@b.example> {words}", ALL, smtputf8=smtputf8) == Rcpt("b@b.example", wanted)


def test_postmaster_has_options_too() -> None:
    assert parse_rcpt("TO:<Postmaster> NOTIFY=NEVER", ALL, smtputf8=False).options == RecipientOptions(("NEVER",))


@pytest.mark.parametrize(
    "words",
    [
        "NOTIFY",
        "NOTIFY=,",
        "NOTIFY=NEVER,SUCCESS",
        "NOTIFY=NEVER,NEVER",
        "NOTIFY=SUCCESS,SUCCESS",
        "NOTIFY=SUCCESS,",
        "NOTIFY=ALWAYS",
        "NOTIFY=NEVER NOTIFY=NEVER",
        "ORCPT",
        "ORCPT=a@b.example",
        "ORCPT=rfc822;",
        "ORCPT=;a@b.example",
        "ORCPT=rfc 822;a",
        "ORCPT=rfc822;a+0D+0ABcc:x",
        "ORCPT=rfc822;a+0d",
        "ORCPT=rfc822;" + "x" * 494,
        "ORCPT=rfc822;gr\u00e5@b.example",
        "ORCPT=rfc822;gr+E5@b.example",
        "ORCPT=rfc822;a+E2+80+A8b",
        "ORCPT=rfc822;a+C2+85b",
        "ORCPT=utf-8;gr\u00e5@b.example",
        "ORCPT=utf-8;a\\x{0A}b",
        "ORCPT=utf-8;a\\x{41}b",
        "ORCPT=utf-8;a\\x{D800}b",
        "ORCPT=utf-8;a\\x{110000}b",
        "ORCPT=utf-8;a\\x{2028}b",
        "ORCPT=utf-8;a+2Bb",
    ],
)
def test_options_of_recipients_that_no_rfc_allows(words: str) -> None:
    assert refused(parse_rcpt, f"TO:<b@b.example> {words}", ALL, smtputf8=False).startswith("501 5.5.4")


@pytest.mark.parametrize("argument", ["", "a b", "a" * 256, "ä", "a\x01"])
def test_helo_that_is_refused(argument: str) -> None:
    assert refused(parse_helo, argument).startswith("501 5.5.4")


@given(st.binary(max_size=400))
def test_any_octets_are_a_command_or_a_refusal(octets: bytes) -> None:
    try:
        command = parse_command(octets)
        parse_mail(command.argument, ALL)
    except Refusal as refusal:
        assert refusal.reply.is_permanent


PATHS = st.text(st.sampled_from('<>@"\\ab.:, =\u00e4'), max_size=30)


@given(PATHS, st.booleans())
def test_any_path_is_a_mailbox_or_a_refusal(text: str, smtputf8: bool) -> None:
    try:
        path = parse_rcpt("TO:" + text, ALL, smtputf8=smtputf8).forward_path
    except Refusal as refusal:
        assert refusal.reply.is_permanent
    else:
        assert f"<{path}>" in text
        assert "@" in path


WORDS = st.lists(
    st.text(st.sampled_from("=+;,\\x{}2BD8a\u00e4\u212a \x7f"), max_size=12)
    | st.sampled_from(
        [
            "NOTIFY=",
            "SUCCESS",
            ",",
            "NEVER",
            "ORCPT=",
            "utf-8;",
            "rfc822;",
            "ENVID=",
            "RET=",
            "FULL",
            "AUTH=",
            "BODY=",
            " ",
        ]
    ),
    max_size=8,
).map("".join)


@given(WORDS, st.booleans())
def test_any_words_are_parameters_or_a_refusal(words: str, smtputf8: bool) -> None:
    for parse in (
        lambda: parse_mail(f"FROM:<> {words}", ALL),
        lambda: parse_rcpt(f"TO:<a@b.c> {words}", ALL, smtputf8=smtputf8),
    ):
        try:
            parsed = parse()
        except Refusal as refusal:
            assert refusal.reply.code in {501, 555}
        else:
            assert isinstance(parsed, Mail | Rcpt)


@given(st.lists(st.sampled_from(["SUCCESS", "FAILURE", "DELAY"]), unique=True, min_size=1))
def test_events_are_kept_in_one_order(events: list[str]) -> None:
    notify = parse_rcpt(f"TO:<a@b.example> NOTIFY={','.join(events)}", ALL, smtputf8=False).options.notify
    assert notify == tuple(e for e in ("SUCCESS", "FAILURE", "DELAY") if e in events)


def test_lines_that_come_again_are_remembered_but_none_that_may_hold_a_password() -> None:
    parse_command(b"HELO remembered.example")
    assert _is_remembered(b"HELO remembered.example")
    for line in (b"AUTH PLAIN AGFubmEAc2VjcmV0", b"auth LOGIN c2VjcmV0", b"HELO " + b"x" * 100):
        assert parse_command(line) == parse_command(line)
        assert not _is_remembered(line)


def _is_remembered(line: bytes) -> bool:
    before = commands._parsed_lately.cache_info().hits
    commands._parsed_lately(line)
    return commands._parsed_lately.cache_info().hits > before
