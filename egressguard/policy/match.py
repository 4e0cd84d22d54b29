"""The schema of `match`: what message rules and routes ask of a message. policy.matchers answers.

Contract
    A key left out is not asked: it matches everything. An empty list is a fault, for it would read as "nothing".
    Names that point elsewhere (zones, sets, devices, limits, listeners) are checked by policy.crosscheck, not here.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from egressguard.policy.fields import (
    HEADER_PATTERN,
    AuthResult,
    Hours,
    Number,
    Some,
    SomeNames,
    SomeTexts,
    Strict,
    Weekdays,
)
from egressguard.policy.verdict import Verdict

HeaderName = Annotated[str, Field(pattern=HEADER_PATTERN)]


class MailMatch(Strict):
    """All keys must match; a key with a list matches when one item does. Paths and domains ignore case.

    Shell patterns know `*`, `?` and `[...]`; they ignore case too, and must match the whole text.
    """

    client: SomeTexts = Field(
        (),
        description="zones (by their networks only), @sets and prefixes that the client is in; left out = any",
        examples=["lan", ["@mail-servers", "192.0.2.0/24"]],
    )
    device: SomeTexts = Field(
        (),
        description='names from `devices`, whose address, sender and recipient must fit; "@any" = each; left out = any',
        examples=["@any", ["printer-2nd-floor"]],
    )
    listener: SomeNames = Field(
        (),
        description="the listener (name in site.relay.listeners) that took the message; left out = any",
        examples=["submission"],
    )
    redirected: bool | None = Field(
        None,
        description="true = it came through a flow rule with `action: redirect`; false = not; left out = any",
        examples=[True],
    )
    authenticated: bool | None = Field(
        None, description="true = the client logged in; false = it did not; left out = any", examples=[True]
    )
    user: SomeTexts = Field(
        (),
        description="names of accounts; the client logged in as one of them; left out = any",
        examples=["anna", ["anna", "bert"]],
    )
    tls: bool | None = Field(
        None,
        description="true = the client's connection is encrypted; false = it is not; left out = any",
        examples=[False],
    )
    helo: SomeTexts = Field(
        (),
        description="shell patterns for the name that the client gave in EHLO or HELO; left out = any",
        examples=["*.example.org"],
    )
    sender: SomeTexts = Field(
        (),
        description='envelope senders: addresses, "*@domain", "<>" (the null reverse-path of bounces); left out = any',
        examples=["anna@example.org", ["*@example.org", "<>"]],
    )
    sender_domain: SomeTexts = Field(
        (),
        description='the sender\'s domain: a domain, ".domain" (any below it), "@local" (site.domains); left out = any',
        examples=["@local", ["example.org", ".example.org"]],
    )
    recipient: SomeTexts = Field(
        (),
        description='envelope recipients: addresses, "*@domain"; left out = any',
        examples=["boss@example.org", ["*@partner.example"]],
    )
    recipient_domain: SomeTexts = Field(
        (),
        description="the recipient's domain, written like sender_domain; left out = any",
        examples=["@local", [".partner.example"]],
    )
    weekdays: Some[Weekdays] = Field(
        (),
        description="days of the gateway's local time: mon, or mon-fri; left out = any",
        examples=["mon-fri", ["mon", "wed-fri"]],
    )
    hours: Some[Hours] = Field(
        (),
        description="spans of local time, the last minute not in it; 22:00-06:00 goes over midnight; left out = any",
        examples=["08:00-18:00", ["00:00-06:00", "22:00-24:00"]],
    )
    over_limit: SomeNames = Field(
        (),
        description="limits that this message would be above, whatever their own `above` says; left out = any",
        examples=["per-host"],
    )
    spf: Some[AuthResult] = Field(
        (),
        description="result of the SPF check (RFC 8601); none = nothing to check, or not checked; left out = any",
        examples=["fail"],
    )
    dkim: Some[AuthResult] = Field(
        (), description="result of the DKIM check, as for spf; left out = any", examples=["pass"]
    )
    dmarc: Some[AuthResult] = Field(
        (),
        description="result of the DMARC check, as for spf; left out = any",
        examples=["fail", ["fail", "permerror"]],
    )
    dmarc_policy: Some[Literal["none", "quarantine", "reject"]] = Field(
        (),
        description="what the author's domain asks for where DMARC fails; none = nothing; left out = any",
        examples=["reject"],
    )
    arc: Some[AuthResult] = Field(
        (), description="result of the ARC check (RFC 8617), as for spf; left out = any", examples=["pass"]
    )
    block_list: SomeNames = Field(
        (),
        description="names of site.block_lists; one of them has the client (or who gave the mail to a relay service);"
        " left out = any",
        examples=["zen"],
    )
    more_than_recipients: Annotated[int, Field(ge=1)] | None = Field(
        None, description="the message has more recipients than this; left out = any", examples=[50]
    )
    larger_than_octets: Annotated[int, Field(ge=0)] | None = Field(
        None, description="the message has more octets than this; left out = any", examples=[10485760]
    )
    header: Annotated[dict[HeaderName, SomeTexts], Field(min_length=1)] = Field(
        default_factory=dict,
        description="field names and shell patterns for a value; each field must be there and match; left out = any",
        examples=[{"Subject": "*invoice*"}, {"X-Mailer": ["*PHP*", "Foo *"], "List-Id": "*"}],
    )
    attachment_name: SomeTexts = Field(
        (),
        description="shell patterns for a file name, inside archives too; left out = any",
        examples=["*.docm", ["*.iso", "*.img"]],
    )
    attachment_type: SomeTexts = Field(
        (),
        description="shell patterns for a media type as found by content; left out = any",
        examples=["application/x-dosexec"],
    )
    attachment_encrypted: bool | None = Field(
        None,
        description="true = an attachment cannot be read without a password; false = none is so; left out = any",
        examples=[True],
    )
    attachment_macro: bool | None = Field(
        None,
        description="true = an office document carries program code; false = none does; left out = any",
        examples=[True],
    )
    attachment_active: bool | None = Field(
        None,
        description="true = a file acts of itself when it is opened: HTML that makes a file, PDF actions, DDE, "
        "templates from elsewhere, embedded programs, shortcuts; false = none does; left out = any",
        examples=[True],
    )
    attachment_deeper_than: Annotated[int, Field(ge=1, le=16)] | None = Field(
        None, description="a file lies inside more archives than this; left out = any", examples=[3]
    )
    verdict: Some[Annotated[Verdict, Field(strict=False)]] = Field(
        (),
        description="what scanning found: infected (malware), denied (by site.scan), ambiguous (mail programs may "
        "see different attachments), clean; left out = any",
        examples=["infected", ["infected", "denied"]],
    )
    score_at_least: Number | None = Field(
        None,
        description="the spam filter's score is this or more; 0 where no filter is asked; left out = any",
        examples=[6, "7.5"],
    )


class TlsMatch(Strict):
    """All keys must match; a key with a list matches when one item does."""

    recipient_domain: SomeTexts = Field(
        (),
        description="as in a message rule's match; left out = any",
        examples=["partner.example", [".partner.example"]],
    )
    next_hop: SomeTexts = Field(
        (),
        description='MX hosts: "mx.example.org", ".example.org" (all below it, not itself); left out = any',
        examples=["mx.partner.example", [".partner.example"]],
    )


class RouteMatch(Strict):
    """All keys must match; a key with a list matches when one item does."""

    client: SomeTexts = Field(
        (),
        description="zones (by their networks only), @sets and prefixes that the client was in; left out = any",
        examples=["lan", ["@mail-servers", "192.0.2.0/24"]],
    )
    listener: SomeNames = Field(
        (), description="the listener that took the message; left out = any", examples=["submission"]
    )
    user: SomeTexts = Field(
        (), description="names of accounts; the client logged in as one of them; left out = any", examples=["anna"]
    )
    sender: SomeTexts = Field(
        (), description="as in a message rule's match; left out = any", examples=["newsletter@example.org", "<>"]
    )
    sender_domain: SomeTexts = Field(
        (), description="as in a message rule's match; left out = any", examples=["@local"]
    )
    recipient: SomeTexts = Field(
        (), description="as in a message rule's match; left out = any", examples=["boss@partner.example"]
    )
    recipient_domain: SomeTexts = Field(
        (),
        description="as in a message rule's match; left out = any",
        examples=["partner.example", [".partner.example"]],
    )
    larger_than_octets: Annotated[int, Field(ge=0)] | None = Field(
        None, description="the message has more octets than this, as it was taken; left out = any", examples=[10485760]
    )
    smaller_than_octets: Annotated[int, Field(ge=1)] | None = Field(
        None, description="the message has fewer octets than this; left out = any", examples=[20971520]
    )
    verdict: Some[Annotated[Verdict, Field(strict=False)]] = Field(
        (), description="what scanning found; where nothing is known, no match; left out = any", examples=["denied"]
    )
    tag: SomeNames = Field((), description="tags that message rules have put on; left out = any", examples=["bulk"])
