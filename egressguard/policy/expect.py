"""The schema of expectations: what a flow or a message is given, and what the rules are expected to say to it.

Contract
    Expectations lie in rules/expect/*.yaml (for a site: rules/sites/NAME/expect/*.yaml); they are no rules.
    Only what `expect` says is compared. What `given` leaves out is as if nothing were known against the message:
    scanned and clean, no attachment, nothing authenticated, no limit exceeded.
    Faults are located and worded as those of rule files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from egressguard.policy.document import Fault, parse_document
from egressguard.policy.fields import (
    MAC_FORM,
    WEEKDAYS,
    Address,
    AuthResult,
    Domain,
    Listed,
    Many,
    Name,
    Names,
    Networks,
    Number,
    Port,
    Strict,
    Texts,
    Ways,
)
from egressguard.policy.model import Device, TlsLevel
from egressguard.policy.verdict import Verdict
from egressguard.policy.words import read_as

MAX_CASES = 20_000
AT_PATTERN = rf"^({'|'.join(WEEKDAYS)}) ([01][0-9]|2[0-3]):[0-5][0-9]$"
At = Annotated[str, Field(pattern=AT_PATTERN)]
Mac = Annotated[str, Field(pattern=f"^({MAC_FORM})?$")]
MatchedRule = Annotated[str, Field(max_length=63)]


class FlowGiven(Strict):
    """A flow: who opens it, whereto, where it arrives; `dns` stands in for what names would resolve to."""

    source: Address = Field(alias="from", description="the address that opens the flow", examples=["192.168.1.50"])
    destination: Address = Field(alias="to", description="the address it wants to reach", examples=["198.51.100.7"])
    port: Port = Field(25, description="the destination port", examples=[25])
    protocol: Literal["tcp", "udp", "ipip", "6in4", "gre"] = Field(
        "tcp", description="the transport, or a tunnel", examples=["udp"]
    )
    speaks: Literal["smtp"] | None = Field(
        None, description="what its first octets are of; left out = nothing that a rule knows", examples=["smtp"]
    )
    mac: Mac = Field("", description="the link-layer source; left out = not known", examples=["00:53:00:12:34:56"])
    when: At = Field("mon 12:00", description="local weekday and time of day", examples=["sat 23:15"])
    interface: str = Field("", description="where it arrives; left out = known by its address only", examples=["eth1"])
    inside: Texts = Field(
        (), description='interfaces that "@inside" stands for; left out = none', examples=[["eth1", "wlan0"]]
    )
    dns: dict[str, Many[Address]] = Field(
        default_factory=dict,
        description="the addresses of host names; left out = none is resolved yet",
        examples=[{"mx.partner.example": ["198.51.100.7"]}],
    )


class FlowExpect(Strict):
    """What the flow rules are expected to say."""

    action: Literal["allow", "reject", "drop", "redirect", "tarpit", "undecided"] | None = Field(
        None,
        description="what happens; undecided = a host name is not resolved yet; left out = not compared",
        examples=["reject"],
    )
    rule: MatchedRule | None = Field(
        None,
        description='the rule that decides; "" = none does; left out = not compared',
        examples=["block-direct-smtp"],
    )
    would: Names | None = Field(
        None, description="the staged rules that match; left out = not compared", examples=[["stricter"]]
    )


class FlowCase(Strict):
    name: Annotated[str, Field(min_length=1, max_length=120)] = Field(
        description="what is expected, in words", examples=["a bot may not dial out"]
    )
    given: FlowGiven = Field(description="the flow", examples=[{"from": "192.168.1.50", "to": "198.51.100.7"}])
    expect: FlowExpect = Field(description="what the rules say to it", examples=[{"action": "reject"}])


class AttachmentGiven(Strict):
    """One attachment that scanning found; `path` from the outermost name to the innermost."""

    path: Texts = Field(
        description="its name, or the names from the archive's to its own", examples=[["a.zip", "b.exe"]]
    )
    type: str = Field("application/octet-stream", description="its media type by content", examples=["application/pdf"])
    size_octets: Annotated[int, Field(ge=0)] = Field(0, description="its size", examples=[1000])
    encrypted: bool = Field(False, description="whether it asks for a password", examples=[True])
    macro: bool = Field(False, description="whether it carries a macro", examples=[True])
    active: bool = Field(False, description="whether it acts of itself when it is opened", examples=[True])


class MailGiven(Strict):
    """A message: who brings it, its envelope, and its content as a file or as what scanning would say."""

    client: Address = Field(description="the address it comes from", examples=["192.168.1.50"])
    listener: Name = Field("lan", description="the listener's name in site.relay.listeners", examples=["submission"])
    helo: str = Field(
        "", description="what the client calls itself; left out = nothing", examples=["laptop.example.org"]
    )
    tls: bool = Field(False, description="whether the session is encrypted", examples=[True])
    user: str | None = Field(None, description="who logged in; left out = nobody", examples=["anna"])
    redirected: bool = Field(False, description="whether a flow rule redirected it here", examples=[True])
    sender: str = Field("", description="the reverse-path; left out = the null one", examples=["anna@example.org"])
    recipient: Texts = Field(description="the forward-paths", examples=["bert@example.net"])
    next_hop: str = Field(
        "",
        description="the MX host, for `tls`; left out = one that no rule of `tls` names",
        examples=["mx.partner.example"],
    )
    when: At = Field("mon 12:00", description="local weekday and time of day", examples=["sat 23:15"])
    message: str | None = Field(
        None,
        description="a message file below expect/, scanned as the gateway would, without clamd; left out = no file",
        examples=["messages/eicar.eml"],
    )
    verdict: Literal["infected", "denied", "ambiguous", "clean", "unknown"] | None = Field(
        None, description="what scanning says; left out = clean, or what it says to the file", examples=["infected"]
    )
    score: Number | None = Field(None, description="what a spam filter gives; left out = 0", examples=[7.5])
    attachments: Listed[AttachmentGiven] | None = Field(
        None, description="what is attached; left out = nothing, or what the file has", examples=[[{"path": "a.exe"}]]
    )
    header: dict[str, Texts] = Field(
        default_factory=dict,
        description="header fields, besides those of the file; left out = none",
        examples=[{"Subject": "hello"}],
    )
    size_octets: Annotated[int, Field(ge=0)] | None = Field(
        None, description="the size; left out = the file's, or 1000", examples=[5_000_000]
    )
    spf: AuthResult = Field("none", description="the result of SPF", examples=["fail"])
    dkim: AuthResult = Field("none", description="the result of DKIM", examples=["pass"])
    dmarc: AuthResult = Field("none", description="the result of DMARC", examples=["fail"])
    dmarc_policy: Literal["none", "quarantine", "reject"] = Field(
        "none", description="what the author's domain asks for", examples=["reject"]
    )
    arc: AuthResult = Field("none", description="the result of ARC", examples=["pass"])
    block_list: Names = Field((), description="block lists that have the client; left out = none", examples=[["zen"]])
    over_limit: Names = Field((), description="limits that it would exceed; left out = none", examples=[["per-host"]])
    recipient_count: Annotated[int, Field(ge=1)] | None = Field(
        None, description="how many recipients it has; left out = as many as are given", examples=[51]
    )
    unknown: Many[Literal["authentication", "block_list", "score", "attachments"]] = Field(
        (),
        description="what could not be found out: a filter, a block list or DNS did not answer; left out = nothing",
        examples=["score"],
    )
    stage: Literal["rcpt", "data"] = Field(
        "data", description="rcpt: what is said to RCPT, before the content is known", examples=["rcpt"]
    )

    @model_validator(mode="after")
    def _somebody(self) -> MailGiven:
        if not self.recipient:
            raise ValueError("expected at least one recipient")
        return self


class MailExpect(Strict):
    """What the message rules are expected to say; of several recipients, what holds for the message."""

    action: Literal["accept", "reject", "defer", "quarantine", "hold", "go-on"] | None = Field(
        None,
        description="what happens; go-on = RCPT is answered with 250; left out = not compared",
        examples=["quarantine"],
    )
    rule: MatchedRule | None = Field(
        None, description='the rule that decides; "(none)" = none; left out = not compared', examples=["malware"]
    )
    folder: str | None = Field(
        None, description="the quarantine folder; left out = not compared", examples=["Infected"]
    )
    text: str | None = Field(
        None, description="what the client is told; left out = not compared", examples=["relaying denied"]
    )
    headers: dict[str, str] | None = Field(
        None, description="fields that are added; left out = not compared", examples=[{"X-Site": "lab"}]
    )
    tags: Names | None = Field(None, description="tags that are given; left out = not compared", examples=[["bulk"]])
    via: Ways | None = Field(
        None,
        description='the way out of the first recipient: "local", or as `via` of a route; left out = not compared',
        examples=[["provider"], "mx", "[mx.partner.example]:2525"],
    )
    route: MatchedRule | None = Field(
        None, description="the route it takes by `routes`; left out = not compared", examples=["partner"]
    )
    tls: TlsLevel | None = Field(
        None,
        description="the level of TLS that is demanded of the first recipient's MX host or next hop; left out = not "
        "compared",
        examples=["secure"],
    )
    notify: Texts | None = Field(
        None, description="who is told; left out = not compared", examples=[["root@example.org"]]
    )
    limits: Names | None = Field(
        None, description="limits that count it; left out = not compared", examples=[["per-host"]]
    )
    limit: str | None = Field(
        None, description='the limit that decides; "" = none; left out = not compared', examples=["per-host"]
    )
    would: Texts | None = Field(
        None, description="staged rules that match; left out = not compared", examples=[["stricter"]]
    )


class MailCase(Strict):
    name: Annotated[str, Field(min_length=1, max_length=120)] = Field(
        description="what is expected, in words", examples=["EICAR is held"]
    )
    given: MailGiven = Field(
        description="the message", examples=[{"client": "192.168.1.50", "recipient": "bert@example.net"}]
    )
    expect: MailExpect = Field(description="what the rules say to it", examples=[{"action": "reject"}])


class Stand(Strict):
    """What the file's cases find in the site besides what the rules say: for lists that each site fills itself."""

    sets: dict[Name, Networks] = Field(
        default_factory=dict,
        description="entries of named sets; left out = those of the rules",
        examples=[{"mail-servers": ["192.168.1.25"]}],
    )
    domains: Many[Domain] = Field(
        (), description="the site's own domains; left out = those of the rules", examples=["example.org"]
    )
    devices: Listed[Device] = Field(
        (),
        description="devices; left out = those of the rules",
        examples=[[{"name": "printer", "addresses": "192.168.1.70", "senders": "printer@example.org"}]],
    )


class Expectations(Strict):
    """One file of expectations."""

    stand_in: Stand = Field(
        Stand(),
        alias="with",
        description="what the site has, for these cases; left out = what the rules say",
        examples=[{"domains": "example.org"}],
    )
    flows: Listed[FlowCase] = Field(
        (),
        description="cases of flows; left out = none",
        examples=[
            [
                {
                    "name": "no bot dials out",
                    "given": {"from": "10.0.0.9", "to": "192.0.2.7"},
                    "expect": {"action": "reject"},
                }
            ]
        ],
    )
    mail: Listed[MailCase] = Field(
        (),
        description="cases of messages; left out = none",
        examples=[
            [
                {
                    "name": "no relay",
                    "given": {"client": "192.0.2.7", "recipient": "a@b.example"},
                    "expect": {"action": "reject"},
                }
            ]
        ],
    )


@dataclass(frozen=True, slots=True)
class ExpectFile:
    """`messages` has the octets of the message files that the cases name."""

    expectations: Expectations
    messages: Mapping[str, bytes]


def parse_expectations(name: str, content: bytes, files: Mapping[str, bytes]) -> ExpectFile | list[Fault]:
    """One file, or its faults. `files` are the files below expect/, by their names relative to it."""
    document = parse_document(name, content)
    found = read_as(Expectations, document)
    if isinstance(found, list):
        return found
    faults: list[Fault] = []
    if len(found.flows) + len(found.mail) > MAX_CASES:
        faults.append(Fault(name, 1, 1, f"more than {MAX_CASES} cases; expected them in several files"))
    messages: dict[str, bytes] = {}
    for section in ("flows", "mail"):
        for index, case in enumerate(getattr(found, section)):
            fault = document.fault_at((section, index), "")
            case._at = f"{fault.file}:{fault.line}:{fault.column}"
            if isinstance(case, MailCase) and (wanted := case.given.message) is not None:
                if wanted in files:
                    messages[wanted] = files[wanted]
                else:
                    words = f"no message file '{wanted}'; expected one below the folder of expectations"
                    faults.append(document.fault_at((section, index, "given", "message"), words))
    return faults or ExpectFile(found, messages)


def parse_given(name: str, content: bytes) -> FlowGiven | MailGiven | list[Fault]:
    """The `given` of one case by itself, a flow's (from, to) or a message's (client, recipient); or its faults."""
    document = parse_document(name, content)
    is_flow = isinstance(document.value, dict) and "from" in document.value
    schema: type[FlowGiven | MailGiven] = FlowGiven if is_flow else MailGiven
    return read_as(schema, document)


def verdict_of(text: str | None, default: Verdict | None) -> Verdict | None:
    """What `verdict:` means; "unknown" = a scanner did not answer."""
    if text is None:
        return default
    return None if text == "unknown" else Verdict(text)


Comparison = dict[str, Any]
"""What was expected or found, key -> value."""
