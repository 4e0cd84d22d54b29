"""The schema of `site`: who is where, where the gateway listens, which ways lead out. Each class is one mapping."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Literal

from pydantic import Field, PrivateAttr, model_validator

from egressguard.policy.access import Access
from egressguard.policy.fields import (
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
from egressguard.policy.holding import Holding
from egressguard.policy.journaling import Journaling
from egressguard.policy.mailboxes import Mailboxes
from egressguard.policy.pipes import Pipe
from egressguard.policy.relaying import Relay
from egressguard.policy.scanning import Clamd, Rspamd, Spamd, Yara
from egressguard.policy.scheduling import Destination
from egressguard.policy.signing import Forwarding, Signer
from egressguard.policy.smart_host import SmartHost

Seconds = Annotated[int, Field(ge=1, le=600)]


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


class BlockList(Strict):
    """A DNS block list (RFC 5782)."""

    zone: Domain = Field(description="the name that addresses are asked for below", examples=["zen.dnsbl.example"])
    answers: Many[Annotated[str, Field(pattern=r"^127(\.[0-9]{1,3}){3}$")]] = Field(
        (),
        description="answers that count as listed; left out = all of 127.0.0.0/8",
        examples=["127.0.0.2", ["127.0.0.2", "127.0.0.4"]],
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
        60,
        description="how long one message may take; then the verdict is unknown, and mail deferred; one that takes "
        "more of the processor's time than its size explains (a fifteenth of this or four seconds, whatever is more; "
        "half of it from 100 MB on, and at most), or that its reader crashes on, twice, is denied",
        examples=[30],
    )
    clamd: Clamd | None = Field(
        None,
        description="the virus scanner, asked where a rule says verdict; left out = none but the built-in checks",
        examples=[{"address": "unix:/run/clamav/clamd.ctl"}],
    )
    rspamd: Rspamd | None = Field(
        None,
        description="a spam filter, asked where a rule says score_at_least; left out = none",
        examples=[{"address": "unix:/run/rspamd/normal.sock"}],
    )
    spamd: Spamd | None = Field(
        None,
        description="SpamAssassin, asked where a rule says score_at_least; of two scores the higher; left out = none",
        examples=[{"address": "unix:/run/spamd.sock"}],
    )
    yara: Yara | None = Field(
        None, description="YARA rules of your own; left out = none", examples=[{"folder": "yara"}]
    )
    workers: Annotated[int, Field(ge=1, le=32)] = Field(
        2, description="messages that are examined at the same time, each in a process of its own", examples=[4]
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
    quarantine: Holding = Field(
        Holding(),
        description="how what rules hold is kept, and who hears of it; left out = its defaults",
        examples=[{"retention": {"Infected": {"days": 30}}}],
    )
    mailboxes: Mailboxes = Field(
        Mailboxes(),
        description="mail for our own domains: aliases, quotas, where it goes; left out = its defaults",
        examples=[{"aliases": {"info": ["anna", "bert"]}}],
    )
    access: Access = Field(
        Access(), description="IMAP and POP3; left out = its defaults", examples=[{"imaps_port": 993}]
    )
    journal: Journaling = Field(
        Journaling(),
        description="what is kept of past decisions, and how long; left out = its defaults",
        examples=[{"keep_days": 14}],
    )
    metrics: Metrics = Field(
        Metrics(), description="metrics and health; left out = its defaults", examples=[{"port": 9126}]
    )
    _prepared: object = PrivateAttr(default=None)  # policy.networks keeps its look-up tables here
