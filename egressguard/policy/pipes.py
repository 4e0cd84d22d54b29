"""The schema of `site.pipes`: programs that take mail."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from egressguard.policy.fields import TEXT_PATTERN, Strict, as_tuple


class Pipe(Strict):
    """A program that takes mail on its standard input. Its exit status (sysexits) says what became of it."""

    command: Annotated[tuple[str, ...], Field(min_length=1), BeforeValidator(as_tuple)] = Field(
        description="the program (absolute path) and its arguments, run without a shell; {sender}, {recipient} and "
        "{nexthop} stand for the message's; an argument with {recipient} comes once for each",
        examples=[["/usr/bin/uux", "-r", "-z", "-a{sender}", "-", "{nexthop}!rmail", "({recipient})"]],
    )
    user: str | None = Field(
        None,
        description="whom it has to run as: the relay's own user, unless the relay is root's; left out = the relay's",
        examples=["eg-relay"],
    )
    from_line: bool = Field(
        False,
        description="a line `From sender date` stands in front of the message, as rmail wants it",
        examples=[True],
    )
    line_ends: Literal["lf", "crlf"] = Field("lf", description="how lines end on its standard input", examples=["crlf"])
    null_sender: Annotated[str, Field(min_length=1, max_length=64, pattern=TEXT_PATTERN)] = Field(
        "<>", description="what {sender} is for bounces", examples=["MAILER-DAEMON"]
    )
    max_recipients: Annotated[int, Field(ge=1, le=100)] = Field(
        1, description="so many recipients of one message share a run", examples=[20]
    )
    max_processes: Annotated[int, Field(ge=1, le=20)] = Field(
        4, description="so many of it run at once, whatever their next hops", examples=[1]
    )
    timeout_seconds: Annotated[int, Field(ge=1, le=3600)] = Field(
        300, description="how long one run may take; then it is killed, and the mail tried later", examples=[60]
    )
