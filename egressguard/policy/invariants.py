"""The schema of `invariants`: what must hold of all packets, whatever the flow rules are."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from egressguard.policy.fields import Listed, Name, SomeNames, SomePorts, SomeTexts, Strict

INTERNET = "internet"
"""Where no zone is."""


class Packets(Strict):
    """Packets of one kind. A key left out means any."""

    from_zone: SomeNames = Field(
        (),
        alias="from",
        description="zones that the packet comes from; left out = any",
        examples=["lan", ["lan", "guests"]],
    )
    to_zone: SomeNames = Field(
        (),
        alias="to",
        description="zones that it goes to, by the interface it leaves on or by its destination; internet = where no "
        "zone is; left out = anywhere",
        examples=["internet", ["guests", "internet"]],
    )
    source: SomeTexts = Field(
        (),
        description="prefixes, ranges and @sets that the source address is in; left out = any",
        examples=["@mail-servers"],
    )
    destination: SomeTexts = Field(
        (),
        description="prefixes, ranges and @sets that the destination address is in; left out = any",
        examples=["203.0.113.0/24"],
    )
    protocol: Literal["tcp", "udp", "ipip", "6in4", "gre"] = Field(
        "tcp", description="the transport protocol; the last three are tunnels", examples=["udp"]
    )
    port: SomePorts = Field((), description="destination ports; left out = any", examples=[25, [465, 587]])
    speaks: Literal["smtp"] | None = Field(
        None, description="smtp = the payload begins as an SMTP client's does; left out = any", examples=["smtp"]
    )


class Invariant(Strict):
    """What `egressguard prove` proves for all packets, or shows a packet that it does not hold of.

    One of `never` and `always` must be there."""

    name: Name = Field(description="its name, once in `invariants`", examples=["port-25-by-the-relay"])
    enabled: bool = Field(True, description="false = as if it were not there", examples=[False])
    note: str = Field(
        "", description="for the reader; nothing comes of it; left out = none", examples=["asked for by the provider"]
    )
    never: Packets | None = Field(
        None,
        description="no packet of these passes to where it wants to; a redirect into the relay is no passing; "
        "left out = `always` says what is meant",
        examples=[{"from": "lan", "to": "internet", "port": 25}],
    )
    always: Packets | None = Field(
        None,
        description="each packet of these passes, when its flow is opened as later; left out = `never` says what is "
        "meant",
        examples=[{"from": "lan", "destination": "198.51.100.9", "port": 22}],
    )
    besides: Listed[Packets] = Field(
        (),
        alias="except",
        description="packets of which it need not hold; left out = it holds of all",
        examples=[[{"source": "@mail-servers"}, {"source": "192.168.1.10", "port": 25}]],
    )

    @model_validator(mode="after")
    def _one_of_two(self) -> Invariant:
        if (self.never is None) == (self.always is None):
            raise ValueError("an invariant says one thing; expected one of the keys never and always")
        return self
