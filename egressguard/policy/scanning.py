"""The schema of the engines that look at messages: where they are, how long they may take, what their silence means."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from egressguard.policy.fields import FILE_PATTERN, Strict

Seconds = Annotated[int, Field(ge=1, le=600)]
Fail = Literal["defer", "hold", "pass"]
EngineAddress = Annotated[str, Field(description='"unix:/path" or "host:port"')]
Octets = Annotated[int, Field(ge=1024)]
AtOnce = Annotated[int, Field(ge=1, le=64)]


class EngineSettings(Strict):
    """What every engine has."""

    timeout_seconds: Seconds = Field(60, description="how long one answer may take", examples=[120])
    fail: Fail = Field(
        "defer",
        description="mail that it gives no answer on: wait (451), be denied (as by a denied name), or go without it",
        examples=["hold", "pass"],
    )
    at_once: AtOnce = Field(8, description="messages it has in hand at the same time; more wait", examples=[4])


class Clamd(EngineSettings):
    """A ClamAV daemon. What it finds is infected; a message above its limits is denied."""

    address: EngineAddress = Field(
        description='"unix:/path" or "host:port"', examples=["unix:/run/clamav/clamd.ctl", "127.0.0.1:3310"]
    )
    max_octets: Octets = Field(
        100 * 1024 * 1024,
        description="not above clamd's own MaxFileSize, which it passes over in silence; larger messages are denied",
        examples=[26214400],
    )


class RspamdController(Strict):
    """Where rspamd is taught what a person says of a held message (`egressguard quarantine learn`)."""

    address: EngineAddress = Field(
        description='"unix:/path" or "host:port" of its controller worker',
        examples=["unix:/run/rspamd/controller.sock", "127.0.0.1:11334"],
    )
    secret: Annotated[str, Field(pattern=FILE_PATTERN)] | None = Field(
        None,
        description='"file:PATH" of its password; relative = below secrets/ in the state directory; left out = none, '
        "as on a Unix socket",
        examples=["file:rspamd.password"],
    )


class Rspamd(EngineSettings):
    """An rspamd normal worker. Its score counts, its action does not."""

    address: EngineAddress = Field(
        description='"unix:/path" or "host:port" of a normal worker',
        examples=["unix:/run/rspamd/normal.sock", "127.0.0.1:11333"],
    )
    max_octets: Octets = Field(
        20 * 1024 * 1024, description="larger messages are not given to it: score 0", examples=[52428800]
    )
    controller: RspamdController | None = Field(
        None,
        description="where it learns spam and ham; left out = it is not taught",
        examples=[{"address": "127.0.0.1:11334", "secret": "file:rspamd.password"}],
    )


class Spamd(EngineSettings):
    """SpamAssassin's daemon. Its score counts, its threshold does not."""

    address: EngineAddress = Field(
        description='"unix:/path" or "host:port"', examples=["unix:/run/spamd.sock", "127.0.0.1:783"]
    )
    max_octets: Octets = Field(
        512 * 1024, description="larger messages are not given to it: score 0", examples=[1048576]
    )
    learns: bool = Field(
        False,
        description="true = it is taught spam and ham (`egressguard quarantine learn`); it must run with --allow-tell",
        examples=[True],
    )


class Yara(EngineSettings):
    """YARA rules, run here by YARA-X (the extra `yara`) over messages and what is in them. A match is infected."""

    folder: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}(/[A-Za-z0-9_-]{1,64}){0,4}$")] = Field(
        description="folder of *.yar and *.yara files in the rules directory", examples=["yara"]
    )
