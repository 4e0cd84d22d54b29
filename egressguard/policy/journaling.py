"""The schema of `site.journal`: what is kept of past decisions, for people and for `egressguard backtest`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from egressguard.policy.fields import Many, SomePorts, Strict
from egressguard.policy.match import HeaderName

MAX_HEADER_FIELDS = 20


class PassedFlows(Strict):
    """New TCP connections from the zones that the rules let pass: some a second, seen by the daemon and journaled."""

    per_second: Annotated[int, Field(ge=1, le=10_000)] = Field(
        20, description="the most of them in a second; counters of rules count them all", examples=[100]
    )
    port: SomePorts = Field(
        (25, 465, 587, 2525), description="to which ports; the fewer, the less is missed", examples=[587, [465, 587]]
    )


class Journaling(Strict):
    """How long and how much the journal of each role keeps; the oldest goes first. At most a million events each."""

    keep_days: Annotated[int, Field(ge=1, le=3650)] = Field(
        90, description="what is older goes; people's addresses are in there", examples=[14]
    )
    max_octets: Annotated[int, Field(ge=1024 * 1024)] = Field(
        4 * 1024**3, description="the most that one role's journal takes on disk, about", examples=[10**9]
    )
    header_field: Annotated[Many[HeaderName], Field(max_length=MAX_HEADER_FIELDS)] = Field(
        (),
        description="header fields of messages that are journaled besides those that rules look at; left out = none",
        examples=["Subject", ["Subject", "X-Mailer"]],
    )
    passed_flows: PassedFlows | None = Field(
        None,
        description="connections that the rules let pass are journaled too, for `backtest` and `suggest`; left out = "
        "only what they stop",
        examples=[{"per_second": 50}],
    )
