"""`egressguard explain`: which rule decides a flow or a message, and why no rule before it did."""

from __future__ import annotations

import email.utils
import sys
from collections.abc import Callable
from contextlib import nullcontext
from functools import wraps
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import click

from egressguard.app.cli.explaining import say_flow, say_message
from egressguard.app.cli.options import as_json, default_places
from egressguard.app.cli.output import Exit, fail
from egressguard.app.revisions import Unreadable, rules_at
from egressguard.app.rules import read_rules
from egressguard.net.flow import TUNNELS, Flow, IPAddress, Protocol
from egressguard.policy.expect import FlowGiven, parse_given
from egressguard.policy.facts import MailFacts, Moment, ScanReport
from egressguard.policy.fields import WEEKDAYS
from egressguard.policy.flows import Surroundings
from egressguard.policy.load import render_faults
from egressguard.policy.model import Policy
from egressguard.policy.trial import flow_of, mail_facts, surroundings_of
from egressguard.policy.verdict import Verdict

MAX_MESSAGE_OCTETS = 256 * 1024 * 1024


class _Address(click.ParamType[IPAddress]):
    name = "address"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> IPAddress:
        try:
            return value if isinstance(value, IPAddress) else ip_address(value)
        except ValueError:
            self.fail(f"{value!r:.60} is no address; expected one such as 192.0.2.7 or 2001:db8::7", param, ctx)


class _Moment(click.ParamType[Moment]):
    name = "moment"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Moment:
        day, _, clock = str(value).partition(" ")
        hour, colon, minute = clock.partition(":")
        if (
            day in WEEKDAYS
            and colon
            and hour.isdecimal()
            and minute.isdecimal()
            and int(hour) < 24
            and int(minute) < 60
        ):
            return Moment(WEEKDAYS.index(day), int(hour) * 60 + int(minute))
        self.fail(f'{value!r:.60} is no moment; expected one such as "mon 09:30"', param, ctx)


def _with_policy(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give `command` the policy that --rules and --site name."""

    @click.option("--rules", envvar="EGRESSGUARD_RULES", help="Directory of rule files, or REV:PATH of a git checkout.")
    @click.option("--site", default="", envvar="EGRESSGUARD_SITE", help="Overlay of the rules: sites/SITE/ in them.")
    @wraps(command)
    def wrapped(rules: str | None, site: str, **others: Any) -> Any:
        where = rules or str(default_places().rules)
        try:
            # A directory that is not there is a fault of the rules; only what can be no directory is a revision.
            with rules_at(where, Path.cwd()) if _is_revision(where) else nullcontext(Path(where)) as directory:
                loaded, files = read_rules(directory, site)
        except Unreadable as wrong:
            fail(str(wrong))
        if loaded.policy is None:
            click.echo(render_faults(loaded.faults, files), err=True)
            sys.exit(Exit.FAILED)
        return command(policy=loaded.policy, **others)

    return wrapped


def _is_revision(text: str) -> bool:
    """A directory comes before a revision of the same name."""
    return not Path(text).exists() and not text.startswith(("/", "."))


@click.group("explain")
def explain_command() -> None:
    """Which rule decides a flow or a message, and why no rule before it did. Needs no root and no daemon.

    \b
    Example:
      egressguard explain flow --from 192.168.1.50 --to 198.51.100.7 --port 25
    """


@explain_command.command("flow")
@_with_policy
@click.option("--from", "source", type=_Address(), required=True, help="Who opens the flow.")
@click.option("--to", "destination", type=_Address(), required=True, help="Whereto.")
@click.option("--port", type=click.IntRange(1, 65535), default=25, show_default=True)
@click.option("--protocol", type=click.Choice([p.value for p in Protocol]), default="tcp", show_default=True)
@click.option("--speaks", type=click.Choice(["smtp"]), help="What its first octets are of; left out = nothing known.")
@click.option("--mac", default="", help="The link-layer source; left out = not known.")
@click.option("--at", "moment", type=_Moment(), default="mon 12:00", show_default=True, help="Local weekday and time.")
@click.option("--interface", default="", help="Where it arrives; left out = known by its address only.")
@click.option("--zone", default="", help="As if it arrived on this zone's first interface.")
@click.option("--all", "everything", is_flag=True, help="Name the rules behind the deciding one too.")
@as_json
def flow_command(
    policy: Policy,
    source: IPAddress,
    destination: IPAddress,
    port: int,
    protocol: str,
    speaks: str | None,
    mac: str,
    moment: Moment,
    interface: str,
    zone: str,
    everything: bool,
    as_json: bool,
) -> None:
    """The flow rule that decides, its place, what it became in the kernel, and why earlier rules did not match.

    \b
    Example:
      egressguard explain flow --from 192.168.1.50 --to 198.51.100.7 --port 25 --zone lan --rules rules/
    Exit codes: 0 told, 1 faults in the rules, 2 wrong usage.
    """
    arrives, inside = _arrival(policy, zone, interface)
    flow = Flow(
        source,
        destination,
        0 if Protocol(protocol) in TUNNELS else port,
        arrives,
        Protocol(protocol),
        source_mac=mac.lower(),
        speaks=speaks or "",
    )
    around = Surroundings(inside, moment=lambda: moment)
    say_flow(policy, flow, around, everything=everything, as_json=as_json)


def _arrival(policy: Policy, zone: str, interface: str) -> tuple[str, frozenset[str]]:
    """(interface, the inside interfaces) that --zone and --interface stand for."""
    if not zone:
        return interface, frozenset({interface} if interface else ())
    if zone not in policy.site.zones:
        raise click.UsageError(f"no zone {zone!r}; expected one of {', '.join(sorted(policy.site.zones))}")
    first = next(iter(policy.site.zones[zone].interfaces), "")
    if not first:
        return interface, frozenset()
    name = "(inside)" if first == "@inside" else first
    return name, frozenset({name})


@explain_command.command("message")
@_with_policy
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--from", "client", type=_Address(), required=True, help="The client's address.")
@click.option("--listener", default="", help="The listener's name; left out = the first one.")
@click.option("--user", help="Who logged in; left out = nobody.")
@click.option("--helo", default="", help="What the client calls itself.")
@click.option("--tls", is_flag=True, help="The session is encrypted.")
@click.option("--sender", help="The reverse-path; left out = Return-Path, Sender or From.")
@click.option("--recipient", multiple=True, help="A forward-path; left out = To and Cc.")
@click.option("--at", "moment", type=_Moment(), default="mon 12:00", show_default=True, help="Local weekday and time.")
@click.option("--verdict", type=click.Choice([v.value for v in Verdict]), help="Instead of scanning.")
@as_json
def message_command(
    policy: Policy,
    file: Path,
    client: IPAddress,
    listener: str,
    user: str | None,
    helo: str,
    tls: bool,
    sender: str | None,
    recipient: tuple[str, ...],
    moment: Moment,
    verdict: str | None,
    as_json: bool,
) -> None:
    """The rule that decides a message (FILE, - = standard input) for each recipient, why earlier ones did not, and
    which way it would leave.

    \b
    Example:
      egressguard explain message mail.eml --from 192.168.1.50 --user anna --rules rules/
    Exit codes: 0 told, 1 faults in the rules, 2 wrong usage, 5 no such file.
    """
    from egressguard.mail.header import header_section
    from egressguard.relay.facts import header_facts
    from egressguard.scan.examine import examine

    content = _read(file)
    headers = header_facts(header_section(content))
    report = ScanReport(Verdict(verdict), (), ()) if verdict else examine(content, policy.site.scan)
    paths = recipient or tuple(_addresses(headers, "to", "cc"))
    if not paths:
        raise click.UsageError("the message names no recipient; give --recipient")
    listener = listener or next(iter(policy.site.relay.listeners), "")
    reverse_path = next(_addresses(headers, "return-path", "sender", "from"), "") if sender is None else sender
    for path in paths:
        facts = MailFacts(
            client=client,
            listener=listener,
            helo=helo,
            tls=tls,
            user=user,
            reverse_path=reverse_path,
            forward_path=path,
            moment=moment,
            recipient_count=len(paths),
            size_octets=len(content),
            headers=headers,
            scan=report,
        )
        say_message(policy, facts, as_json=as_json)


@explain_command.command("given")
@_with_policy
@click.argument("given")
@as_json
def given_command(policy: Policy, given: str, as_json: bool) -> None:
    """The same for what stands under `given` in an expectation, and in what `egressguard diff` prints; GIVEN is that
    text, a mapping, or a file that has it (- = standard input). Of several recipients each is told.

    \b
    Example:
      egressguard explain given '{from: 192.168.1.50, to: 198.51.100.7, port: 25}' --rules rules/
      egressguard explain given '{client: 192.168.1.50, user: anna, recipient: b@example.net}' --rules HEAD~1
    Exit codes: 0 told, 1 faults in the rules, 2 wrong usage, 5 no such file.
    """
    text = given.encode() if given.lstrip().startswith("{") else _read(Path(given))
    found = parse_given("GIVEN", text)
    if isinstance(found, list):
        raise click.UsageError("\n".join(map(str, found)))
    if isinstance(found, FlowGiven):
        say_flow(policy, flow_of(found), surroundings_of(found), everything=False, as_json=as_json)
        return
    if found.message is not None:
        raise click.UsageError("a message file is not looked into here; expected `egressguard explain message FILE`")
    for path in found.recipient:
        say_message(policy, mail_facts(policy, found, path), as_json=as_json)


def _read(file: Path) -> bytes:
    try:
        if str(file) == "-":
            return sys.stdin.buffer.read(MAX_MESSAGE_OCTETS)
        with file.open("rb") as opened:
            content = opened.read(MAX_MESSAGE_OCTETS)
    except FileNotFoundError:
        fail(f"{file}: no such file", Exit.NOT_FOUND)
    except OSError as wrong:
        fail(f"{file}: {wrong.strerror}")
    return content if b"\r\n" in content else content.replace(b"\n", b"\r\n")


def _addresses(headers: Any, *names: str) -> Any:
    for name in names:
        for _, address in email.utils.getaddresses(list(headers.get(name, ()))):
            if address:
                yield address
