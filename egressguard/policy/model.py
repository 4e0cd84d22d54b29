"""The schema of rule files: each class is one mapping in YAML; a checked tree of them is the Policy.

Contract
    Unknown keys, wrong types and out-of-range values are faults (pydantic, strict, extra="forbid").
    Names that point elsewhere (zones, sets, smart hosts, listeners) are checked by policy.crosscheck, not here.
    Every key has a description and a valid example: docs/rules.md and rules/schema.json are made from them.
    Everything is frozen: a Policy never changes, it is replaced.
    `at` is where the mapping stands ("flows.yaml:12:5"); load fills it in, rule files cannot.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PrivateAttr

from egressguard.policy.fields import (
    FOLDER_PATTERN,
    TEXT_PATTERN,
    Hours,
    Listed,
    Name,
    Names,
    Networks,
    Some,
    SomeNames,
    SomePorts,
    SomeTexts,
    Strict,
    Texts,
    Ways,
    Weekdays,
)
from egressguard.policy.invariants import Invariant
from egressguard.policy.match import HeaderName, MailMatch, RouteMatch, TlsMatch
from egressguard.policy.scheduling import Retry
from egressguard.policy.site import PerSecond, Site
from egressguard.policy.smart_host import ClientCertificate

__all__ = ["Device", "FlowRule", "Invariant", "Limit", "MailMatch", "MailRule"]
__all__ += ["Policy", "Route", "RouteMatch", "Rule", "TlsRule"]

Line = Annotated[str, Field(max_length=400, pattern=TEXT_PATTERN)]
Folder = Annotated[str, Field(pattern=FOLDER_PATTERN)]


class Rule(Strict):
    """What every rule has."""

    name: Name = Field(
        description="its name, once in its section; the journal, counters and overlays know it by this",
        examples=["block-direct-smtp"],
    )
    enabled: bool = Field(
        True, description="false = checked like the rest, then as if it were not there", examples=[False]
    )
    staged: bool = Field(
        False,
        description="true = evaluated, counted and journaled as what it would do; nothing happens by it",
        examples=[True],
    )
    note: str = Field(
        "", description="for the reader; nothing comes of it; left out = none", examples=["ticket 4711; until June"]
    )


class FlowRule(Rule):
    """What happens to the packets of one kind of connection. A matcher left out matches everything."""

    from_zone: SomeNames = Field(
        (),
        alias="from",
        description="zones that the packet comes from; left out = any",
        examples=["lan", ["lan", "guests"]],
    )
    source: SomeTexts = Field(
        (),
        description="prefixes, ranges and @sets that the source address is in; left out = any",
        examples=["192.168.1.64/26", ["@mail-servers", "2001:db8:1::25"], "192.168.1.10-192.168.1.20"],
    )
    source_mac: SomeTexts = Field(
        (),
        description="MAC addresses and @sets of site.mac_sets that it comes from, known on the same link only; "
        "left out = any",
        examples=["00:53:00:12:34:56"],
    )
    destination: SomeTexts = Field(
        (),
        description="prefixes, ranges and @sets that the destination address is in; left out = any",
        examples=["203.0.113.0/24"],
    )
    destination_host: SomeTexts = Field(
        (),
        description="host names that the destination address belongs to; needs `decide: queue`; left out = any",
        examples=["mx.partner.example"],
    )
    protocol: Literal["tcp", "udp", "ipip", "6in4", "gre"] = Field(
        "tcp", description="the transport protocol; the last three are tunnels", examples=["udp"]
    )
    port: SomePorts = Field((), description="destination ports; left out = any", examples=[25, [465, 587]])
    speaks: Literal["smtp"] | None = Field(
        None,
        description="smtp = the packet's payload begins as an SMTP client's does (EHLO, HELO, LHLO, MAIL FROM), "
        "whatever the port; left out = any",
        examples=["smtp"],
    )
    weekdays: Some[Weekdays] = Field((), description="local days; left out = any", examples=["mon-fri", ["sat", "sun"]])
    hours: Some[Hours] = Field((), description="local times of day; left out = any", examples=["08:00-18:00"])
    decide: Literal["kernel", "queue"] = Field(
        "kernel",
        description="queue = the daemon decides on a flow's first packet, as destination_host needs it; while it is "
        "away, `fail` says what happens",
        examples=["queue"],
    )
    fail: Literal["closed", "open"] = Field(
        "closed",
        description="for `decide: queue`, when the daemon is away or too slow: closed = dropped; open = they pass",
        examples=["open"],
    )
    action: Literal["allow", "reject", "drop", "redirect", "tarpit"] = Field(
        description="what happens to the flow: see Actions", examples=["reject"]
    )
    log: bool = Field(
        True, description="blocked and redirected flows are journaled, at a bounded rate", examples=[False]
    )
    log_per_second: PerSecond | None = Field(
        None, description="that rate; left out = site.packet_plane.log_per_second", examples=[1]
    )


class MailRule(Rule):
    """What happens to a message. What rules with `action: continue` add, stays added."""

    match: MailMatch = Field(
        MailMatch(), description="which messages; left out = any", examples=[{"authenticated": True}]
    )
    action: Literal["accept", "reject", "defer", "quarantine", "hold", "continue"] = Field(
        description="what happens to the message: see Actions", examples=["accept"]
    )
    folder: Folder = Field(
        "Held", description="quarantine folder, for `action: quarantine` only", examples=["Infected"]
    )
    text: Line = Field(
        "",
        description="what the client is told, for reject and defer only; left out = words that fit",
        examples=["write to the help desk"],
    )
    limit: Names = Field(
        (),
        description="limits that count this message; one it would be above decides instead; left out = none",
        examples=["per-host", ["per-host", "per-user"]],
    )
    add_header: dict[HeaderName, Line] = Field(
        default_factory=dict,
        description="header fields put in front of the message; left out = none",
        examples=[{"X-Site": "north"}],
    )
    tag: Names = Field(
        (), description="words that `routes` can match and the journal shows; left out = none", examples=["bulk"]
    )
    route: Ways = Field(
        (),
        description="the way out, as `via` of a route has it, also for the site's own domains; left out = by `routes`",
        examples=["mx", ["provider", "backup"], "lmtp:unix:/run/dovecot/lmtp"],
    )
    source_routes: Ways = Field(
        (),
        description="ways out that the sender may ask for in a field X-EgressGuard-Route, one of them; for users and "
        "devices only; left out = the field is nothing but text",
        examples=[["mx", "provider", "[mx.partner.example]:2525"]],
    )
    rewrite_sender: bool = Field(
        False,
        description="true = mail of the world leaves under a reverse-path of ours (SRS, as site.forwarding.srs says), "
        "which brings bounces back to the sender",
        examples=[True],
    )
    notify: Texts = Field(
        (),
        description="addresses told of each match, at most one message a minute; left out = none",
        examples=["postmaster@example.org"],
    )


Count = Annotated[int, Field(ge=1, le=10**12)]
Messages = Annotated[
    Count | None, Field(description="the most messages in any such span; left out = unlimited", examples=[300])
]
Recipients = Annotated[
    Count | None, Field(description="the most recipients, all messages together; left out = unlimited", examples=[1000])
]
DistinctRecipients = Annotated[
    Count | None, Field(description="the most different recipients; left out = unlimited", examples=[200])
]
Octets = Annotated[
    Count | None,
    Field(description="the most octets, all messages together; left out = unlimited", examples=[1073741824]),
]
NewDestinations = Annotated[
    Count | None,
    Field(
        description="the most recipient domains that were not written to for 30 days before; left out = unlimited",
        examples=[50],
    ),
]
Refusals = Annotated[
    Count | None, Field(description="the most messages and recipients refused; left out = unlimited", examples=[20])
]


class Limit(Rule):
    """How much one host, device, user, sender domain or zone may send. Counted for messages whose rules name it.

    Each number is the most that any span of that length may hold; a number left out limits nothing.
    """

    per: Literal["host", "device", "user", "sender_domain", "zone"] = Field(
        description="whom it counts for, each apart; a client without one (no user, no device) is not limited",
        examples=["host"],
    )
    messages_per_minute: Messages = None
    messages_per_hour: Messages = None
    messages_per_day: Messages = None
    recipients_per_minute: Recipients = None
    recipients_per_hour: Recipients = None
    recipients_per_day: Recipients = None
    distinct_recipients_per_minute: DistinctRecipients = None
    distinct_recipients_per_hour: DistinctRecipients = None
    distinct_recipients_per_day: DistinctRecipients = None
    octets_per_minute: Octets = None
    octets_per_hour: Octets = None
    octets_per_day: Octets = None
    new_destinations_per_minute: NewDestinations = None
    new_destinations_per_hour: NewDestinations = None
    new_destinations_per_day: NewDestinations = None
    refusals_per_minute: Refusals = None
    refusals_per_hour: Refusals = None
    refusals_per_day: Refusals = None
    above: Literal["defer", "reject", "quarantine", "contain"] = Field(
        "defer",
        description="what happens to a message above it; contain = deferred, and the host is shut out for a while",
        examples=["contain"],
    )
    contain_seconds: Annotated[int, Field(ge=1, le=30 * 86400)] = Field(
        3600, description="how long `above: contain` shuts the host out", examples=[900]
    )
    folder: Folder = Field("Held", description="quarantine folder, for `above: quarantine` only", examples=["Limited"])
    text: Line = Field(
        "",
        description="what the client is told; left out = the limit and what was found",
        examples=["too much mail, ask the help desk"],
    )


class Route(Rule):
    """Which way a message leaves. First match wins; none = MX."""

    match: RouteMatch = Field(
        RouteMatch(), description="which messages; left out = any", examples=[{"recipient_domain": "partner.example"}]
    )
    via: Ways = Field(
        description='"mx"; or smart hosts, or next hops, in the order of trying: see Ways out',
        examples=["mx", ["provider", "backup"], ["[mx.partner.example]:2525", "[192.0.2.1]"]],
    )
    retry: Retry | None = Field(
        None, description="when to try again; left out = as `site.relay.retry`", examples=[{"first_seconds": 60}]
    )


TlsLevel = Literal["none", "opportunistic", "published", "encrypt", "dane", "dane-only", "verify", "secure"]


class TlsRule(Rule):
    """What TLS with a domain's mail hosts must be; smart hosts have their own `tls`. First match wins.

    None = published. A staged rule is not asked."""

    match: TlsMatch = Field(
        TlsMatch(), description="which hosts; left out = all", examples=[{"recipient_domain": "partner.example"}]
    )
    level: TlsLevel = Field(
        description="what is demanded: see [TLS with other hosts](#tls-with-other-hosts)", examples=["secure"]
    )
    names: Texts = Field(
        (),
        description='with verify and secure: what the certificate must carry, "mx.example.org" or ".example.org"; left '
        "out = the MX host's name (verify), the recipient's domain and all below it (secure)",
        examples=[["mx1.provider.example", ".partner.example"]],
    )
    ca_file: str | None = Field(
        None,
        description="with verify and secure: PEM file of the authorities to trust; left out = the system's",
        examples=["/etc/ssl/partner-ca.pem"],
    )
    client_certificate: ClientCertificate | None = Field(
        None,
        description="what the gateway shows the hosts of itself; left out = nothing",
        examples=[{"certificate": "/etc/ssl/gateway.pem", "private_key": "/etc/ssl/private/gateway.key"}],
    )


class Device(Strict):
    """A thing that cannot authenticate: it may send from these addresses, with these senders only."""

    name: Name = Field(description="its name, once in `devices`", examples=["printer-2nd-floor"])
    enabled: bool = Field(True, description="false = as if it were not there", examples=[False])
    addresses: Networks = Field(
        description="its addresses or prefixes", examples=["192.168.1.70", ["192.168.1.70", "fd00::70"]]
    )
    senders: Texts = Field(
        description='envelope senders it may use: addresses, "*@domain", "<>"', examples=["printer@example.org"]
    )
    recipients: Texts = Field(
        (), description='whom it may write to: addresses, "*@domain"; left out = anybody', examples=["*@example.org"]
    )
    note: str = Field(
        "", description="for the reader; nothing comes of it; left out = none", examples=["no TLS; serial 4711"]
    )


class Policy(Strict):
    """What a rules directory says, merged over its files. `revision` is filled in by load."""

    site: Site = Field(
        description="the site: who is where, where the gateway listens, ways out; left out = another file has it",
        examples=[{"zones": {"lan": {"networks": "192.168.0.0/16"}}}],
    )
    flows: Listed[FlowRule] = Field(
        (),
        description="rules for packets; left out = none",
        examples=[[{"name": "block-direct-smtp", "from": "lan", "port": 25, "action": "reject"}]],
    )
    mail: Listed[MailRule] = Field(
        (),
        description="rules for messages; left out = none",
        examples=[[{"name": "users", "match": {"authenticated": True}, "action": "accept"}]],
    )
    limits: Listed[Limit] = Field(
        (),
        description="limits that rules for messages name; left out = none",
        examples=[[{"name": "per-host", "per": "host", "messages_per_hour": 300}]],
    )
    routes: Listed[Route] = Field(
        (), description="ways out for messages; left out = none", examples=[[{"name": "all", "via": "provider"}]]
    )
    tls: Listed[TlsRule] = Field(
        (),
        description="what TLS with other hosts must be; left out = none",
        examples=[[{"name": "partner", "match": {"recipient_domain": "partner.example"}, "level": "secure"}]],
    )
    devices: Listed[Device] = Field(
        (),
        description="printers and the like that cannot log in; left out = none",
        examples=[[{"name": "printer", "addresses": "192.168.1.70", "senders": "printer@example.org"}]],
    )
    invariants: Listed[Invariant] = Field(
        (),
        description="what `egressguard prove` proves of all packets; left out = only what every site has",
        examples=[[{"name": "port-25", "never": {"from": "lan", "to": "internet", "port": 25}}]],
    )
    _revision: str = PrivateAttr(default="")
    _origin: str = PrivateAttr(default="")
    _index: dict[type, object] = PrivateAttr(default_factory=dict)  # what the policy room prepares once per policy

    @property
    def origin(self) -> str:
        """Where the rules come from, for people: "commit 0123456789ab (good)"; "" = nobody asked."""
        return self._origin

    @property
    def revision(self) -> str:
        """A short digest of the rule files' octets."""
        private = self.__pydantic_private__  # asked for every message; `self._revision` takes pydantic a microsecond
        assert private is not None
        revision: str = private["_revision"]
        return revision

    def replace(self, **parts: object) -> Policy:
        """The same policy with other parts, none of which is checked again."""
        other = self.model_copy(update=parts)
        other._index = {}
        return other
