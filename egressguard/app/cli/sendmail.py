"""`egressguard sendmail` and `mailq`: what cron and other programs of this machine expect to find in /usr/sbin."""

from __future__ import annotations

import os
import pwd
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click

from egressguard.app.cli.options import default_places
from egressguard.app.cli.queue import list_command
from egressguard.mail.address import AddressError
from egressguard.mail.submission import (
    all_qualified,
    qualified,
    recipients_of,
    up_to_dot,
    with_crlf,
    with_from,
    without_bcc,
)
from egressguard.store import drop

EX_USAGE, EX_DATAERR, EX_NOINPUT, EX_TEMPFAIL = 64, 65, 66, 75
"""sysexits.h: what programs that call sendmail understand."""
SYSTEM_STATE = Path("/var/lib/egressguard")
MAX_OCTETS = 256 * 1024 * 1024
_WITH_VALUE = "fFNORVXhLpBrC"
_ALONE = "tivnmG"  # G: rmail says that it is a gateway


@dataclass(slots=True)
class Wanted:
    """What the command line asks for; `sender` None = the user who calls."""

    sender: str | None = None
    name: str = ""
    from_header: bool = False
    dot_is_text: bool = False
    lists_queue: bool = False
    recipients: list[str] = field(default_factory=list)


class Usage(Exception):
    """What is wrong with the command line."""


def parse_arguments(words: Sequence[str]) -> Wanted:
    """sendmail's options: those that matter are understood, known ones that do not are passed over. Raises Usage."""
    wanted, rest = Wanted(), list(words)
    while rest:
        word = rest.pop(0)
        if word == "--":
            wanted.recipients += rest
            break
        if not word.startswith("-") or word == "-":
            wanted.recipients.append(word)
        elif word in {"-bp", "-bm", "-oi", "-i"} or word.startswith(("-o", "-b", "-q")):
            _mode(wanted, word)
        else:
            _letters(wanted, word, rest)
    return wanted


def _mode(wanted: Wanted, word: str) -> None:
    if word == "-bp":
        wanted.lists_queue = True
    elif word in {"-i", "-oi"}:
        wanted.dot_is_text = True
    elif word.startswith("-b") and word != "-bm":
        raise Usage(f"{word}: only -bm (deliver) and -bp (mailq) are offered; programs speak SMTP to port 587")


def _letters(wanted: Wanted, word: str, rest: list[str]) -> None:
    """ "-ti" is "-t -i"; "-fA" is "-f A"."""
    letters = word[1:]
    while letters:
        letter, letters = letters[0], letters[1:]
        if letter in _WITH_VALUE:
            if not letters and not rest:
                raise Usage(f"-{letter} needs a value")
            value = letters or rest.pop(0)
            if letter in "fr":
                wanted.sender = "" if value == "<>" else value
            elif letter == "F":
                wanted.name = value
            return
        if letter not in _ALONE:
            raise Usage(f"-{letter} is no option of sendmail that is known here")
        wanted.from_header = wanted.from_header or letter == "t"
        wanted.dot_is_text = wanted.dot_is_text or letter == "i"


@click.command("sendmail", context_settings={"ignore_unknown_options": True, "help_option_names": ["--help"]})
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
def sendmail_command(words: tuple[str, ...]) -> None:
    """Take a message from standard input for the relay, as sendmail(8) does; also while no daemon runs.

    \b
    -t           recipients from To, Cc and Bcc; Bcc is taken out
    -i, -oi      a line with a dot alone is no end
    -f ADDRESS   the envelope sender ("<>" = none); default: the user who calls
    -F NAME      the name in From, where the message has none
    -bp          list the queue, as mailq

    \b
    Example:
      printf 'Subject: disk full\\n\\n/var\\n' | egressguard sendmail -i root@example.org
      ln -s /usr/local/sbin/egressguard /usr/sbin/sendmail
    Exit codes: 0 taken (on stable storage), 64 wrong usage, 65 no recipient or a bad address, 75 cannot be stored now.
    """
    try:
        wanted = parse_arguments(words)
    except Usage as wrong:
        _end(f"{wrong}; see `egressguard sendmail --help`", EX_USAGE)
    if wanted.lists_queue:
        mailq_command.main(args=[], prog_name="mailq")
    text = sys.stdin.buffer.read(MAX_OCTETS + 1)
    if len(text) > MAX_OCTETS:
        _end(f"the message is larger than {MAX_OCTETS} octets", EX_DATAERR)
    hostname = socket.getfqdn() or "localhost"
    content = with_crlf(text if wanted.dot_is_text else up_to_dot(text))
    try:
        recipients = all_qualified(
            [*wanted.recipients, *(recipients_of(content) if wanted.from_header else [])], hostname
        )
        sender = qualified(_caller() if wanted.sender is None else wanted.sender, hostname)
    except AddressError as wrong:
        _end(f"{wrong}; expected an address such as anna@example.org", EX_DATAERR)
    if not recipients:
        _end("no recipient: name one, or say -t and put one into To, Cc or Bcc", EX_DATAERR)
    content = with_from(without_bcc(content) if wanted.from_header else content, sender or _caller(), wanted.name)
    try:
        drop.put(drop_directory(), sender, recipients, content)
    except OSError as wrong:
        _end(f"the message cannot be stored now: {wrong.strerror or wrong}", EX_TEMPFAIL)


def drop_directory() -> Path:
    """That of EGRESSGUARD_STATE, of the system, or of this user's own gateway."""
    if given := os.environ.get("EGRESSGUARD_STATE"):
        return Path(given) / "drop"
    system = SYSTEM_STATE / "drop"
    return system if system.is_dir() else default_places().state / "drop"


def _caller() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid-{os.getuid()}"


def _end(words: str, status: int) -> None:
    click.echo(f"sendmail: {words}", err=True)
    sys.exit(status)


_MAILQ_HELP = """What waits for delivery, as mailq(1) lists it: `egressguard queue list` under another name.

\b
Example:
  egressguard mailq
"""
mailq_command = click.Command("mailq", callback=list_command.callback, params=list_command.params, help=_MAILQ_HELP)
