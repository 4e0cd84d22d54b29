"""`egressguard user`: the accounts of submission, IMAP and POP3."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from egressguard.app.cli.mailbox_rules import rules_command
from egressguard.app.cli.options import as_json, ask_role, with_places
from egressguard.app.cli.output import Exit, emit_one, emit_rows, fail
from egressguard.app.cli.sieve import sieve_command
from egressguard.app.places import Places
from egressguard.mailbox.accounts import AccountError, Accounts

_password_file = click.option(
    "--password-file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False, allow_dash=True),
    help="Read the password from this file's first line (- = standard input).",
)


@click.group("user")
def user_command() -> None:
    """The accounts of submission (587, 465), IMAP and POP3. A running gateway sees changes at once.

    \b
    Example:
      egressguard user add anna
    """


user_command.add_command(rules_command)
user_command.add_command(sieve_command)


@user_command.command("add")
@with_places
@click.argument("name")
@_password_file
@as_json
def add_command(places: Places, name: str, password_file: Path | None, as_json: bool) -> None:
    """Add an account; asks for the password on a terminal.

    \b
    Example:
      egressguard user add anna --password-file secret.txt
    Exit codes: 1 the name is taken or not a name.
    """
    _change(places, "add", name, _password(password_file))
    emit_one({"added": name}, as_json=as_json)


@user_command.command("passwd")
@with_places
@click.argument("name")
@_password_file
@as_json
def passwd_command(places: Places, name: str, password_file: Path | None, as_json: bool) -> None:
    """Give an account a new password.

    \b
    Example:
      egressguard user passwd anna
    """
    _change(places, "set_password", name, _password(password_file))
    emit_one({"changed": name}, as_json=as_json)


@user_command.command("disable")
@with_places
@click.argument("name")
@as_json
def disable_command(places: Places, name: str, as_json: bool) -> None:
    """Lock an account and end its sessions; its mail stays, and mail for it still comes in.

    \b
    Example:
      egressguard user disable anna
    """
    _change(places, "disable", name)
    emit_one({"disabled": name}, as_json=as_json)


@user_command.command("enable")
@with_places
@click.argument("name")
@as_json
def enable_command(places: Places, name: str, as_json: bool) -> None:
    """Unlock an account; it has the password that it had.

    \b
    Example:
      egressguard user enable anna
    Exit codes: 1 there is no such account.
    """
    _change(places, "enable", name)
    emit_one({"enabled": name}, as_json=as_json)


@user_command.command("delete")
@with_places
@click.argument("name")
@as_json
def delete_command(places: Places, name: str, as_json: bool) -> None:
    """Remove an account; its mailbox stays on disk.

    \b
    Example:
      egressguard user delete anna
    """
    _change(places, "delete", name)
    emit_one({"deleted": name}, as_json=as_json)


@user_command.command("list")
@with_places
@as_json
def list_command(places: Places, as_json: bool) -> None:
    """List the accounts; scram: whether SCRAM-SHA-256 is possible with the password that it has.

    \b
    Example:
      egressguard user list
    """
    try:
        rows = _accounts(places).rows()
    except OSError as wrong:
        fail(f"{places.accounts}: {wrong.strerror}")
    columns = ("name", "enabled", "scram")
    emit_rows(rows, columns, as_json=as_json, empty="no accounts; add one: egressguard user add NAME")


@user_command.command("sessions")
@with_places
@as_json
def sessions_command(places: Places, as_json: bool) -> None:
    """Who has a session at IMAP or POP3 now, and from where.

    \b
    Example:
      egressguard user sessions
    Exit codes: 3 the gateway does not run.
    """
    rows = ask_role(places, "access", "sessions")
    emit_rows(rows, ("user", "protocol", "client"), as_json=as_json, empty="nobody")


def _accounts(places: Places) -> Accounts:
    try:
        places.accounts.parent.mkdir(mode=0o2750, parents=True, exist_ok=True)
        return Accounts(places.accounts)
    except PermissionError:
        fail(f"{places.accounts}: permission denied; run this as root", Exit.PERMISSION)


def _change(places: Places, verb: str, *arguments: str) -> None:
    try:
        getattr(_accounts(places), verb)(*arguments)
    except AccountError as wrong:
        fail(str(wrong))
    except PermissionError:
        fail(f"{places.accounts}: permission denied; run this as root", Exit.PERMISSION)


def _password(file: Path | None) -> str:
    if file is None:
        if not sys.stdin.isatty():
            fail(
                "no terminal to ask for the password; give --password-file FILE (- = standard input)",
                Exit.USAGE,
            )
        answer = click.prompt("Password", hide_input=True, confirmation_prompt=True)
        return str(answer)
    text = sys.stdin.readline() if str(file) == "-" else file.read_text().partition("\n")[0]
    if not text.strip(os.linesep):
        fail("the password is empty", Exit.USAGE)
    return text.rstrip("\r\n")
