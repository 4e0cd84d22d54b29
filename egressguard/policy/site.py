"""The schema of `site`: who is where, where the gateway listens, which ways lead out. Each class is one mapping."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Literal

from pydantic import Field, PrivateAttr, model_validator

from egressguard.policy.fields import (
    FILE_PATTERN,
    Address,
    Domain,
    ListenPort,
    Many,
    Name,
    Networks,
    Port,
    Strict,
    Texts,
)


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
