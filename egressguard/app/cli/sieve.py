"""`egressguard user sieve`: an account's Sieve script, which Dovecot runs for mail that comes by lmtp."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import click

from egressguard.access.programs import ProgramFailed
from egressguard.access.sieve_scripts import SieveScripts, check
from egressguard.app.cli.account_files import account_argument, denied, end_with_faults, file_argument
from egressguard.app.cli.options import as_json, with_places
from egressguard.app.cli.output import Exit, emit_one, fail
from egressguard.app.places import Places
from egressguard.policy.mailbox_rules import MAX_OCTETS

NOT_CHECKED = "not checked, there is no sievec: apt install dovecot-sieve"


@click.group("sieve")
def sieve_command() -> None:
    """An account's Sieve script: Dovecot runs it for mail that comes by `deliver: lmtp`, and for no other.

    What it redirects or answers leaves through the relay as that account's: the rules judge it. What they refuse stays
    in the inbox. Redirecting out of the site needs `forward_outside`.

    \b
    Example:
      egressguard user sieve set anna anna.sieve
    """


@sieve_command.command("show")
@with_places
@account_argument
@as_json
def show_command(places: Places, account: str, as_json: bool) -> None:
    """Show an account's script, as it is written.

    \b
    Example:
      egressguard user sieve show anna
    Exit codes: 4 permission denied, 5 it has none.
    """
    try:
        text = _scripts(places, account).text(account)
    except PermissionError:
        denied(places.sieve_scripts)
    if text is None:
        fail(f"{account} has no script: all its mail goes into the inbox", Exit.NOT_FOUND)
    if as_json:
        emit_one({"account": account, "script": text.decode("utf-8", "replace")}, as_json=True)
    else:
        click.echo(text, nl=False)


@sieve_command.command("check")
@file_argument
@as_json
def check_command(file: Path, as_json: bool) -> None:
    """Tell what is wrong with a script, by its lines (- = standard input); asks Pigeonhole's sievec.

    \b
    Example:
      egressguard user sieve check anna.sieve
    Exit codes: 1 it has faults, 5 there is no sievec.
    """
    if not _checked(file, _read(file)):
        fail(NOT_CHECKED, Exit.NOT_FOUND)
    emit_one({"ok": str(file)}, as_json=as_json)


@sieve_command.command("set")
@with_places
@account_argument
@file_argument
@as_json
def set_command(places: Places, account: str, file: Path, as_json: bool) -> None:
    """Give an account a script (- = standard input); with faults nothing changes. It holds from the next message on.

    \b
    Example:
      egressguard user sieve set anna anna.sieve
    Exit codes: 1 faults, 4 permission denied.
    """
    scripts, content = _scripts(places, account), _read(file)
    checked = _checked(file, content)
    try:
        scripts.write(account, content)
    except PermissionError:
        denied(places.sieve_scripts)
    if not checked:
        click.echo(f"egressguard: {NOT_CHECKED}", err=True)
    emit_one({"script_of": account, "checked": checked}, as_json=as_json)


@sieve_command.command("clear")
@with_places
@account_argument
@as_json
def clear_command(places: Places, account: str, as_json: bool) -> None:
    """Take an account's script away: all its mail goes into the inbox.

    \b
    Example:
      egressguard user sieve clear anna
    Exit codes: 4 permission denied, 5 it has none.
    """
    try:
        cleared = _scripts(places, account).clear(account)
    except PermissionError:
        denied(places.sieve_scripts)
    if not cleared:
        fail(f"{account} has no script", Exit.NOT_FOUND)
    emit_one({"cleared": account}, as_json=as_json)


def _scripts(places: Places, account: str) -> SieveScripts:
    scripts = SieveScripts(places.sieve_scripts)
    try:
        scripts.path(account)
    except ValueError as wrong:
        fail(str(wrong), Exit.USAGE)
    return scripts


def _read(file: Path) -> bytes:
    if str(file) == "-":
        return sys.stdin.buffer.read(MAX_OCTETS + 1)
    with file.open("rb") as opened:
        return opened.read(MAX_OCTETS + 1)


def _checked(file: Path, content: bytes) -> bool:
    """False: nobody here can tell. Ends with what is wrong."""
    try:
        faults = asyncio.run(check(content, str(file)))
    except ProgramFailed as wrong:
        fail(f"sievec: {wrong}")
    end_with_faults(str(file), content, faults or ())
    return faults is not None
