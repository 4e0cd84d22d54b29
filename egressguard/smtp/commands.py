"""The grammar of command lines (RFC 5321 s4.1.2, RFC 1870, RFC 6152, RFC 6531): octets in, commands or a refusal out.

Contract
    Pure, and strict: a path is a Mailbox in angle brackets, nothing is stripped, rewritten or guessed. Only a
    space after "FROM:" and "TO:" is let through: half the devices of this world send it, and it means nothing.
    Source routes are refused, not rewritten; so are paths over 256 octets and unqualified ones but <postmaster>.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from egressguard.mail.address import AddressError, parse_address
from egressguard.mail.envelope import NULL_REVERSE_PATH
from egressguard.mail.reply import Reply
from egressguard.smtp import replies

COMMAND_OCTETS = 2048
"""RFC 5321 s4.5.3.1.4 asks for 512, extensions add to it (SIZE 26, SMTPUTF8 10, AUTH= 500)."""
AUTH_OCTETS = 12288  # RFC 4954 s4.2 and s4: this long may an exchange's line be
PATH_OCTETS = 256  # RFC 5321 s4.5.3.1.3, with brackets
HELO_CHARACTERS = 255

_VERB = re.compile(r"([A-Za-z]+)(?: (.*))?")
_PATH = re.compile(r'<((?:"(?:[^"\\]|\\.)*"|[^<>" ])*)>')
_PARAMETER = re.compile(r"([A-Za-z0-9][A-Za-z0-9-]*)(?:=([\x21-\x3c\x3e-\x7e]+))?")
_HELO = re.compile(rf"[\x21-\x7e]{{1,{HELO_CHARACTERS}}}")
_SIZE = re.compile(r"[0-9]{1,20}")

BAD_MAIL = Reply(501, "5.5.4", "Expected MAIL FROM:<reverse-path> and parameters")
BAD_RCPT = Reply(501, "5.5.4", "Expected RCPT TO:<forward-path>")
UNKNOWN_PARAMETER = Reply(555, "5.5.4", "Parameter not recognised")


class Refusal(Exception):
    """The line is not a command we take; `reply` says why."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(str(reply))
        self.reply = reply


@dataclass(frozen=True, slots=True)
class Command:
    """`verb` in upper case; `argument` is what follows the first space, or "". Case and spaces are kept."""

    verb: str
    argument: str = ""


@dataclass(frozen=True, slots=True)
class Mail:
    """MAIL's argument. `size_octets` is what the client declared, None = nothing."""

    reverse_path: str
    size_octets: int | None = None
    body_8bit: bool = False
    smtputf8: bool = False
    binary: bool = False


def parse_command(line: bytes) -> Command:
    """One line without its CRLF. Raises Refusal."""
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


def parse_helo(argument: str) -> str:
    """The name a client gives itself. Not believed and not resolved, so its form hardly matters. Raises Refusal."""
    if not _HELO.fullmatch(argument):
        raise Refusal(replies.BAD_HELO)
    return argument


def parse_mail(argument: str, *, extended: bool, offers_auth: bool) -> Mail:
    """What follows "MAIL ". Raises Refusal; `extended` says whether EHLO was sent: no parameters without."""
    path, rest = _split_path("FROM:", argument, BAD_MAIL)
    parameters = _parameters(rest, BAD_MAIL)
    if parameters and not extended:
        raise Refusal(UNKNOWN_PARAMETER)
    size = _size(parameters)
    body_8bit = _body_8bit(parameters)
    smtputf8 = _flag(parameters, "SMTPUTF8")
    if offers_auth:
        parameters.pop("AUTH", None)  # RFC 4954 s5: must be taken; whom the client vouches for is nothing to us
    if parameters:
        raise Refusal(UNKNOWN_PARAMETER)
    if path == "":
        return Mail(NULL_REVERSE_PATH, size, body_8bit, smtputf8)
    return Mail(_mailbox(path, smtputf8, "5.1.7", "reverse-path"), size, body_8bit, smtputf8)


def parse_rcpt(argument: str, *, smtputf8: bool) -> str:
    """What follows "RCPT ": the forward-path. Raises Refusal."""
    path, rest = _split_path("TO:", argument, BAD_RCPT)
    if _parameters(rest, BAD_RCPT):
        raise Refusal(UNKNOWN_PARAMETER)
    if path.lower() == "postmaster":  # RFC 5321 s4.5.1: the one name without a domain
        return path
    return _mailbox(path, smtputf8, "5.1.3", "forward-path")


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


def _parameters(text: str, refusal: Reply) -> dict[str, str]:
    parameters: dict[str, str] = {}
    for word in filter(None, text.split(" ")):
        match = _PARAMETER.fullmatch(word)
        if match is None or match[1].upper() in parameters:
            raise Refusal(refusal)
        parameters[match[1].upper()] = match[2] or ""
    return parameters


def _size(parameters: dict[str, str]) -> int | None:
    text = parameters.pop("SIZE", None)
    if text is None:
        return None
    if not _SIZE.fullmatch(text):
        raise Refusal(BAD_MAIL)
    return int(text)


def _body_8bit(parameters: dict[str, str]) -> bool:
    body = parameters.pop("BODY", "7BIT").upper()
    if body not in {"7BIT", "8BITMIME"}:
        raise Refusal(BAD_MAIL)
    return body == "8BITMIME"


def _flag(parameters: dict[str, str], name: str) -> bool:
    value = parameters.pop(name, None)
    if value:
        raise Refusal(BAD_MAIL)
    return value is not None
