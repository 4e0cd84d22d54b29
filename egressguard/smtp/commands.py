"""The grammar of command lines (RFC 5321 s4.1.2): octets in, commands or a refusal out.

Contract
    Pure, and strict: a path is a Mailbox in angle brackets, nothing is stripped, rewritten or guessed. Only a
    space after "FROM:" and "TO:" is let through: half the devices of this world send it, and it means nothing.
    Source routes are refused, not rewritten; so are paths over 256 octets and unqualified ones but <postmaster>.
    What may stand behind a path is in smtp.parameters.
"""

from __future__ import annotations

import re
from functools import lru_cache

from egressguard.mail.address import AddressError, parse_address
from egressguard.mail.envelope import NO_OPTIONS, NULL_REVERSE_PATH, RecipientOptions
from egressguard.mail.reply import Reply
from egressguard.smtp import replies
from egressguard.smtp.parameters import (
    Offers,
    parse_parameters,
    take_auth,
    take_body,
    take_envid,
    take_recipient_options,
    take_size,
)
from egressguard.smtp.replies import Refusal
from egressguard.values import value

COMMAND_OCTETS = 2048
"""RFC 5321 s4.5.3.1.4 asks for 512, extensions add to it (SIZE 26, SMTPUTF8 10, AUTH= 500, ORCPT 507)."""
AUTH_OCTETS = 12288  # RFC 4954 s4.2 and s4: this long may an exchange's line be
PATH_OCTETS = 256  # RFC 5321 s4.5.3.1.3, with brackets
HELO_CHARACTERS = 255
_SHORT_OCTETS = 64
"""Most lines are no longer, and many come again: DATA, QUIT, a client's HELO, a sender's MAIL."""
_AUTH = (b"a", b"A")  # what begins so may hold a password, and is not kept

_VERB = re.compile(r"([A-Za-z]+)(?: (.*))?")
_PATH = re.compile(r'<((?:"(?:[^"\\]|\\.)*"|[^<>" ])*)>')
_HELO = re.compile(rf"[\x21-\x7e]{{1,{HELO_CHARACTERS}}}")

BAD_MAIL = Reply(501, "5.5.4", "Expected MAIL FROM:<reverse-path> and parameters")
BAD_RCPT = Reply(501, "5.5.4", "Expected RCPT TO:<forward-path> and parameters")


@value(frozen=True, slots=True)
class Command:
    """`verb` in upper case; `argument` is what follows the first space, or "". Case and spaces are kept."""

    verb: str
    argument: str = ""


@value(frozen=True, slots=True)
class Mail:
    """MAIL's argument. `size_octets` is what the client declared, None = nothing; the rest as in mail.Envelope."""

    reverse_path: str
    size_octets: int | None = None
    body_8bit: bool = False
    smtputf8: bool = False
    binary: bool = False
    ret: str | None = None
    envid: str | None = None
    requiretls: bool = False


@value(frozen=True, slots=True)
class Rcpt:
    """RCPT's argument."""

    forward_path: str
    options: RecipientOptions = NO_OPTIONS


def parse_command(line: bytes) -> Command:
    """One line without its CRLF. Raises Refusal."""
    return _parsed_lately(line) if len(line) <= _SHORT_OCTETS and not line.startswith(_AUTH) else _parsed(line)


def _parsed(line: bytes) -> Command:
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError:
        raise Refusal(replies.NOT_UTF8) from None
    match = _VERB.fullmatch(text.rstrip(" "))
    if match is None:
        raise Refusal(replies.UNKNOWN_COMMAND)
    verb = match[1].upper()
    if len(line) > COMMAND_OCTETS and verb != "AUTH":
        raise Refusal(replies.LINE_TOO_LONG)
    return Command(verb, match[2] or "")


_parsed_lately = lru_cache(512)(_parsed)


def parse_helo(argument: str) -> str:
    """The name a client gives itself. Not believed and not resolved, so its form hardly matters. Raises Refusal."""
    if not _HELO.fullmatch(argument):
        raise Refusal(replies.BAD_HELO)
    return argument


def parse_mail(argument: str, offers: Offers) -> Mail:
    """What follows "MAIL ". Raises Refusal."""
    path, rest = _split_path("FROM:", argument, BAD_MAIL)
    parameters = parse_parameters(rest, BAD_MAIL, offers)
    size = take_size(parameters)
    body = take_body(parameters, binarymime=offers.binarymime)
    smtputf8 = parameters.flag("SMTPUTF8")
    if offers.auth:
        take_auth(parameters)
    ret = parameters.word("RET", ("FULL", "HDRS")) if offers.dsn else None
    envid = take_envid(parameters) if offers.dsn else None
    requiretls = parameters.flag("REQUIRETLS") if offers.requiretls else False
    parameters.finish()
    reverse_path = _mailbox(path, smtputf8, "5.1.7", "reverse-path") if path else NULL_REVERSE_PATH
    return Mail(reverse_path, size, body != "7BIT", smtputf8, body == "BINARYMIME", ret, envid, requiretls)


def parse_rcpt(argument: str, offers: Offers, *, smtputf8: bool) -> Rcpt:
    """What follows "RCPT ". Raises Refusal; `smtputf8` says whether MAIL had SMTPUTF8."""
    path, rest = _split_path("TO:", argument, BAD_RCPT)
    parameters = parse_parameters(rest, BAD_RCPT, offers)
    options = take_recipient_options(parameters, smtputf8=smtputf8) if offers.dsn else NO_OPTIONS
    parameters.finish()
    if path.lower() == "postmaster":  # RFC 5321 s4.5.1: the one name without a domain
        return Rcpt(path, options)
    return Rcpt(_mailbox(path, smtputf8, "5.1.3", "forward-path"), options)


def _split_path(keyword: str, argument: str, refusal: Reply) -> tuple[str, str]:
    """(what stands in the angle brackets, what stands behind them)"""
    if argument[: len(keyword)].upper() != keyword:
        raise Refusal(refusal)
    match = _PATH.match(argument[len(keyword) :].lstrip(" "))
    if match is None:
        raise Refusal(refusal)
    rest = match.string[match.end() :]
    if rest and not rest.startswith(" "):
        raise Refusal(refusal)
    return match[1], rest.strip(" ")


def _mailbox(path: str, smtputf8: bool, status: str, what: str) -> str:
    if len(path.encode()) > PATH_OCTETS - 2:
        raise Refusal(Reply(553, status, f"Bad {what}: over {PATH_OCTETS} octets"))
    if path.startswith("@"):
        raise Refusal(Reply(553, status, f"Bad {what}: source routes are not taken"))
    if not smtputf8 and not path.isascii():
        raise Refusal(Reply(553, "5.6.7", "Non-ASCII addresses need SMTPUTF8"))  # RFC 6531 s3.5
    if not path.isprintable():  # C1 controls, line separators: somebody's terminal or parser is the target
        raise Refusal(Reply(553, status, f"Bad {what}: unprintable characters"))
    try:
        parse_address(path, utf8=smtputf8)
    except AddressError as wrong:
        raise Refusal(Reply(553, status, f"Bad {what}: {wrong}")) from None
    return path
