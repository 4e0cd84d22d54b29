"""The schema of `site.smart_hosts`: other relays that take our mail. Each class is one mapping."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from egressguard.policy.fields import (
    FILE_PATTERN,
    Port,
    Strict,
)
from egressguard.policy.scheduling import Breaker, Concurrency, Rate


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
