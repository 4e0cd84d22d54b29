"""The schema of rule files: each class is one mapping in YAML; a checked tree of them is the Policy.

Contract
    Unknown keys, wrong types and out-of-range values are faults (pydantic, strict, extra="forbid").
    Names that point elsewhere (zones, sets, smart hosts, listeners) are checked by policy.crosscheck, not here.
    Everything is frozen: a Policy never changes, it is replaced.
    `at` is where the mapping stands ("flows.yaml:12:5"); load fills it in, rule files cannot.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PrivateAttr

from egressguard.policy.facts import Verdict
from egressguard.policy.fields import (
    FOLDER_PATTERN,
    HEADER_PATTERN,
    TEXT_PATTERN,
    AuthResult,
    Hours,
    Listed,
    Many,
    Name,
    Names,
    Networks,
    Number,
    Ports,
    Strict,
    Texts,
    Weekdays,
)
from egressguard.policy.site import Site

Count = Annotated[int, Field(ge=1, le=10**12)]
HeaderName = Annotated[str, Field(pattern=HEADER_PATTERN)]
Line = Annotated[str, Field(max_length=400, pattern=TEXT_PATTERN)]
Folder = Annotated[str, Field(pattern=FOLDER_PATTERN)]


class Rule(Strict):
    """What every rule has. Names stand once in their section.

    `staged`: the rule is evaluated, counted and journaled as what it *would* do; nothing happens by it.
    `enabled: false`: as if it were not there.
    """

    name: Name
    enabled: bool = True
    staged: bool = False
    note: str = ""


class FlowRule(Rule):
    """A matcher left out matches everything. `source`/`destination` take prefixes and @set names.

    `decide: queue` hands the flow's first packet to the daemon: needed by matchers that the kernel cannot answer
    (`destination_host`). While the daemon is away such packets are dropped: it fails closed.
    """

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
    helo: Texts = ()
    sender: Texts = ()
    sender_domain: Texts = ()
    recipient: Texts = ()
    recipient_domain: Texts = ()
    weekdays: Many[Weekdays] = ()
    hours: Many[Hours] = ()
    over_limit: Names = ()
    spf: Many[AuthResult] = ()
    dkim: Many[AuthResult] = ()
    dmarc: Many[AuthResult] = ()
    more_than_recipients: Annotated[int, Field(ge=1)] | None = None
    larger_than_octets: Annotated[int, Field(ge=0)] | None = None
    header: dict[HeaderName, Texts] = Field(default_factory=dict)
    attachment_name: Texts = ()
    attachment_type: Texts = ()
    attachment_encrypted: bool | None = None
    attachment_macro: bool | None = None
    attachment_deeper_than: Annotated[int, Field(ge=1, le=16)] | None = None
    verdict: Many[Annotated[Verdict, Field(strict=False)]] = ()
    score_at_least: Number | None = None


class MailRule(Rule):
    """`action: continue` goes on with the next rule; what the rule adds (headers, tags, limits, ...) stays added."""

    match: MailMatch = MailMatch()
    action: Literal["accept", "reject", "defer", "quarantine", "hold", "continue"]
    folder: Folder = "Held"
    text: Line = ""
    limit: Names = ()
    add_header: dict[HeaderName, Line] = Field(default_factory=dict)
    tag: Names = ()
    route: Names = ()
    notify: Texts = ()


class Limit(Rule):
    """How much one host, device, user, sender domain or zone may send. Counted for messages whose rules name it.

    Each `..._per_minute`, `..._per_hour`, `..._per_day` is the most that any span of that length may hold.
    """

    per: Literal["host", "device", "user", "sender_domain", "zone"]
    messages_per_minute: Count | None = None
    messages_per_hour: Count | None = None
    messages_per_day: Count | None = None
    recipients_per_minute: Count | None = None
    recipients_per_hour: Count | None = None
    recipients_per_day: Count | None = None
    distinct_recipients_per_minute: Count | None = None
    distinct_recipients_per_hour: Count | None = None
    distinct_recipients_per_day: Count | None = None
    octets_per_minute: Count | None = None
    octets_per_hour: Count | None = None
    octets_per_day: Count | None = None
    new_destinations_per_minute: Count | None = None
    new_destinations_per_hour: Count | None = None
    new_destinations_per_day: Count | None = None
    refusals_per_minute: Count | None = None
    refusals_per_hour: Count | None = None
    refusals_per_day: Count | None = None
    above: Literal["defer", "reject", "quarantine", "contain"] = "defer"
    contain_seconds: Annotated[int, Field(ge=1, le=30 * 86400)] = 3600
    folder: Folder = "Held"
    text: Line = ""


class RouteMatch(Strict):
    sender: Texts = ()
    sender_domain: Texts = ()
    recipient_domain: Texts = ()
    tag: Names = ()


class Route(Rule):
    """`via` is "mx" or the names of smart hosts, tried in this order. First match wins; none = MX."""

    match: RouteMatch = RouteMatch()
    via: Names


class Device(Strict):
    """A thing that cannot authenticate: it may send from these addresses, with these senders only."""

    name: Name
    enabled: bool = True
    addresses: Networks
    senders: Texts
    recipients: Texts = Field((), description="empty = anybody")
    note: str = ""


class Policy(Strict):
    """What a rules directory says, merged over its files. `revision` is filled in by load."""

    site: Site
    flows: Listed[FlowRule] = ()
    mail: Listed[MailRule] = ()
    limits: Listed[Limit] = ()
    routes: Listed[Route] = ()
    devices: Listed[Device] = ()
    _revision: str = PrivateAttr(default="")
    _index: dict[str, object] = PrivateAttr(default_factory=dict)  # what the policy room prepares once per policy

    @property
    def revision(self) -> str:
        """A short digest of the rule files' octets."""
        return self._revision

    def replace(self, **parts: object) -> Policy:
        """The same policy with other parts, none of which is checked again."""
        other = self.model_copy(update=parts)
        other._index = {}
        return other
