"""The schema of when mail leaves: retries, how much at once, how much in a span. Each class is one mapping."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from egressguard.policy.fields import Some, Strict

Positive = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=1, le=10**9)]
Places = Annotated[int, Field(ge=1, le=1000)]


class Retry(Strict):
    """Seconds. Defaults follow RFC 5321 s4.5.4.1, but start sooner, as users of today's mail expect."""

    first_seconds: Positive = Field(
        300, description="wait after the first failed attempt; doubles with each further one", examples=[60]
    )
    longest_seconds: Positive = Field(3 * 3600, description="the wait never grows longer than this", examples=[3600])
    give_up_after_seconds: Positive = Field(
        5 * 24 * 3600, description="age at which a message is given up and its sender told", examples=[172800]
    )
    warn_after_seconds: Positive | None = Field(
        None,
        description="age at which a sender hears once that a message is late, who did not say by NOTIFY what to hear; "
        "left out = never, and who asked for it hears after four hours",
        examples=[14400],
    )


class Concurrency(Strict):
    """How many attempts one destination is given at once: more while they succeed, fewer while they fail.

    An attempt fails here when the host cannot be talked to, or ends the connection; not when it refuses a recipient.
    """

    initial: Places = Field(5, description="attempts at once at a destination that nothing is known of", examples=[2])
    limit: Places = Field(20, description="the most attempts at once", examples=[2, 50])
    failed_cohorts: Positive = Field(
        1,
        description="so many times as many failures as attempts at once, nothing else between: it is left alone",
        examples=[3],
    )
    rest_first_seconds: Positive = Field(
        30,
        description="how long it is left alone; doubles with each further time; then one attempt looks",
        examples=[5],
    )
    rest_longest_seconds: Positive = Field(900, description="it is never left alone for longer", examples=[3600])


Messages = Annotated[Count | None, Field(description="the most messages; left out = unlimited", examples=[100])]
Recipients = Annotated[Count | None, Field(description="the most recipients; left out = unlimited", examples=[500])]


class Rate(Strict):
    """The most that any span of that length may hold; what is over waits, and it counts as no attempt."""

    messages_per_minute: Messages = None
    messages_per_hour: Messages = None
    messages_per_day: Messages = None
    recipients_per_minute: Recipients = None
    recipients_per_hour: Recipients = None
    recipients_per_day: Recipients = None


class Breaker(Strict):
    """When a smart host is left alone, so that others of the way are taken at once."""

    failures: Positive = Field(
        3,
        description="so many failures in a row: not to be reached, connection lost, 421, no TLS; a refused login is "
        "enough by itself",
        examples=[1],
    )
    rest_first_seconds: Positive = Field(
        30,
        description="how long it is left alone; doubles with each further time; then one message tries",
        examples=[5],
    )
    rest_longest_seconds: Positive = Field(600, description="it is never left alone for longer", examples=[3600])


class Destination(Strict):
    """Domains that want to be treated otherwise than all others, when mail goes to them by MX."""

    domain: Some[str] = Field(
        description="recipient domains: exact, or with a dot in front for all below; the first mapping that has one "
        "counts",
        examples=["example.net", ["example.net", ".example.net"]],
    )
    concurrency: Concurrency | None = Field(
        None, description="attempts at once; left out = as `site.relay.concurrency`", examples=[{"limit": 2}]
    )
    rate: Rate = Field(
        Rate(),
        description="the most in a span, all its domains together; left out = unlimited",
        examples=[{"messages_per_hour": 500}],
    )
    retry: Retry | None = Field(
        None, description="when to try again; left out = as `site.relay.retry`", examples=[{"first_seconds": 1800}]
    )
