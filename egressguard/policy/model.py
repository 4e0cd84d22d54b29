"""The schema of rule files: each class is one mapping in YAML; a checked tree of them is the Policy.

Contract
    Unknown keys, wrong types and out-of-range values are faults (pydantic, strict, extra="forbid").
    Names that point elsewhere (zones, sets, smart hosts, listeners) are checked by policy.load, not here.
    Everything is frozen: a Policy never changes, it is replaced.
    `at` is where the mapping stands ("flows.yaml:12:5"); load fills it in, rule files cannot.
"""

from __future__ import annotations

import ipaddress
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, model_validator

from egressguard.net.flow import IPAddress, IPNetwork
from egressguard.policy.facts import Verdict

NAME_PATTERN = r"^[a-z0-9][a-z0-9_-]{0,62}$"
DOMAIN_PATTERN = r"^[A-Za-z0-9_]([A-Za-z0-9_.-]{0,253})$"
FILE_PATTERN = r"^file:.+$"
FOLDER_PATTERN = r"^[A-Z][A-Za-z0-9-]{0,31}$"
TEXT_PATTERN = r"^[\x20-\x7e]*$"

Name = Annotated[str, Field(pattern=NAME_PATTERN, description="lower-case name, at most 63 characters")]
Port = Annotated[int, Field(ge=1, le=65535)]
ListenPort = Annotated[int, Field(ge=0, le=65535, description="0 = any free port")]
Domain = Annotated[str, Field(pattern=DOMAIN_PATTERN)]

_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")


def parse_network(value: Any) -> IPNetwork:
    """A prefix as rules write it. Raises ValueError with words of what was expected."""
    try:
        network = ipaddress.ip_network(value if isinstance(value, str) else "", strict=False)
    except ValueError:
        raise ValueError("expected an address or a prefix such as 192.0.2.0/24 or 2001:db8::/32") from None
    if "%" in value:
        raise ValueError(f"expected no interface in a prefix, such as {str(network).partition('%')[0]}")
    if ipaddress.ip_address(value.partition("/")[0]) != network.network_address:
        raise ValueError(f"it has bits behind the prefix; expected {network}")
    if network.version == 6 and network.subnet_of(_MAPPED):
        raise ValueError("expected an IPv4 prefix: mapped addresses count as the IPv4 address they stand for")
    return network


def _parse_address(value: Any) -> Any:
    try:
        return ipaddress.ip_address(value if isinstance(value, str) else "")
    except ValueError:
        raise ValueError("expected an address such as 192.0.2.1 or 2001:db8::1") from None


def _one_or_many(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value if isinstance(value, tuple) else (value,)


def _list(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


Network = Annotated[IPNetwork, BeforeValidator(parse_network)]
Address = Annotated[IPAddress, BeforeValidator(_parse_address)]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, arbitrary_types_allowed=True)
    _at: str = PrivateAttr(default="")

    @property
    def at(self) -> str:
        return self._at


Item = TypeVar("Item")
Many = Annotated[tuple[Item, ...], BeforeValidator(_one_or_many)]
"""One value or a list of them; always a tuple inside."""
Listed = Annotated[tuple[Item, ...], BeforeValidator(_list)]
Names = Many[Name]
Texts = Many[str]
Networks = Many[Network]
Ports = Many[Port]


class Zone(Strict):
    """A packet is in the zone when it arrives on one of its interfaces OR its source is in one of its networks.

    The interface "@inside" means every interface that carries no default route (loopback aside), found at run time.
    """

    interfaces: Texts = ()
    networks: Networks = ()

    @model_validator(mode="after")
    def _not_empty(self) -> Zone:
        if not (self.interfaces or self.networks):
            raise ValueError("a zone needs interfaces, networks or both")
        return self


class Listener(Strict):
    """kind smtp: port 25 style, no AUTH; submission: STARTTLS then AUTH (587); submissions: implicit TLS (465)."""

    kind: Literal["smtp", "submission", "submissions"]
    port: ListenPort
    addresses: Many[Address] = (
        ipaddress.IPv4Address("0.0.0.0"),  # noqa: S104 -- a relay listens everywhere; who may send is the rules' matter
        ipaddress.IPv6Address("::"),
    )


class Tls(Strict):
    """PEM files; both left out = a self-signed pair is made in the state directory at first start."""

    certificate: str | None = None
    private_key: str | None = None

    @model_validator(mode="after")
    def _both_or_none(self) -> Tls:
        if (self.certificate is None) != (self.private_key is None):
            raise ValueError("certificate and private_key go together")
        return self


class Retry(Strict):
    """Seconds. Defaults follow RFC 5321 s4.5.4.1, but start sooner, as users of today's mail expect."""

    first_seconds: Annotated[int, Field(ge=1)] = 300
    longest_seconds: Annotated[int, Field(ge=1)] = 3 * 3600
    give_up_after_seconds: Annotated[int, Field(ge=1)] = 5 * 24 * 3600


class Relay(Strict):
    hostname: Domain | None = Field(None, description="the name in banner, EHLO and Received; none = the machine's")
    listeners: dict[Name, Listener] = Field(default_factory=dict)
    redirect_to: Name | None = Field(None, description="the listener that redirected flows land in")
    tls: Tls = Tls()
    max_message_octets: Annotated[int, Field(ge=1024)] = 50 * 1024 * 1024
    max_recipients: Annotated[int, Field(ge=100)] = 1000  # RFC 5321 s4.5.3.1.8: at least 100
    max_connections: Annotated[int, Field(ge=1)] = 1000
    max_hops: Annotated[int, Field(ge=10)] = 50
    delivery_port: Port = Field(25, description="the port of MX hosts")
    attempt_timeout_seconds: Annotated[int, Field(ge=1)] = 300
    free_space_reserve_octets: Annotated[int, Field(ge=0)] = 64 * 1024 * 1024
    retry: Retry = Retry()


class SmartHostAuth(Strict):
    """`secret` is "file:PATH"; a relative path is below the state directory's secrets/. Never the secret itself."""

    user: str
    secret: Annotated[str, Field(pattern=FILE_PATTERN)]


class SmartHost(Strict):
    """tls: none; opportunistic (STARTTLS if offered, unverified); starttls and implicit verify the certificate."""

    host: str
    port: Port = 587
    tls: Literal["none", "opportunistic", "starttls", "implicit"] = "starttls"
    ca_file: str | None = None
    auth: SmartHostAuth | None = None


class PacketPlane(Strict):
    nflog_group: Annotated[int, Field(ge=1, le=65535)] = 2525
    log_per_second: Annotated[int, Field(ge=1, le=10_000)] = 20
    queue_number: Annotated[int, Field(ge=0, le=65535)] = 25
    guard_own_processes: bool = Field(True, description="only the relay's user may reach port 25 from the gateway")


class Clamd(Strict):
    """`address` is "unix:/path" or "host:port". Where it does not answer, the verdict is unknown: defer."""

    address: str
    timeout_seconds: Annotated[int, Field(ge=1, le=600)] = 60


class Scan(Strict):
    """Names are shell patterns without regard to case; types are media types found by content."""

    denied_names: Texts = ()
    denied_types: Texts = ()
    max_nesting: Annotated[int, Field(ge=1, le=16)] = 5
    max_unpacked_octets: Annotated[int, Field(ge=1024)] = 256 * 1024 * 1024
    timeout_seconds: Annotated[int, Field(ge=1, le=600)] = 60
    clamd: Clamd | None = None


class Access(Strict):
    """Ports of IMAP and POP3 (Dovecot). None = not offered. Plaintext AUTH needs TLS, always."""

    imap_port: ListenPort | None = None
    imaps_port: ListenPort | None = None
    pop3_port: ListenPort | None = None
    pop3s_port: ListenPort | None = None
    quarantine_admins: Texts = Field((), description="accounts that see the quarantine as a shared folder")


class Metrics(Strict):
    address: Address = ipaddress.IPv4Address("127.0.0.1")
    port: ListenPort = 9125


class Site(Strict):
    """`domains` are the site's own: "@local" in rules, delivered into local mailboxes."""

    zones: dict[Name, Zone]
    sets: dict[Name, Networks] = Field(default_factory=dict)
    resolvers: Many[str] = Field((), description="address or address:port, [address]:port; empty = the system's")
    domains: Many[Domain] = ()
    relay: Relay = Relay()
    smart_hosts: dict[Name, SmartHost] = Field(default_factory=dict)
    packet_plane: PacketPlane = PacketPlane()
    scan: Scan = Scan()
    access: Access = Access()
    metrics: Metrics = Metrics()
    _prepared: object = PrivateAttr(default=None)  # policy.networks keeps its look-up tables here


class FlowRule(Strict):
    """A matcher left out matches everything. `source`/`destination` take prefixes and @set names.

    `decide: queue` hands the flow's first packet to the daemon: needed by matchers that the kernel cannot answer
    (`destination_host`). While the daemon is away such packets are dropped: it fails closed.
    """

    name: Name
    from_zone: Names = Field((), alias="from")
    source: Texts = ()
    destination: Texts = ()
    destination_host: Texts = ()
    protocol: Literal["tcp", "udp"] = "tcp"
    port: Ports = ()
    decide: Literal["kernel", "queue"] = "kernel"
    action: Literal["allow", "reject", "drop", "redirect"]
    log: bool = Field(True, description="blocked and redirected flows are logged at a bounded rate")


class MailMatch(Strict):
    """All keys must match; a key with a list matches when one item does. Paths and domains ignore case.

    `client` takes zone names, @set names and prefixes; `device` takes device names and "@any" (any in `devices`);
    `sender`/`recipient` take addresses, "*@domain" and "<>" (the null reverse-path);
    `sender_domain`/`recipient_domain` take domains, ".domain" (any subdomain) and "@local" (the site's).
    """

    client: Texts = ()
    device: Texts = ()
    listener: Names = ()
    redirected: bool | None = None
    authenticated: bool | None = None
    user: Texts = ()
    tls: bool | None = None
    sender: Texts = ()
    sender_domain: Texts = ()
    recipient: Texts = ()
    recipient_domain: Texts = ()
    larger_than_octets: Annotated[int, Field(ge=0)] | None = None
    attachment_name: Texts = ()
    attachment_type: Texts = ()
    verdict: Many[Annotated[Verdict, Field(strict=False)]] = ()


class MailRule(Strict):
    name: Name
    match: MailMatch = MailMatch()
    action: Literal["accept", "reject", "defer", "quarantine"]
    folder: Annotated[str, Field(pattern=FOLDER_PATTERN)] = "Held"
    text: Annotated[str, Field(max_length=400, pattern=TEXT_PATTERN)] = ""


class RouteMatch(Strict):
    sender: Texts = ()
    sender_domain: Texts = ()
    recipient_domain: Texts = ()


class Route(Strict):
    """`via` is "mx" or the names of smart hosts, tried in this order. First match wins; none = MX."""

    name: Name
    match: RouteMatch = RouteMatch()
    via: Names


class Device(Strict):
    """A thing that cannot authenticate: it may send from these addresses, with these senders only."""

    name: Name
    addresses: Networks
    senders: Texts
    recipients: Texts = Field((), description="empty = anybody")
    note: str = ""


class Policy(Strict):
    """What a rules directory says, merged over its files. `revision` is filled in by load."""

    site: Site
    flows: Listed[FlowRule] = ()
    mail: Listed[MailRule] = ()
    routes: Listed[Route] = ()
    devices: Listed[Device] = ()
    _revision: str = PrivateAttr(default="")

    @property
    def revision(self) -> str:
        """A short digest of the rule files' octets."""
        return self._revision
