"""The schema of `site.relay`: how mail is taken, and how it is passed on. Each class is one mapping."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Literal

from pydantic import Field, model_validator

from egressguard.policy.bounces import Dsn, Suppression
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
)
from egressguard.policy.scheduling import Concurrency, Positive, Retry
from egressguard.policy.session_limits import SessionLimits

AddressFamily = Literal["ipv6-first", "ipv4-first", "ipv6-only", "ipv4-only"]


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
