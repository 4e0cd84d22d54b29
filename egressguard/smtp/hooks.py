"""What the server asks of the one who uses it, and what it tells about a session.

Contract
    A hook answers with a Reply. A hook that raises becomes 451 4.3.0 and the session ends: its words stay inside.
    `on_message` is run to its end even when the client is gone: a commit that began is never cut in the middle.
    A positive reply of `on_message` means: on stable storage.
"""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import field
from functools import lru_cache
from typing import Literal, Protocol

from egressguard.mail.envelope import Envelope
from egressguard.mail.reply import Reply
from egressguard.net.flow import IPAddress
from egressguard.store.content import Content
from egressguard.values import value

Kind = Literal["smtp", "submission", "submissions"]
Stage = Literal["connect", "helo", "tls", "auth", "mail", "rcpt", "data", "other"]
STAGES: tuple[Stage, ...] = ("connect", "helo", "tls", "auth", "mail", "rcpt", "data", "other")


@value(frozen=True, slots=True)
class SessionFacts:
    """`listener` is its name in the rules. `helo` is what the client says, nothing more; `user` None = nobody.

    `original_destination` ("198.51.100.7:25") is where a redirected connection was meant to go, else None.
    `source_id` names where the one message of this session lay before, so that it is taken once ("" = it lay nowhere).
    """

    client: IPAddress
    client_port: int
    listener: str
    kind: Kind
    helo: str = ""
    esmtp: bool = False
    tls: bool = False
    user: str | None = None
    original_destination: str | None = None
    source_id: str = ""
    client_text: str = field(init=False, repr=False, compare=False)
    """The client's address as it is written: making it takes longer than to look at it, and each message tells it."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "client_text", _written(self.client))

    @property
    def redirected(self) -> bool:
        return self.original_destination is not None


_written = lru_cache(4096)(str)


class SessionHooks(Protocol):
    def has_room(self, size_octets: int) -> bool:
        """MAIL: whether there is room for a message of this declared size (0 = none was)."""
        ...

    def on_recipient(
        self, session: SessionFacts, reverse_path: str, forward_path: str, size_octets: int | None
    ) -> Reply | Awaitable[Reply]:
        """RCPT: a positive reply takes the recipient. `size_octets` is what MAIL declared.

        Where nothing has to be waited for, the reply comes at once."""
        ...

    async def on_message(self, session: SessionFacts, envelope: Envelope, content: Content) -> Reply:
        """The end of a message: `content` has no dot-stuffing, and CRLF line ends unless it is binary.

        Its file, if it has one, is gone when this returns, unless it was moved away."""
        ...

    def on_refused(self, session: SessionFacts, stage: Stage, reply: Reply, about: str) -> None:
        """The server itself refused something; `about` is the path or name concerned ("" = none)."""
        ...
