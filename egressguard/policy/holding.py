"""The schema of `site.quarantine`: how long what is held is kept, and who hears of it. Each class is one mapping."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BeforeValidator, Field, model_validator

from egressguard.policy.fields import FILE_PATTERN, FOLDER_PATTERN, Many, Strict, Texts, form

Folder = Annotated[str, Field(pattern=FOLDER_PATTERN)]


CLOCK_FORM = r"([01][0-9]|2[0-3]):[0-5][0-9]"
_CLOCK = re.compile(CLOCK_FORM)


def parse_clock(value: object) -> int:
    """A time of day as minutes. Raises ValueError."""
    if not isinstance(value, str) or not _CLOCK.fullmatch(value):
        raise ValueError("expected a time of day such as 07:00")
    return int(value[:2]) * 60 + int(value[3:])


Clock = Annotated[int, BeforeValidator(parse_clock), form(CLOCK_FORM)]


class Retention(Strict):
    """How long a folder's messages are kept. What goes is journaled (quarantine.expire)."""

    days: Annotated[int, Field(ge=1, le=3650)] | None = Field(
        None, description="how long they are kept; left out = until somebody decides", examples=[30]
    )
    max_octets: Annotated[int, Field(ge=0)] | None = Field(
        None, description="the most that they may take; the oldest ones go first; left out = no limit", examples=[10**9]
    )


class Links(Strict):
    """Links in digests by which people release what was held for them: good once, and for the addressee only."""

    url: str = Field(
        pattern=r"^https?://[A-Za-z0-9.:\[\]_-]{1,255}(/[A-Za-z0-9._~-]{1,64}){0,4}$",
        description="where people reach the paths below /release/ of the metrics address, through a proxy with TLS",
        examples=["https://mail.example.org"],
    )
    secret: str = Field(
        pattern=FILE_PATTERN,
        description='"file:PATH" of a secret of 32 characters or more; relative = below secrets/ in the state '
        "directory; another secret makes all earlier links void",
        examples=["file:quarantine.secret"],
    )
    valid_days: Annotated[int, Field(ge=1, le=90)] = Field(7, description="how long a link is good", examples=[3])
    folders: Many[Folder] = Field(
        ("Held",),
        description="what may be released so; malware should not",
        examples=["Held", ["Held", "Denied"]],
    )


class Digest(Strict):
    """A daily message to everybody for whom something new is held, with what it is."""

    daily_at: Clock = Field(description="when, by the gateway's clock", examples=["07:00"])
    owners: bool = Field(True, description="recipients in site.domains hear of what is held for them", examples=[False])
    admins: Texts = Field(
        (),
        description="addresses that hear of everything new; left out = none",
        examples=["postmaster@example.org"],
    )
    links: Links | None = Field(
        None,
        description="release by a link; left out = no links",
        examples=[{"url": "https://mail.example.org", "secret": "file:quarantine.secret"}],
    )

    @model_validator(mode="after")
    def _somebody(self) -> Digest:
        if not (self.owners or self.admins):
            raise ValueError("nobody gets this digest; expected owners: true, or admins")
        return self


class Holding(Strict):
    """How what rules hold is kept, and who hears of it."""

    max_octets: Annotated[int, Field(ge=0)] = Field(
        10 * 1024**3,
        description="the most that may be held in all; beyond, mail that would be held is deferred (452)",
        examples=[10**9],
    )
    retention: dict[Folder, Retention] = Field(
        default_factory=dict,
        description="by folder, how long it is kept; left out = until somebody decides",
        examples=[{"Infected": {"days": 30}, "Held": {"days": 90, "max_octets": 10**9}}],
    )
    digest: Digest | None = Field(
        None, description="a daily message about it; left out = none", examples=[{"daily_at": "07:00"}]
    )
    tell_senders: Many[Folder] = Field(
        (),
        description="folders of which a sender who logged in is told at once; nobody else ever is; left out = none",
        examples=["Held", ["Held", "Denied"]],
    )
