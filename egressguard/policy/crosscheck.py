"""What no single mapping can know: names that point elsewhere, and rules that do not fit together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from heapq import nsmallest
from itertools import chain

from egressguard.net.flow import TUNNELS
from egressguard.policy.accesscheck import check_access
from egressguard.policy.document import Fault, Path
from egressguard.policy.endpoint import parse_endpoint
from egressguard.policy.fields import parse_mac, parse_prefixes
from egressguard.policy.flows import MAPPED_RULE, TUNNELS_RULE
from egressguard.policy.invariants import INTERNET, Invariant, Packets
from egressguard.policy.limits import quotas
from egressguard.policy.mailboxcheck import check_mailboxes
from egressguard.policy.matchers import ANY_DEVICE
from egressguard.policy.model import Device, FlowRule, Limit, MailRule, Policy, Route, TlsRule
from egressguard.policy.next_hop import is_next_hop, parse_next_hop
from egressguard.policy.patterns import LOCAL, NULL
from egressguard.policy.sitecheck import Found, check_retry, check_site, is_host
from egressguard.policy.words import did_you_mean, one_of, quote

__all__ = ["crosscheck", "parse_endpoint"]

SHOWN = 21  # names that `one_of` looks at

MakeFault = Callable[[Path, str], Fault]
"""(path in the merged rules, message) -> Fault."""


@dataclass(frozen=True, slots=True)
class Names:
    """What rules may point to, by name: gathered once, for a policy can have very many rules."""

    limits: Mapping[str, object]
    block_lists: Mapping[str, object]
    devices: Mapping[str, object]
    tags: Mapping[str, object]


def crosscheck(policy: Policy, fault: MakeFault) -> Iterator[Fault]:
    """All faults between the parts of a policy whose parts are each well-formed."""
    names = Names(
        limits={limit.name: limit for limit in policy.limits},
        block_lists=policy.site.block_lists,
        devices={device.name: device for device in policy.devices},
        tags=dict.fromkeys(chain.from_iterable(rule.tag for rule in policy.mail)),
    )
    found = chain(
        _duplicates(policy),
        chain.from_iterable(_flow(policy, i, rule) for i, rule in enumerate(policy.flows)),
        chain.from_iterable(_mail(policy, names, i, rule) for i, rule in enumerate(policy.mail)),
        chain.from_iterable(_limit(i, limit) for i, limit in enumerate(policy.limits)),
        chain.from_iterable(_route(policy, names, i, route) for i, route in enumerate(policy.routes)),
        chain.from_iterable(_tls(policy, i, rule) for i, rule in enumerate(policy.tls)),
        check_site(policy.site),
        check_mailboxes(policy.site),
        check_access(policy),
        chain.from_iterable(_device(i, device) for i, device in enumerate(policy.devices)),
        chain.from_iterable(_invariant(policy, i, each) for i, each in enumerate(policy.invariants)),
    )
    return (fault(path, message) for path, message in found)


def _duplicates(policy: Policy) -> Found:
    for section in ("flows", "mail", "limits", "routes", "tls", "devices", "invariants"):
        first: dict[str, str] = {}
        for index, item in enumerate(getattr(policy, section)):
            if item.name in first:
                words = f"the name '{item.name}' stands twice in {section}; the first is at {first[item.name]}"
                yield (section, index, "name"), f"{words}, expected names of their own"
            first.setdefault(item.name, item.at)


def _known(path: Path, what: str, names: Iterable[str], known: Mapping[str, object]) -> Found:
    for index, name in enumerate(names):
        if name not in known:
            hint = did_you_mean(name, known)
            yield (*path, index), f"unknown {what} {quote(name)}{hint}; expected {one_of(nsmallest(SHOWN, known))}"


def _networks(path: Path, texts: Iterable[str], policy: Policy) -> Found:
    """Prefixes and @set names."""
    for index, text in enumerate(texts):
        if message := _network_fault(text, policy):
            yield (*path, index), message


def _network_fault(text: str, policy: Policy) -> str:
    if text.startswith("@"):
        return "".join(message for _path, message in _known((), "set", [text[1:]], policy.site.sets))
    try:
        parse_prefixes(text)
    except ValueError as wrong:
        return f"{quote(text)} is neither a prefix nor a set: {wrong}, or @NAME"
    return ""


def _flow(policy: Policy, index: int, rule: FlowRule) -> Found:
    path: Path = ("flows", index)
    yield from _known((*path, "from"), "zone", rule.from_zone, policy.site.zones)
    yield from _networks((*path, "source"), rule.source, policy)
    yield from _networks((*path, "destination"), rule.destination, policy)
    yield from _macs((*path, "source_mac"), rule.source_mac, policy)
    if rule.name in RESERVED:
        words = f"{quote(rule.name)} is the name under which EgressGuard itself counts; expected another"
        yield (*path, "name"), words
    for position, host in enumerate(rule.destination_host):
        if not is_host(host):
            words = f"{quote(host)} is no host name; expected one such as mx.example.org"
            yield (*path, "destination_host", position), words
    if rule.destination_host and rule.decide != "queue":
        yield (*path, "destination_host"), "the kernel knows no host names; expected `decide: queue` beside it"
    if rule.protocol in _TUNNELS and rule.port:
        yield (*path, "port"), f"{rule.protocol} has no ports; expected no `port` beside it"
    if "fail" in rule.model_fields_set and rule.decide != "queue":
        yield (*path, "fail"), "the kernel decides, and does not fail; expected `decide: queue` beside it"
    if rule.speaks is not None:
        yield from _speaks(path, rule)
    if rule.action in {"redirect", "tarpit"}:
        yield from _redirect(policy, path, rule)


RESERVED = frozenset({MAPPED_RULE, TUNNELS_RULE, "own-processes", "contained", "fragments", "mail-access"})
"""Names in counters and in the journal that stand for no rule."""
_TUNNELS = frozenset(protocol.value for protocol in TUNNELS)


def _macs(path: Path, texts: Iterable[str], policy: Policy) -> Found:
    for index, text in enumerate(texts):
        if text.startswith("@"):
            unknown = _known((), "MAC set", [text[1:]], policy.site.mac_sets)
            yield from (((*path, index), message) for _, message in unknown)
            continue
        try:
            parse_mac(text)
        except ValueError as wrong:
            yield (*path, index), f"{quote(text)} is neither a MAC address nor a set: {wrong}, or @NAME"


def _speaks(path: Path, rule: FlowRule) -> Found:
    """What is said is known when the flow stands: too late to send it elsewhere or to ask about its opening."""
    if rule.protocol != "tcp":
        yield (*path, "speaks"), "SMTP is spoken over TCP; expected `protocol: tcp`"
    if rule.decide == "queue":
        yield (*path, "decide"), "the kernel looks at what is said; expected `decide: kernel` beside `speaks`"
    if rule.action in {"redirect", "tarpit"}:
        words = (
            f"a flow that speaks already cannot be sent elsewhere by `action: {rule.action}`; expected reject or drop"
        )
        yield (*path, "action"), words


def _redirect(policy: Policy, path: Path, rule: FlowRule) -> Found:
    if rule.decide == "queue":
        yield (*path, "decide"), f"a {rule.action} cannot be decided by queue; expected `decide: kernel`"
    if rule.protocol != "tcp":
        yield (*path, "protocol"), f"only TCP can be sent into a {rule.action}; expected `protocol: tcp`"
    if not rule.port:
        yield (*path, "action"), f"every TCP port would end here; expected `port: 25` beside the {rule.action}"
    if rule.action == "redirect" and policy.site.relay.redirect_to is None:
        yield (*path, "action"), "redirect where to? expected `redirect_to: LISTENER` in site.relay"
    if rule.action == "tarpit" and policy.site.relay.tarpit_port is None:
        yield (*path, "action"), "a tarpit where? expected `tarpit_port: 2599` in site.relay"


def _mail(policy: Policy, names: Names, index: int, rule: MailRule) -> Found:
    path: Path = ("mail", index, "match")
    match = rule.match
    yield from _clients((*path, "client"), match.client, policy)
    for position, name in enumerate(match.device):
        if name not in names.devices and name != ANY_DEVICE:
            choices = one_of([ANY_DEVICE, *nsmallest(SHOWN, names.devices)])
            hint = did_you_mean(name, chain([ANY_DEVICE], names.devices))
            words = f"unknown device {quote(name)}{hint}; expected {choices}"
            yield (*path, "device", position), words
    yield from _known((*path, "listener"), "listener", match.listener, policy.site.relay.listeners)
    yield from _domains((*path, "sender_domain"), match.sender_domain)
    yield from _domains((*path, "recipient_domain"), match.recipient_domain)
    yield from _paths((*path, "sender"), match.sender, NULL)
    yield from _paths((*path, "recipient"), match.recipient)
    if match.user and match.authenticated is False:
        yield (*path, "user"), "a client that is not authenticated has no user; expected one of the two keys"
    yield from _known((*path, "over_limit"), "limit", match.over_limit, names.limits)
    yield from _known((*path, "block_list"), "block list", match.block_list, names.block_lists)
    yield from _answers(("mail", index), rule)
    yield from _effects(policy, names, ("mail", index), rule)


def _effects(policy: Policy, names: Names, path: Path, rule: MailRule) -> Found:
    yield from _known((*path, "limit"), "limit", rule.limit, names.limits)
    yield from _paths((*path, "notify"), rule.notify)
    if rule.route:
        yield from _via(policy, (*path, "route"), rule.route)
    yield from _source_routes(policy, path, rule)
    adds = rule.add_header or rule.tag or rule.route or rule.notify or rule.limit
    if rule.action == "continue" and not (adds or rule.rewrite_sender or rule.source_routes):
        words = "a rule that goes on and adds nothing does nothing; expected limit, tag, add_header, route or notify"
        yield (*path, "action"), words
    if rule.rewrite_sender and policy.site.forwarding.srs is None:
        yield (*path, "rewrite_sender"), "rewritten how? expected `srs: {domain: ..., secrets: ...}` in site.forwarding"
    for name in rule.add_header:
        if name.lower() in _OWN_FIELDS:
            words = f"the field {name} belongs to the message's author or to the relay; expected one such as X-Site"
            yield (*path, "add_header", name), words


def _source_routes(policy: Policy, path: Path, rule: MailRule) -> Found:
    """A stranger who programs routes is what an open relay is: somebody has to be known first."""
    match = rule.match
    if rule.source_routes and not (match.authenticated or match.user or match.device):
        words = "anybody could ask for a route; expected `authenticated: true`, user or device in match"
        yield (*path, "source_routes"), words
    for way in rule.source_routes:
        yield from _via(policy, (*path, "source_routes"), (way,))


_OWN_FIELDS = frozenset(
    {"received", "return-path", "from", "sender", "reply-to", "to", "cc", "bcc", "subject", "date", "message-id"}
    | {"mime-version", "content-type", "content-transfer-encoding", "content-disposition"}
    | {"authentication-results", "dkim-signature", "arc-seal", "arc-message-signature", "arc-authentication-results"}
)


def _limit(index: int, limit: Limit) -> Found:
    path: Path = ("limits", index)
    if not quotas(limit):
        yield path, "a limit without a number limits nothing; expected a key such as messages_per_hour: 300"
    if "folder" in limit.model_fields_set and limit.above != "quarantine":
        yield (*path, "folder"), f"`above: {limit.above}` has no folder; expected `above: quarantine`"
    if "contain_seconds" in limit.model_fields_set and limit.above != "contain":
        yield (*path, "contain_seconds"), f"`above: {limit.above}` contains nobody; expected `above: contain`"


def _clients(path: Path, texts: Iterable[str], policy: Policy) -> Found:
    zones = policy.site.zones
    for position, text in enumerate(texts):
        if text in zones:
            if not zones[text].networks:
                words = f"a mail client is known by its address only; expected `networks` in zone '{text}'"
                yield (*path, position), words
        elif message := _network_fault(text, policy):
            if not text.startswith("@"):
                choices = "a zone, @SET or a prefix such as 192.0.2.0/24"
                message = f"unknown zone {quote(text)}{did_you_mean(text, zones)}; expected {choices}"
            yield (*path, position), message


def _answers(path: Path, rule: MailRule) -> Found:
    """Keys that the rule's action never uses: whoever wrote them expects something that will not happen."""
    if "folder" in rule.model_fields_set and rule.action != "quarantine":
        yield (*path, "folder"), f"`action: {rule.action}` has no folder; expected `action: quarantine`"
    if rule.text and rule.action not in {"reject", "defer"}:
        yield (*path, "text"), f"with `action: {rule.action}` nobody is told a text; expected reject or defer"


def _domains(path: Path, texts: Iterable[str]) -> Found:
    for index, text in enumerate(texts):
        if text != LOCAL and not is_host(text.removeprefix(".")):
            hint = did_you_mean(text, [LOCAL])
            words = f"{quote(text)} is no domain{hint}; expected example.org, .example.org (subdomains) or {LOCAL}"
            yield (*path, index), words


def _paths(path: Path, texts: Iterable[str], *others: str) -> Found:
    for index, text in enumerate(texts):
        local_part, at, domain = text.rpartition("@")
        if text not in others and not (local_part and at and (domain.startswith("[") or is_host(domain))):
            choices = " or ".join(["anna@example.org", "*@example.org", *others])
            yield (*path, index), f"{quote(text)} is no address; expected {choices}"


def _route(policy: Policy, names: Names, index: int, route: Route) -> Found:
    path: Path = ("routes", index, "match")
    match = route.match
    yield from _via(policy, ("routes", index, "via"), route.via)
    if route.retry is not None:
        yield from check_retry(("routes", index, "retry"), route.retry)
    yield from _clients((*path, "client"), match.client, policy)
    yield from _known((*path, "listener"), "listener", match.listener, policy.site.relay.listeners)
    yield from _domains((*path, "sender_domain"), match.sender_domain)
    yield from _domains((*path, "recipient_domain"), match.recipient_domain)
    yield from _paths((*path, "sender"), match.sender, NULL)
    yield from _paths((*path, "recipient"), match.recipient)
    yield from _known((*path, "tag"), "tag", match.tag, names.tags)
    larger, smaller = match.larger_than_octets, match.smaller_than_octets
    if larger is not None and smaller is not None and smaller <= larger + 1:
        words = f"no message is larger than {larger} and smaller than {smaller}; expected a larger number here"
        yield (*path, "smaller_than_octets"), words


def via_faults(policy: Policy, ways: tuple[str, ...]) -> list[str]:
    """What is wrong with a way out that a person asks for."""
    return [words for _, words in _via(policy, (), ways)]


def _via(policy: Policy, path: Path, ways: tuple[str, ...]) -> Found:
    """What leads out is of one kind: MX, smart hosts, or next hops that stand for themselves."""
    hops = [parse_next_hop(way) for way in ways if is_next_hop(way)]
    if not ways:
        yield path, "a route that leads nowhere; expected mx, the names of smart hosts, or next hops"
    elif "mx" in ways and len(ways) > 1:
        yield path, "mx stands beside smart hosts; expected either mx or smart hosts"
    elif hops and len(hops) < len(ways):
        yield path, "next hops stand beside names; expected a smart host for each, or next hops only"
    elif len(ways) > 1 and (alone := next((hop for hop in hops if hop.stands_alone), None)) is not None:
        yield path, f"{alone} stands beside others; expected it alone"
    elif hops and hops[0].transport == "pipe":
        yield from _known(path, "pipe", [hops[0].host], policy.site.pipes)
    elif not hops and ways != ("mx",):
        yield from _known(path, "smart host", ways, policy.site.smart_hosts)


def _tls(policy: Policy, index: int, rule: TlsRule) -> Found:
    path: Path = ("tls", index)
    yield from _domains((*path, "match", "recipient_domain"), rule.match.recipient_domain)
    for key, texts in ((("match", "next_hop"), rule.match.next_hop), (("names",), rule.names)):
        for position, text in enumerate(texts):
            if not is_host(text.removeprefix(".")):
                words = f"{quote(text)} is no host name; expected mx.example.org or .example.org (all below it)"
                yield (*path, *key, position), words
    for name in ("names", "ca_file"):
        if getattr(rule, name) and rule.level not in {"verify", "secure"}:
            yield (*path, name), f"`level: {rule.level}` does not look at it; expected verify or secure"
    if rule.client_certificate is not None and rule.level == "none":
        yield (*path, "client_certificate"), "without TLS nothing is shown; expected another level"
    if rule.level in {"dane", "dane-only"} and not policy.site.dnssec:
        yield (*path, "level"), "DANE needs answers that are known to be true; expected `dnssec: true` in site"


def _device(index: int, device: Device) -> Found:
    path: Path = ("devices", index)
    for key in ("addresses", "senders"):
        if not getattr(device, key):
            yield (*path, key), f"a device without {key} may send nothing; expected at least one"
    yield from _paths((*path, "senders"), device.senders, NULL)
    yield from _paths((*path, "recipients"), device.recipients)


def _invariant(policy: Policy, index: int, invariant: Invariant) -> Found:
    path: Path = ("invariants", index)
    for key in ("never", "always"):
        if (packets := getattr(invariant, key)) is not None:
            yield from _packets(policy, (*path, key), packets)
    for position, packets in enumerate(invariant.besides):
        yield from _packets(policy, (*path, "except", position), packets)


def _packets(policy: Policy, path: Path, packets: Packets) -> Found:
    zones = policy.site.zones
    yield from _known((*path, "from"), "zone", packets.from_zone, zones)
    yield from _known((*path, "to"), "zone", packets.to_zone, {**zones, INTERNET: None})
    if INTERNET in zones and INTERNET in packets.to_zone:
        yield (
            (*path, "to"),
            f"a zone has the name '{INTERNET}', which means where none is; expected another name of it",
        )
    yield from _networks((*path, "source"), packets.source, policy)
    yield from _networks((*path, "destination"), packets.destination, policy)
    if packets.protocol in _TUNNELS and packets.port:
        yield (*path, "port"), f"{packets.protocol} has no ports; expected no `port` beside it"
    if packets.speaks is not None and packets.protocol != "tcp":
        yield (*path, "speaks"), "SMTP is spoken over TCP; expected `protocol: tcp`"
