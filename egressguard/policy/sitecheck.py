"""What does not fit together inside `site`: ports used twice, listeners and hosts that nobody can reach."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import chain

from egressguard.mail.address import AddressError, parse_domain
from egressguard.policy.document import Path
from egressguard.policy.endpoint import is_loopback, parse_endpoint, parse_port
from egressguard.policy.fields import Address
from egressguard.policy.networks import INSIDE
from egressguard.policy.pipes import Pipe
from egressguard.policy.relaying import Relay
from egressguard.policy.scheduling import Breaker, Concurrency, Destination, Retry
from egressguard.policy.signing import AUTHOR_FIELD, Signer
from egressguard.policy.site import Site, Zone
from egressguard.policy.smart_host import SmartHost
from egressguard.policy.words import did_you_mean, one_of, quote

Found = Iterator[tuple[Path, str]]
"""(path in the merged rules, message)."""

RESERVED_ZONES = frozenset({"any", "gateway"})  # the packet plane's own words in counters and reports
INTERFACE_OCTETS = 15  # IFNAMSIZ less the NUL
WILDCARDS = frozenset({"0.0.0.0", "::"})  # noqa: S104 -- compared with, not bound to


def check_site(site: Site) -> Found:
    """All faults inside `site`."""
    yield from chain.from_iterable(_zone(name, zone) for name, zone in site.zones.items())
    yield from _resolvers(site)
    yield from _domains(site)
    yield from _relay(site.relay)
    yield from chain.from_iterable(_smart_host(site, name, host) for name, host in site.smart_hosts.items())
    yield from chain.from_iterable(_signer(name, signer) for name, signer in site.signing.items())
    yield from _forwarding(site)
    yield from chain.from_iterable(_destination(name, entry) for name, entry in site.destinations.items())
    yield from chain.from_iterable(_pipe(name, pipe) for name, pipe in site.pipes.items())
    yield from _engines(site)
    yield from _ports(site)


RESERVED_LISTENER = "tarpit"


def is_host(text: str) -> bool:
    """A host name, no address."""
    try:
        return not parse_domain(text).startswith("[") and not text.rpartition(".")[2].isdecimal()
    except AddressError:
        return False


def _zone(name: str, zone: Zone) -> Found:
    if name in RESERVED_ZONES:
        yield ("site", "zones", name), f"the zone name '{name}' is taken by EgressGuard itself; expected another"
    for index, interface in enumerate(zone.interfaces):
        if interface != INSIDE and not _is_interface(interface):
            hint = did_you_mean(interface, [INSIDE])
            words = f"{quote(interface)} is no interface{hint}; expected a name such as eth0 (no patterns) or {INSIDE}"
            yield ("site", "zones", name, "interfaces", index), words


def _is_interface(text: str) -> bool:
    octets = text.encode()
    allowed = text.isprintable() and not set(text) & set("*/\"' \\")
    return 0 < len(octets) <= INTERFACE_OCTETS and text[0] != "@" and allowed


def _resolvers(site: Site) -> Found:
    for index, resolver in enumerate(site.resolvers):
        try:
            address, _ = parse_endpoint(resolver, 53)
        except ValueError:
            words = f"{quote(resolver)} is no resolver; expected 192.0.2.53, 192.0.2.53:5353 or [2001:db8::53]:53"
            yield ("site", "resolvers", index), words
        else:
            if site.dnssec and not is_loopback(address):
                words = f"with `dnssec: true` the way to {quote(resolver)} must be safe; expected one such as 127.0.0.1"
                yield ("site", "resolvers", index), words


def _domains(site: Site) -> Found:
    for index, domain in enumerate(site.domains):
        if not is_host(domain):
            yield ("site", "domains", index), f"{quote(domain)} is no domain; expected one such as example.org"
    if site.relay.hostname is not None and not is_host(site.relay.hostname):
        words = f"{quote(site.relay.hostname)} is no host name; expected one such as gateway.example.org"
        yield ("site", "relay", "hostname"), words


def _relay(relay: Relay) -> Found:
    path: Path = ("site", "relay", "redirect_to")
    if relay.redirect_to is not None and relay.redirect_to not in relay.listeners:
        hint = did_you_mean(relay.redirect_to, relay.listeners)
        yield path, f"unknown listener '{relay.redirect_to}'{hint}; expected {one_of(relay.listeners)}"
    elif relay.redirect_to is not None and (kind := relay.listeners[relay.redirect_to].kind) != "smtp":
        yield path, f"listener '{relay.redirect_to}' is of kind {kind}; expected kind smtp, as clients of port 25 do"
    if RESERVED_LISTENER in relay.listeners:
        words = f"the name '{RESERVED_LISTENER}' is that of `tarpit_port`; expected another"
        yield ("site", "relay", "listeners", RESERVED_LISTENER), words
    yield from check_retry(("site", "relay", "retry"), relay.retry)
    yield from _rest(("site", "relay", "concurrency"), relay.concurrency)


def check_retry(path: Path, retry: Retry) -> Found:
    """Of the site, a destination or a route."""
    for key in ("longest_seconds", "give_up_after_seconds"):
        if (limit := getattr(retry, key)) < retry.first_seconds:
            words = f"{key} ({limit}) is less than first_seconds ({retry.first_seconds}); expected at least that"
            yield (*path, key), words
    warn, end = retry.warn_after_seconds, retry.give_up_after_seconds
    if warn is not None and warn >= end:
        words = f"warn_after_seconds ({warn}) is not before give_up_after_seconds ({end}); expected less"
        yield (*path, "warn_after_seconds"), words


def _rest(path: Path, rest: Concurrency | Breaker) -> Found:
    first, longest = rest.rest_first_seconds, rest.rest_longest_seconds
    if longest < first:
        words = f"rest_longest_seconds ({longest}) is less than rest_first_seconds ({first}); expected at least that"
        yield (*path, "rest_longest_seconds"), words


def _destination(name: str, destination: Destination) -> Found:
    path: Path = ("site", "destinations", name)
    for index, domain in enumerate(destination.domain):
        if not is_host(domain.removeprefix(".")):
            yield (*path, "domain", index), f"{quote(domain)} is no domain; expected example.org or .example.org"
    if destination.retry is not None:
        yield from check_retry((*path, "retry"), destination.retry)
    if destination.concurrency is not None:
        yield from _rest((*path, "concurrency"), destination.concurrency)


def _smart_host(site: Site, name: str, smart_host: SmartHost) -> Found:
    path: Path = ("site", "smart_hosts", name)
    if name == "mx":
        yield path, "a smart host cannot be named mx, which means delivery by MX look-up; expected another name"
    if not is_host(smart_host.host) and not _is_address(smart_host.host):
        yield (*path, "host"), f"{quote(smart_host.host)} is no host; expected a host name or an address"
    if smart_host.tls == "dane" and not site.dnssec:
        yield (*path, "tls"), "DANE needs answers that are known to be true; expected `dnssec: true` in site"
    if smart_host.client_certificate is not None and smart_host.tls == "none":
        yield (*path, "client_certificate"), "without TLS nothing is shown; expected another value of `tls`"
    if smart_host.auth is not None and smart_host.tls in {"none", "opportunistic"}:
        words = f"a password over `tls: {smart_host.tls}` can be read on the way; expected starttls, implicit or dane"
        yield (*path, "tls"), words
    yield from _rest((*path, "breaker"), smart_host.breaker)
    if smart_host.concurrency is not None:
        yield from _rest((*path, "concurrency"), smart_host.concurrency)


def _signer(name: str, signer: Signer) -> Found:
    path: Path = ("site", "signing", name)
    for index, domain in enumerate(signer.domains):
        if not is_host(domain):
            yield (*path, "domains", index), f"{quote(domain)} is no domain; expected one such as example.org"
    if AUTHOR_FIELD.lower() not in map(str.lower, signer.headers):
        yield (*path, "headers"), "a signature has to cover the author (RFC 6376 s5.4); expected From among them"
    for index, field in enumerate(signer.headers):
        if field.lower() in _NEVER_SIGNED:
            yield (*path, "headers", index), f"{field} changes on the way; expected fields that nobody changes"


_NEVER_SIGNED = frozenset(
    {"received", "return-path", "dkim-signature", "authentication-results", "bcc"}
    | {"arc-seal", "arc-message-signature", "arc-authentication-results"}
)


def _forwarding(site: Site) -> Found:
    path: Path = ("site", "forwarding")
    seal, srs = site.forwarding.seal, site.forwarding.srs
    if seal is not None and seal not in site.signing:
        hint = did_you_mean(seal, site.signing)
        yield (*path, "seal"), f"unknown signer {quote(seal)}{hint}; expected {one_of(site.signing)}"
    if srs is not None and srs.domain.lower() not in map(str.lower, site.domains):
        words = f"bounces for {quote(srs.domain)} would not come to us as ours; expected {one_of(site.domains)}"
        yield (*path, "srs", "domain"), words


PLACEHOLDERS = ("sender", "recipient", "nexthop")
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")


def _pipe(name: str, pipe: Pipe) -> Found:
    path: Path = ("site", "pipes", name)
    if not pipe.command[0].startswith("/") or "{" in pipe.command[0]:
        words = f"{quote(pipe.command[0])} is no program; expected an absolute path, such as /usr/bin/uux"
        yield (*path, "command", 0), words
    for index, argument in enumerate(pipe.command[1:], start=1):
        for word in _PLACEHOLDER.findall(argument):
            if word not in PLACEHOLDERS:
                words = f"{quote(word)} stands for nothing{did_you_mean(word, PLACEHOLDERS)}"
                yield (*path, "command", index), f"{words}; expected {one_of(PLACEHOLDERS)} between braces"
    if pipe.max_recipients > 1 and not any("{recipient}" in argument for argument in pipe.command):
        yield (*path, "max_recipients"), "nothing tells the program who they are; expected {recipient} in its command"


def _is_address(text: str) -> bool:
    try:
        return parse_endpoint(text, 25)[1] == 25 and "[" not in text and "%" not in text
    except ValueError:
        return False


def _engines(site: Site) -> Found:
    scan = site.scan
    engines = (("clamd", scan.clamd), ("rspamd", scan.rspamd), ("spamd", scan.spamd))
    addresses: list[tuple[Path, str]] = [
        ((name, "address"), engine.address) for name, engine in engines if engine is not None
    ]
    if scan.rspamd is not None and scan.rspamd.controller is not None:
        addresses.append((("rspamd", "controller", "address"), scan.rspamd.controller.address))
    for path, address in addresses:
        if not _is_server(address):
            words = f"{quote(address)} is no server; expected unix:/path or host:port"
            yield ("site", "scan", *path), words


def _is_server(address: str) -> bool:
    if address.startswith("unix:/"):
        return True
    host, _, port = address.rpartition(":")
    try:
        parse_port(port)
    except ValueError:
        return False
    return bool(host)


def _ports(site: Site) -> Found:
    """No two servers on one port, unless each listens on addresses of its own. "::" is bound for IPv6 only."""
    on_address: dict[tuple[int, str], str] = {}
    on_any: dict[tuple[int, str], str] = {}
    for path, addresses, port in _servers(site):
        if port == 0:
            continue
        where = ".".join(map(str, path))
        others = (_other(on_address, on_any, port, address) for address in sorted(addresses))
        if (other := next(filter(None, others), None)) is not None:
            yield path, f"port {port} is used by {other} already; expected a port of its own"
        for address in addresses:
            on_address.setdefault((port, address), where)
            on_any.setdefault((port, _wildcard(address)), where)


def _other(
    on_address: Mapping[tuple[int, str], str], on_any: Mapping[tuple[int, str], str], port: int, address: str
) -> str | None:
    """Who has this address and port, or all addresses of its family."""
    wildcard = _wildcard(address)
    if address == wildcard:
        return on_any.get((port, wildcard))
    return on_address.get((port, address)) or on_address.get((port, wildcard))


def _wildcard(address: str) -> str:
    return "::" if ":" in address else "0.0.0.0"  # noqa: S104 -- compared with, not bound to


def _servers(site: Site) -> Iterator[tuple[Path, frozenset[str], int]]:
    for name, listener in site.relay.listeners.items():
        yield ("site", "relay", "listeners", name, "port"), _texts(listener.addresses), listener.port
    if site.relay.tarpit_port is not None:
        yield ("site", "relay", "tarpit_port"), WILDCARDS, site.relay.tarpit_port
    for key in ("imap_port", "imaps_port", "pop3_port", "pop3s_port"):
        if (port := getattr(site.access, key)) is not None:
            yield ("site", "access", key), WILDCARDS, port
    yield ("site", "metrics", "port"), _texts((site.metrics.address,)), site.metrics.port


def _texts(addresses: tuple[Address, ...]) -> frozenset[str]:
    return frozenset(map(str, addresses))
