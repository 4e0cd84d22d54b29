"""The schema of `site.signing` and `site.forwarding`: whose mail is signed, what is done to mail that passes.

Contract
    Secrets and private keys never stand in rule files: "file:NAME" says where below the state directory they lie.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from egressguard.policy.fields import FILE_PATTERN, HEADER_PATTERN, Domain, Many, Name, Some, Strict

SELECTOR_PATTERN = r"^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*$"
AUTHOR_FIELD = "From"

SIGNED_FIELDS = (
    *(AUTHOR_FIELD, "Sender", "Reply-To", "Subject", "Date", "Message-ID", "To", "Cc", "In-Reply-To", "References"),
    *("MIME-Version", "Content-Type", "Content-Transfer-Encoding"),
    *("List-ID", "List-Unsubscribe", "List-Unsubscribe-Post"),  # RFC 8058 s4 wants the last two signed
)
ABSENT_FIELDS = (AUTHOR_FIELD, "Reply-To", "Subject", "To", "Cc")
"""Not Date, Message-ID and MIME fields: other relays add them to mail of devices that left them out."""

HeaderName = Annotated[str, Field(pattern=HEADER_PATTERN)]
Reference = Annotated[str, Field(pattern=FILE_PATTERN)]


class Signer(Strict):
    """A DKIM key (RFC 6376), and whose mail is signed with it: mail of users, devices and programs of the site only."""

    domains: Some[Domain] = Field(
        description="domains of authors (From) whose mail is signed, each in its own name (d=)",
        examples=["example.org", ["example.org", "example.net"]],
    )
    subdomains: bool = Field(
        True,
        description="mail of authors below a domain is signed in its name, too, where no signer names a closer one",
        examples=[False],
    )
    selector: Annotated[str, Field(pattern=SELECTOR_PATTERN, max_length=200)] = Field(
        description="where DNS has the public key: SELECTOR._domainkey.DOMAIN (s=)", examples=["rsa202611"]
    )
    key: Reference = Field(
        description='"file:PATH" of the private key, RSA or Ed25519 as `egressguard dkim make` writes it; relative = '
        "below secrets/ in the state directory",
        examples=["file:dkim/rsa202611.example.org.pem"],
    )
    sign: bool = Field(
        True,
        description="false = made known, not used yet: `egressguard dkim check` looks whether DNS has it everywhere",
        examples=[False],
    )
    headers: Some[HeaderName] = Field(
        SIGNED_FIELDS,
        description="header fields that are signed where they are there; nobody can add another one of them",
        examples=[["From", "Subject", "Date", "X-Ticket"]],
    )
    oversign: Many[HeaderName] = Field(
        ABSENT_FIELDS,
        description="header fields that nobody can add even where there was none",
        examples=[["From", "Subject"]],
    )


class Srs(Strict):
    """How the reverse-path of forwarded mail is rewritten (SRS), so that SPF passes and bounces find their way back."""

    domain: Domain = Field(
        description="the domain of rewritten reverse-paths, one of `domains`", examples=["example.org"]
    )
    secrets: Some[Reference] = Field(
        description='"file:PATH" of files with a secret of 16 characters or more; the first makes addresses, each is '
        "accepted; relative = below secrets/ in the state directory",
        examples=["file:srs.secret", ["file:srs.new", "file:srs.secret"]],
    )
    max_age_days: Annotated[int, Field(ge=1, le=365)] = Field(
        21, description="an older address is refused", examples=[7]
    )


class Forwarding(Strict):
    """What is done to mail of the world that leaves again to somebody else's host."""

    seal: Name | None = Field(
        None,
        description="the signer of `signing`, with an RSA key, that adds an ARC set (RFC 8617) to what is forwarded; "
        "left out = nobody",
        examples=["own"],
    )
    srs: Srs | None = Field(
        None,
        description="how rules with `rewrite_sender` rewrite reverse-paths; left out = no rule can",
        examples=[{"domain": "example.org", "secrets": "file:srs.secret"}],
    )
