"""What no single mapping can know: names that point elsewhere, and rules that do not fit together."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain

from egressguard.policy.document import Fault, Path
from egressguard.policy.model import Device, FlowRule, MailRule, Policy, Route
from egressguard.policy.words import did_you_mean

MakeFault = Callable[..., Fault]
"""(path in the merged rules, message, key=False) -> Fault."""


def crosscheck(policy: Policy, fault: MakeFault) -> list[Fault]:
    """All faults between the parts of a policy whose parts are each well-formed."""
    return [
        *_duplicates(policy, fault),
        *chain.from_iterable(_flow(policy, i, rule, fault) for i, rule in enumerate(policy.flows)),
        *chain.from_iterable(_mail(policy, i, rule, fault) for i, rule in enumerate(policy.mail)),
        *chain.from_iterable(_route(policy, i, route, fault) for i, route in enumerate(policy.routes)),
        *_site(policy, fault),
        *chain.from_iterable(_device(i, device, fault) for i, device in enumerate(policy.devices)),
    ]


def _duplicates(policy: Policy, fault: MakeFault) -> Iterator[Fault]:
    for section in ("flows", "mail", "routes", "devices"):
        first: dict[str, str] = {}
        for index, item in enumerate(getattr(policy, section)):
            if item.name in first:
                words = f"the name '{item.name}' stands twice in {section}; the first is at {first[item.name]}"
                yield fault((section, index, "name"), words)
            first.setdefault(item.name, item.at)


def _known(
    path: Path, what: str, names: Iterable[str], known: Mapping[str, object], fault: MakeFault
) -> Iterator[Fault]:
    for index, name in enumerate(names):
        if name not in known:
            there = ", ".join(sorted(known)) or "none is defined"
            hint = did_you_mean(name, known)
            yield fault((*path, index), f"unknown {what} '{name}'{hint}; expected one of: {there}")


def _networks(path: Path, texts: Iterable[str], policy: Policy, fault: MakeFault) -> Iterator[Fault]:
    """Prefixes and @set names."""
    for index, text in enumerate(texts):
        if text.startswith("@"):
            for found in _known(path, "set", [text[1:]], policy.site.sets, fault):
                yield fault((*path, index), found.message)
        elif not _is_network(text):
            words = f"'{text}' is neither a prefix nor a set; expected 192.0.2.0/24, 2001:db8::/32 or @NAME"
            yield fault((*path, index), words)


def _is_network(text: str) -> bool:
    try:
        ipaddress.ip_network(text)
    except ValueError:
        return False
    return True


def _flow(policy: Policy, index: int, rule: FlowRule, fault: MakeFault) -> Iterator[Fault]:
    path: Path = ("flows", index)
    yield from _known((*path, "from"), "zone", rule.from_zone, policy.site.zones, fault)
    yield from _networks((*path, "source"), rule.source, policy, fault)
    yield from _networks((*path, "destination"), rule.destination, policy, fault)
    if rule.destination_host and rule.decide != "queue":
        yield fault((*path, "destination_host"), "host names need thought; expected `decide: queue` beside it")
    if rule.action != "redirect":
        return
    if rule.decide == "queue":
        yield fault((*path, "decide"), "a redirect cannot be decided by queue; expected `decide: kernel`")
    if rule.protocol != "tcp":
        yield fault((*path, "protocol"), "only TCP can be redirected; expected `protocol: tcp`")
    if policy.site.relay.redirect_to is None:
        yield fault((*path, "action"), "redirect where to? expected `redirect_to: LISTENER` in site.relay")


def _mail(policy: Policy, index: int, rule: MailRule, fault: MakeFault) -> Iterator[Fault]:
    path: Path = ("mail", index, "match")
    devices = {device.name: device for device in policy.devices}
    zones = policy.site.zones
    for position, client in enumerate(rule.match.client):
        if client in zones:
            if not zones[client].networks:
                words = f"zone '{client}' has no networks; a mail client is known by its address only"
                yield fault((*path, "client", position), words)
        elif client.startswith("@") or _is_network(client):
            for found in _networks((*path, "client"), [client], policy, fault):
                yield fault((*path, "client", position), found.message)
        else:
            hint = did_you_mean(client, zones)
            words = f"unknown zone '{client}'{hint}; expected a zone, @SET or a prefix"
            yield fault((*path, "client", position), words)
    yield from _known((*path, "device"), "device", rule.match.device, devices, fault)
    yield from _known((*path, "listener"), "listener", rule.match.listener, policy.site.relay.listeners, fault)
    yield from _domains((*path, "sender_domain"), rule.match.sender_domain, fault)
    yield from _domains((*path, "recipient_domain"), rule.match.recipient_domain, fault)
    yield from _paths((*path, "sender"), rule.match.sender, fault)
    yield from _paths((*path, "recipient"), rule.match.recipient, fault)


def _domains(path: Path, texts: Iterable[str], fault: MakeFault) -> Iterator[Fault]:
    for index, text in enumerate(texts):
        if text.startswith("@") and text != "@local":
            yield fault((*path, index), f"'{text}'; expected a domain, .domain (its subdomains) or @local")
        elif not text:
            yield fault((*path, index), "an empty domain; expected a domain, .domain or @local")


def _paths(path: Path, texts: Iterable[str], fault: MakeFault) -> Iterator[Fault]:
    for index, text in enumerate(texts):
        if text != "<>" and "@" not in text:
            yield fault((*path, index), f"'{text}'; expected an address, *@domain or <> (the null sender)")


def _route(policy: Policy, index: int, route: Route, fault: MakeFault) -> Iterator[Fault]:
    path: Path = ("routes", index)
    if "mx" in route.via and len(route.via) > 1:
        yield fault((*path, "via"), "mx stands beside smart hosts; expected either mx or smart hosts")
    hosts = [name for name in route.via if name != "mx"]
    if "mx" not in route.via:
        yield from _known((*path, "via"), "smart host", hosts, policy.site.smart_hosts, fault)
    yield from _domains((*path, "match", "sender_domain"), route.match.sender_domain, fault)
    yield from _domains((*path, "match", "recipient_domain"), route.match.recipient_domain, fault)
    yield from _paths((*path, "match", "sender"), route.match.sender, fault)


def _device(index: int, device: Device, fault: MakeFault) -> Iterator[Fault]:
    yield from _paths(("devices", index, "senders"), device.senders, fault)
    yield from _paths(("devices", index, "recipients"), device.recipients, fault)


def _site(policy: Policy, fault: MakeFault) -> Iterator[Fault]:
    relay = policy.site.relay
    if relay.redirect_to is not None:
        path: Path = ("site", "relay", "redirect_to")
        if relay.redirect_to not in relay.listeners:
            for found in _known(path, "listener", [relay.redirect_to], relay.listeners, fault):
                yield fault(path, found.message)
        elif relay.listeners[relay.redirect_to].kind != "smtp":
            yield fault(path, f"listener '{relay.redirect_to}' is not of kind smtp; clients on 25 expect that")
    for index, resolver in enumerate(policy.site.resolvers):
        if not _is_endpoint(resolver):
            words = f"'{resolver}' is no resolver; expected 192.0.2.53, 192.0.2.53:5353 or [2001:db8::53]:53"
            yield fault(("site", "resolvers", index), words)
    if policy.site.scan.clamd is not None:
        address = policy.site.scan.clamd.address
        host, _, port = address.rpartition(":")
        if not (address.startswith("unix:/") or (host and port.isdecimal())):
            yield fault(("site", "scan", "clamd", "address"), f"'{address}'; expected unix:/path or host:port")


def _is_endpoint(text: str) -> bool:
    try:
        parse_endpoint(text, 53)
    except ValueError:
        return False
    return True


def parse_endpoint(text: str, default_port: int) -> tuple[str, int]:
    """ "192.0.2.53", "192.0.2.53:5353", "2001:db8::53" or "[2001:db8::53]:5353" -> (address, port). Raises ValueError."""
    host, port = text, default_port
    if text.startswith("["):
        host, closed, rest = text[1:].partition("]")
        if not closed or (rest and not rest.startswith(":")):
            raise ValueError(text)
        port = int(rest[1:]) if rest else default_port
    elif text.count(":") == 1:
        host, _, number = text.partition(":")
        port = int(number)
    if not 0 < port < 65536:
        raise ValueError(text)
    return str(ipaddress.ip_address(host)), port
