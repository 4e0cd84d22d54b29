"""`egressguard user rules`: an account's own rules, which sort its mail into folders and send it on."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from egressguard.app.cli.account_files import account_argument, denied, end_with_faults, file_argument
from egressguard.app.cli.options import as_json, with_places
from egressguard.app.cli.output import Exit, emit_one, fail
from egressguard.app.places import Places
from egressguard.mail.header import split_header_section
from egressguard.mailbox.rule_files import RuleFiles, read_bounded
from egressguard.policy.document import Fault
from egressguard.policy.mailbox_rules import MAX_OCTETS, Letter, MailboxRules, choose, parse_mailbox_rules
from egressguard.relay.facts import header_facts

MAX_MESSAGE_OCTETS = 100 * 1024 * 1024
START = b"""\
# Asked from the top; the first rule that matches decides, and none = the inbox. docs/rules.md has every key.
rules:
#  - name: lists
#    match: {header: {List-Id: "*<debian-*"}}
#    action: file
#    folder: Lists/Debian
"""


@click.group("rules")
def rules_command() -> None:
    """An account's own rules: into which folder its mail goes, and to whom it is sent on.

    A running gateway takes changes with the next message. Accounts whose mail goes by lmtp have Sieve scripts instead.

    \b
    Example:
      egressguard user rules edit anna
    """


@rules_command.command("show")
@with_places
@account_argument
@as_json
def show_command(places: Places, account: str, as_json: bool) -> None:
    """Show an account's rules, as they are written.

    \b
    Example:
      egressguard user rules show anna
    Exit codes: 4 permission denied, 5 it has none.
    """
    text = _text_of(places, account)
    if text is None:
        fail(f"{account} has no rules: all its mail goes into the inbox", Exit.NOT_FOUND)
    if not as_json:
        click.echo(text, nl=False)
        return
    found = parse_mailbox_rules(f"{account}.yaml", text)
    rules = found.model_dump(mode="json", exclude_defaults=True)["rules"] if isinstance(found, MailboxRules) else []
    faults = [] if isinstance(found, MailboxRules) else [str(fault) for fault in found]
    emit_one({"account": account, "rules": rules, "faults": faults}, as_json=True)


@rules_command.command("check")
@file_argument
def check_command(file: Path) -> None:
    """Tell every fault of a file of rules, with its place (- = standard input).

    \b
    Example:
      egressguard user rules check anna.yaml
    Exit codes: 1 it has faults.
    """
    content = _read(file)
    _end_with_faults(str(file), content, parse_mailbox_rules(str(file), content))
    click.echo("ok")


@rules_command.command("set")
@with_places
@account_argument
@file_argument
@as_json
def set_command(places: Places, account: str, file: Path, as_json: bool) -> None:
    """Give an account the rules of a file (- = standard input); with faults nothing changes.

    \b
    Example:
      egressguard user rules set anna anna.yaml
    Exit codes: 1 faults, 4 permission denied.
    """
    content = _read(file)
    _write(places, account, content, str(file))
    emit_one({"rules_of": account}, as_json=as_json)


@rules_command.command("edit")
@with_places
@account_argument
def edit_command(places: Places, account: str) -> None:
    """Change an account's rules in $EDITOR; with faults nothing changes.

    \b
    Example:
      egressguard user rules edit anna
    Exit codes: 1 faults, 4 permission denied.
    """
    before = _text_of(places, account) or START
    after = click.edit(before.decode("utf-8", "replace"), extension=".yaml")
    if after is None or after.encode() == before:
        click.echo("nothing was changed", err=True)
        return
    _write(places, account, after.encode(), f"{account}.yaml")
    click.echo(f"{account} has new rules")


@rules_command.command("clear")
@with_places
@account_argument
@as_json
def clear_command(places: Places, account: str, as_json: bool) -> None:
    """Take an account's rules away: all its mail goes into the inbox.

    \b
    Example:
      egressguard user rules clear anna
    Exit codes: 4 permission denied, 5 it has none.
    """
    try:
        cleared = _files(places).clear(_name(account))
    except PermissionError:
        denied(places.mailbox_rules)
    if not cleared:
        fail(f"{account} has no rules", Exit.NOT_FOUND)
    emit_one({"cleared": account}, as_json=as_json)


@rules_command.command("try")
@with_places
@account_argument
@click.argument("message", type=click.Path(path_type=Path, exists=True, dir_okay=False, allow_dash=True))
@click.option("--sender", default="", metavar="ADDRESS", help="Its envelope sender.  [default: <>]")
@click.option("--recipient", default="", metavar="ADDRESS", help="The address that it was written to.")
@click.option("--detail", default="", help="What stands behind the separator in that address.")
@as_json
def try_command(
    places: Places, account: str, message: Path, sender: str, recipient: str, detail: str, as_json: bool
) -> None:
    """Tell what an account's rules would do with a message (- = standard input); nothing is delivered.

    \b
    Example:
      egressguard user rules try anna letter.eml --detail lists
    Exit codes: 1 the rules have faults, 4 permission denied.
    """
    text = _text_of(places, account) or b""
    found = parse_mailbox_rules(f"{account}.yaml", text)
    _end_with_faults(f"{account}.yaml", text, found)
    assert isinstance(found, MailboxRules)
    content = _read(message, MAX_MESSAGE_OCTETS)
    section, _ = split_header_section(content)
    letter = Letter(sender, recipient or f"{account}@localhost", detail, header_facts(section), len(content))
    rule = choose(found, letter)
    told = {"account": account, "rule": rule.name if rule else "", "at": rule.at if rule else ""}
    told |= {"folder": (rule.folder or "") if rule and rule.action != "keep" else "INBOX"}
    emit_one({**told, "to": list(rule.to) if rule else []}, as_json=as_json)


def _files(places: Places) -> RuleFiles:
    return RuleFiles(places.mailbox_rules)


def _name(account: str) -> str:
    try:
        RuleFiles(Path()).path(account)
    except ValueError as wrong:
        fail(str(wrong), Exit.USAGE)
    return account


def _text_of(places: Places, account: str) -> bytes | None:
    try:
        return _files(places).text(_name(account))
    except PermissionError:
        denied(places.mailbox_rules)


def _write(places: Places, account: str, content: bytes, shown: str) -> None:
    try:
        places.mailbox_rules.mkdir(mode=0o2750, parents=True, exist_ok=True)
        faults = _files(places).write(_name(account), content)
    except PermissionError:
        denied(places.mailbox_rules)
    if faults:
        _end_with_faults(shown, content, [Fault(shown, f.line, f.column, f.message) for f in faults])


def _end_with_faults(shown: str, content: bytes, found: MailboxRules | list[Fault]) -> None:
    if not isinstance(found, MailboxRules):
        end_with_faults(shown, content, found)


def _read(file: Path, most: int = MAX_OCTETS) -> bytes:
    if str(file) == "-":
        return sys.stdin.buffer.read(most + 1)
    if most == MAX_OCTETS:
        return read_bounded(file)
    with file.open("rb") as opened:
        return opened.read(most)
