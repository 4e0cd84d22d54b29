"""The schema of `site`: who is where, where the gateway listens, which ways lead out. Each class is one mapping."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Literal

from pydantic import Field, PrivateAttr, model_validator

from egressguard.policy.bounces import Dsn, Suppression
from egressguard.policy.fields import (
    FILE_PATTERN,
    Address,
    Domain,
    Listed,
    ListenPort,
    Listings,
    Macs,
    Many,
    Name,
    Networks,
    Port,
    Strict,
    Texts,
)
from egressguard.policy.pipes import Pipe
from egressguard.policy.scheduling import Breaker, Concurrency, Destination, Positive, Rate, Retry
from egressguard.policy.session_limits import SessionLimits
from egressguard.policy.signing import Forwarding, Signer

Seconds = Annotated[int, Field(ge=1, le=600)]
AddressFamily = Literal["ipv6-first", "ipv4-first", "ipv6-only", "ipv4-only"]


class Zone(Strict):
    """A packet is in the zone when it arrives on one of its interfaces OR its source is in one of its networks."""

    interfaces: Texts = Field(
        (),
        description='interfaces by name; "@inside" = each without a default route, looked up anew; left out = none',
        examples=["@inside", ["eth1", "br0"]],
    )
    networks: Networks = Field(
        (),
        description="prefixes and ranges; message rules know a zone by these only; left out = none",
        examples=["192.168.0.0/16", ["10.0.0.0/8", "2001:db8:1::/64"]],
    )
    tunnels: Literal["reject", "allow"] = Field(
        "reject",
        description="what happens to tunnels from here that no flow rule names: they carry SMTP past every rule",
        examples=["allow"],
    )

    @model_validator(mode="after")
    def _not_empty(self) -> Zone:
        if not (self.interfaces or self.networks):
            raise ValueError("a zone needs interfaces, networks or both; expected one of these keys")
        return self


class Listener(Strict):
    """One port that the relay takes mail on."""

    kind: Literal["smtp", "submission", "submissions"] = Field(
        description="smtp = as port 25, no AUTH; submission = STARTTLS, then AUTH (587); submissions = TLS from the "
        "start, then AUTH (465)",
        examples=["submission"],
    )
    port: ListenPort = Field(description="TCP port; 0 = any free one", examples=[587])
    addresses: Many[Address] = Field(
        (
            ipaddress.IPv4Address("0.0.0.0"),  # noqa: S104 -- a relay listens everywhere; who may send is the rules' matter
            ipaddress.IPv6Address("::"),
        ),
        description="the gateway's addresses to listen on",
        examples=["192.168.1.1", ["192.168.1.1", "fd00::1"]],
    )
    greeting_pause_seconds: Annotated[int, Field(ge=0, le=30)] = Field(
        0,
        description="kind smtp: how long the greeting waits; who talks before it is no server and refused (554); "
        "for a listener that only the world's servers use; 0 = at once",
        examples=[5],
    )

    @model_validator(mode="after")
    def _pauses_for_servers_only(self) -> Listener:
        if self.greeting_pause_seconds and self.kind != "smtp":
            raise ValueError(
                f"greeting_pause_seconds with kind {self.kind}; expected kind smtp: people's programs wait"
            )
        return self


class Tls(Strict):
    """PEM files. Both left out = a self-signed pair is made in the state directory at first start."""

    certificate: str | None = Field(
        None, description="path of the certificate chain; left out = self-signed", examples=["/etc/ssl/gateway.pem"]
    )
    private_key: str | None = Field(
        None, description="path of its private key; left out = self-signed", examples=["/etc/ssl/private/gateway.key"]
    )

    @model_validator(mode="after")
    def _both_or_none(self) -> Tls:
        if (self.certificate is None) != (self.private_key is None):
            raise ValueError("certificate and private_key go together; expected both or none")
        return self


class Relay(Strict):
    """How mail is taken and passed on."""

    hostname: Domain | None = Field(
        None,
        description="the name in banner, EHLO and Received; left out = the machine's",
        examples=["gateway.example.org"],
    )
    listeners: dict[Name, Listener] = Field(
        default_factory=dict,
        description="where mail is taken, by name; left out = nowhere",
        examples=[{"lan": {"kind": "smtp", "port": 25}}],
    )
    redirect_to: Name | None = Field(
        None,
        description="the listener (kind smtp) that redirected flows land in; left out = no rule can redirect",
        examples=["lan"],
    )
    binarymime: bool = Field(
        False,
        description="offer BINARYMIME (RFC 3030): for sites whose way out takes it; what a host cannot take, bounces",
        examples=[True],
    )
    proxy_from: Networks = Field(
        (),
        description="load balancers that begin each connection with a PROXY header (versions 1 and 2): its client is "
        "the one that counts; from nobody else is one taken; left out = none",
        examples=["192.168.1.4", ["192.168.1.4", "fd00::4"]],
    )
    relay_services: Networks = Field(
        (),
        description="servers that take the world's mail for this site and hand it on, on port 25 or another listener: "
        "SPF and block lists look at who gave it to them, as their Received field says; left out = none",
        examples=["192.0.2.64/28", ["192.0.2.64/28", "2001:db8::40/124"]],
    )
    dsn: Dsn = Field(
        Dsn(), description="how many notices senders get; left out = its defaults", examples=[{"per_client": 20}]
    )
    suppression: Suppression | None = Field(
        None,
        description="put recipients that do not exist on the suppression list; left out = only by hand",
        examples=[{"after": 3}],
    )
    tarpit_port: ListenPort | None = Field(
        None,
        description="a TCP port of the gateway for flows with `action: tarpit`; left out = no rule can use it",
        examples=[2599],
    )
    tls: Tls = Field(
        Tls(),
        description="the certificate for STARTTLS and TLS; left out = self-signed",
        examples=[{"certificate": "/etc/ssl/gateway.pem", "private_key": "/etc/ssl/private/gateway.key"}],
    )
    max_message_octets: Annotated[int, Field(ge=1024)] = Field(
        50 * 1024 * 1024, description="a larger message is refused (552)", examples=[26214400]
    )
    max_recipients: Annotated[int, Field(ge=100)] = Field(  # RFC 5321 s4.5.3.1.8: at least 100
        1000, description="further recipients of one message are put off (452)", examples=[200]
    )
    max_connections: Positive = Field(
        1000, description="open connections of clients, all listeners together", examples=[200]
    )
    pam_service: Name | None = Field(
        None,
        description="a PAM service (/etc/pam.d/NAME) for people without an account of ours: they log in too, "
        "with PLAIN or LOGIN; its modules run without root's rights; left out = our accounts only",
        examples=["egressguard"],
    )
    sessions: SessionLimits = Field(
        SessionLimits(),
        description="what one client may take, and how long; left out = its defaults",
        examples=[{"max_connections_per_client": 20}],
    )
    max_hops: Annotated[int, Field(ge=10)] = Field(
        50, description="a message with more Received fields is refused as a loop", examples=[30]
    )
    delivery_port: Port = Field(25, description="the port of MX hosts", examples=[2525])
    address_family: AddressFamily = Field(
        "ipv6-first",
        description="which addresses of a host with both are dialled: turn by turn, this family first, or only these",
        examples=["ipv4-first"],
    )
    attempt_timeout_seconds: Positive = Field(
        300, description="how long another server may take for one command", examples=[120]
    )
    spool: Annotated[str, Field(pattern=FILE_PATTERN)] | None = Field(
        None,
        description='"file:PATH" of the file with a PostgreSQL URL, where several gateways share one queue; relative = '
        "below secrets/ in the state directory; read at start; left out = SQLite in the state directory",
        examples=["file:spool.url"],
    )
    free_space_reserve_octets: Annotated[int, Field(ge=0)] = Field(
        64 * 1024 * 1024,
        description="mail that would leave less free on the disk is put off (452)",
        examples=[1073741824],
    )
    mta_sts: bool = Field(
        False,
        description="what domains ask of TLS by MTA-STS (RFC 8461) is fetched over HTTPS, kept and obeyed, see `tls`",
        examples=[True],
    )
    mta_sts_ca_file: str | None = Field(
        None,
        description="PEM file of the authorities to trust for that (web servers, mail hosts); left out = the system's",
        examples=["/etc/ssl/our-ca.pem"],
    )
    tlsrpt_socket: Annotated[str, Field(pattern="^/.{1,100}$")] | None = Field(
        None,
        description="the socket of tlsrpt-collectd, which is told how TLS went with each domain (RFC 8460); left out = "
        "nobody is told",
        examples=["/run/tlsrpt/collectd.sock"],
    )
    retry: Retry = Field(
        Retry(), description="when to try again; left out = its defaults", examples=[{"give_up_after_seconds": 172800}]
    )
    concurrency: Concurrency = Field(
        Concurrency(),
        description="how many attempts run at one destination at once; left out = its defaults",
        examples=[{"limit": 10}],
    )

    @model_validator(mode="after")
    def _trusts_somebody_known(self) -> Relay:
        if any(network.prefixlen == 0 for network in self.proxy_from):
            raise ValueError("proxy_from has everybody; expected the load balancers: who is in it may be anybody")
        if any(network.prefixlen == 0 for network in self.relay_services):
            raise ValueError("relay_services has everybody; expected the service's servers: what they say is believed")
        return self


class BlockList(Strict):
    """A DNS block list (RFC 5782)."""

    zone: Domain = Field(description="the name that addresses are asked for below", examples=["zen.dnsbl.example"])
    answers: Many[Annotated[str, Field(pattern=r"^127(\.[0-9]{1,3}){3}$")]] = Field(
        (),
        description="answers that count as listed; left out = all of 127.0.0.0/8",
        examples=["127.0.0.2", ["127.0.0.2", "127.0.0.4"]],
    )


class SmartHostAuth(Strict):
    """The gateway's account at a smart host. Never the secret itself: rules are made for version control."""

    user: str = Field(description="the account's name", examples=["site-1234"])
    secret: Annotated[str, Field(pattern=FILE_PATTERN)] = Field(
        description='"file:PATH" of the file with the password; relative = below secrets/ in the state directory',
        examples=["file:provider.password"],
    )


class ClientCertificate(Strict):
    """PEM files that show a host who we are, where it asks during the TLS handshake."""

    certificate: str = Field(description="path of the certificate chain", examples=["/etc/ssl/gateway.pem"])
    private_key: str = Field(description="path of its private key", examples=["/etc/ssl/private/gateway.key"])

    @property
    def files(self) -> tuple[str, str]:
        return self.certificate, self.private_key


class SmartHost(Strict):
    """Another relay that takes our mail for the world."""

    host: str = Field(description="host name or address", examples=["smtp.provider.example"])
    port: Port = Field(587, description="TCP port", examples=[465])
    tls: Literal["none", "opportunistic", "starttls", "implicit", "dane"] = Field(
        "starttls",
        description="opportunistic = STARTTLS if offered, unverified; starttls and implicit (465) verify; dane = "
        "STARTTLS, and the host must match TLSA records of its own (with `dnssec: true`)",
        examples=["implicit"],
    )
    ca_file: str | None = Field(
        None,
        description="PEM file of the authorities to trust; left out = the system's",
        examples=["/etc/ssl/our-ca.pem"],
    )
    auth: SmartHostAuth | None = Field(
        None,
        description="how to log in, with starttls, implicit or dane only; left out = not at all",
        examples=[{"user": "site-1234", "secret": "file:provider.password"}],
    )
    client_certificate: ClientCertificate | None = Field(
        None,
        description="what the gateway shows the host of itself; left out = nothing",
        examples=[{"certificate": "/etc/ssl/gateway.pem", "private_key": "/etc/ssl/private/gateway.key"}],
    )
    weight: Annotated[int, Field(ge=1, le=1000)] | None = Field(
        None,
        description="neighbours in `via` that have one share the mail by it, the others of them stepping in for one "
        "that fails; left out = it comes before all that stand behind it",
        examples=[3],
    )
    rate: Rate = Field(
        Rate(),
        description="the most that it is given in a span; left out = unlimited",
        examples=[{"messages_per_day": 2000}],
    )
    concurrency: Concurrency | None = Field(
        None,
        description="attempts at once over ways that it comes first in; left out = as `site.relay.concurrency`",
        examples=[{"limit": 5}],
    )
    breaker: Breaker = Field(
        Breaker(), description="when it is left alone; left out = its defaults", examples=[{"failures": 1}]
    )


PerSecond = Annotated[int, Field(ge=1, le=10_000)]


class PacketPlane(Strict):
    """The wall in the kernel."""

    nflog_group: Annotated[int, Field(ge=1, le=65535)] = Field(
        2525, description="NFLOG group for the journal of flows; another program must not use it", examples=[2526]
    )
    log_per_second: PerSecond = Field(
        20, description="the most packets that each rule logs in a second; counters count them all", examples=[100]
    )
    mx_questions_per_second: Annotated[int, Field(ge=0, le=10_000)] = Field(
        20,
        description="the most DNS questions a second that are looked at for MX, the sign of a bot; 0 = none",
        examples=[100],
    )
    queue_number: Annotated[int, Field(ge=0, le=65534)] = Field(
        25,
        description="NFQUEUE number for `decide: queue`, and the next one for `fail: open`; nobody else's",
        examples=[26],
    )
    mend_drift: bool = Field(
        True, description="the table is loaded again when somebody else changed or removed it", examples=[False]
    )
    guard_own_processes: bool = Field(
        True, description="only the relay's user may reach port 25 from the gateway itself", examples=[False]
    )


class ManagementFlow(Strict):
    """A connection of an administrator through the gateway that no change of the rules may cut."""

    source: Address = Field(alias="from", description="where the administrator sits", examples=["192.168.1.10"])
    destination: Address = Field(alias="to", description="what is managed", examples=["198.51.100.9"])
    port: Port = Field(22, description="its TCP port", examples=[443])
    interface: str = Field("", description="where it arrives; left out = known by its address only", examples=["eth1"])


class Apply(Strict):
    """How a change of the rules is taken: `egressguard apply`."""

    confirm_within_seconds: Annotated[int, Field(ge=1, le=86400)] | None = Field(
        None,
        description="a change that nobody confirms (`egressguard confirm`) in this time is rolled back; left out = "
        "confirmed at once when the probes pass",
        examples=[60],
    )
    probes: Many[Literal["relay", "dns"]] = Field(
        ("relay", "dns"),
        description="what must still work after a change, else it is rolled back: the listeners greet; the resolvers "
        "answer, when they did before",
        examples=["relay"],
    )
    management: Listed[ManagementFlow] = Field(
        (),
        description="flows that the rules must allow, else a change is refused; left out = none",
        examples=[[{"from": "192.168.1.10", "to": "198.51.100.9", "port": 22}]],
    )
    watch_git_seconds: Annotated[int, Field(ge=1, le=86400)] | None = Field(
        None,
        description="how often the rules' git checkout is looked at; a new commit is applied; left out = never",
        examples=[60],
    )


class Clamd(Strict):
    """A ClamAV daemon. While it does not answer the verdict is unknown, and mail is deferred."""

    address: str = Field(
        description='"unix:/path" or "host:port"', examples=["unix:/run/clamav/clamd.ctl", "127.0.0.1:3310"]
    )
    timeout_seconds: Seconds = Field(60, description="how long one answer may take", examples=[120])


class Scan(Strict):
    """What is looked for in messages; rules match the outcome with `verdict` and the attachment keys."""

    denied_names: Texts = Field(
        (),
        description="shell patterns for file names, case ignored, inside archives too: verdict denied; left out = none",
        examples=[["*.exe", "*.scr"]],
    )
    denied_types: Texts = Field(
        (),
        description="shell patterns for media types as found by content: verdict denied; left out = none",
        examples=["application/x-dosexec"],
    )
    max_nesting: Annotated[int, Field(ge=1, le=16)] = Field(
        5, description="archives inside archives that are opened; what lies deeper counts as denied", examples=[3]
    )
    max_unpacked_octets: Annotated[int, Field(ge=1024)] = Field(
        256 * 1024 * 1024,
        description="octets unpacked from one message; what would unpack to more counts as denied",
        examples=[67108864],
    )
    timeout_seconds: Seconds = Field(
        60, description="how long one message may take; then the verdict is unknown, and mail deferred", examples=[30]
    )
    clamd: Clamd | None = Field(
        None,
        description="the virus scanner; left out = none but the built-in checks",
        examples=[{"address": "unix:/run/clamav/clamd.ctl"}],
    )


class Access(Strict):
    """Ports of IMAP and POP3 (Dovecot). Plaintext AUTH needs TLS, always."""

    imap_port: ListenPort | None = Field(None, description="IMAP with STARTTLS; left out = not offered", examples=[143])
    imaps_port: ListenPort | None = Field(None, description="IMAP over TLS; left out = not offered", examples=[993])
    pop3_port: ListenPort | None = Field(None, description="POP3 with STLS; left out = not offered", examples=[110])
    pop3s_port: ListenPort | None = Field(None, description="POP3 over TLS; left out = not offered", examples=[995])
    quarantine_admins: Texts = Field(
        (),
        description="accounts that see the quarantine as a shared folder; left out = none",
        examples=["anna", ["anna", "bert"]],
    )


class Metrics(Strict):
    """Where Prometheus and health checks ask."""

    address: Address = Field(
        ipaddress.IPv4Address("127.0.0.1"), description="address to listen on", examples=["192.168.1.1"]
    )
    port: ListenPort = Field(9125, description="TCP port", examples=[9126])


class Site(Strict):
    """Stands once in the rules directory; an overlay changes it key by key."""

    zones: dict[Name, Zone] = Field(
        description="parts of the network by name",
        examples=[{"lan": {"interfaces": "@inside", "networks": "10.0.0.0/8"}}],
    )
    sets: dict[Name, Listings] = Field(
        default_factory=dict,
        description='prefixes and ranges by name, for "@NAME" in rules; "file:PATH" = those in a file; left out = none',
        examples=[{"mail-servers": ["192.168.1.25", "fd00::25"]}, {"blocked": "file:lists/blocked.txt"}],
    )
    mac_sets: dict[Name, Macs] = Field(
        default_factory=dict,
        description='MAC addresses by name, for "@NAME" in source_mac; "file:PATH" = those in a file; left out = none',
        examples=[{"printers": ["00:53:00:12:34:56"]}],
    )
    resolvers: Many[str] = Field(
        (),
        description="DNS servers; left out = the system's",
        examples=["192.0.2.53", ["192.0.2.53:5353", "[2001:db8::53]:53"]],
    )
    dnssec: bool = Field(
        False,
        description="the resolvers are on this machine (loopback) and validate DNSSEC: DANE is looked for, see `tls`",
        examples=[True],
    )
    domains: Many[Domain] = Field(
        (),
        description='the site\'s own domains: "@local" in rules, delivered into mailboxes here; left out = none',
        examples=["example.org", ["example.org", "example.net"]],
    )
    block_lists: Annotated[dict[Name, BlockList], Field(max_length=16)] = Field(
        default_factory=dict,
        description="DNS block lists by name, for `block_list` in message rules; asked about the world's clients only; "
        "left out = none",
        examples=[{"zen": {"zone": "zen.dnsbl.example"}}],
    )
    relay: Relay = Field(
        Relay(), description="how mail is taken and sent; left out = its defaults", examples=[{"max_recipients": 200}]
    )
    smart_hosts: dict[Name, SmartHost] = Field(
        default_factory=dict,
        description="other relays by name, for `via` and `route`; left out = none",
        examples=[{"provider": {"host": "smtp.provider.example", "port": 2525}}],
    )
    signing: Annotated[dict[Name, Signer], Field(max_length=100)] = Field(
        default_factory=dict,
        description="DKIM keys by name, and whose mail is signed with them; left out = nothing is signed",
        examples=[
            {
                "own": {
                    "domains": "example.org",
                    "selector": "rsa202611",
                    "key": "file:dkim/rsa202611.example.org.pem",
                }
            }
        ],
    )
    forwarding: Forwarding = Field(
        Forwarding(),
        description="what is done to mail of the world that leaves again; left out = nothing",
        examples=[{"srs": {"domain": "example.org", "secrets": "file:srs.secret"}}],
    )
    destinations: Annotated[dict[Name, Destination], Field(max_length=1000)] = Field(
        default_factory=dict,
        description="domains that want less, or slower, than others, by a name for them; left out = none",
        examples=[{"slow": {"domain": ["example.net", ".example.net"], "concurrency": {"limit": 2}}}],
    )
    pipes: dict[Name, Pipe] = Field(
        default_factory=dict,
        description='programs that take mail, by name, for `via: "pipe:NAME"`; left out = none',
        examples=[{"archive": {"command": ["/usr/local/bin/archive", "{sender}", "{recipient}"]}}],
    )
    packet_plane: PacketPlane = Field(
        PacketPlane(), description="the wall in the kernel; left out = its defaults", examples=[{"log_per_second": 100}]
    )
    apply: Apply = Field(
        Apply(),
        description="how a change of the rules is taken; left out = its defaults",
        examples=[{"confirm_within_seconds": 60}],
    )
    scan: Scan = Field(
        Scan(), description="what is looked for in mail; left out = its defaults", examples=[{"denied_names": "*.exe"}]
    )
    access: Access = Field(
        Access(), description="IMAP and POP3; left out = its defaults", examples=[{"imaps_port": 993}]
    )
    metrics: Metrics = Field(
        Metrics(), description="metrics and health; left out = its defaults", examples=[{"port": 9126}]
    )
    _prepared: object = PrivateAttr(default=None)  # policy.networks keeps its look-up tables here
