"""What all sessions of a server share, as one session sees it."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Protocol

from egressguard.mail.reply import Reply
from egressguard.net.flow import IPAddress
from egressguard.smtp.admission import Budget
from egressguard.smtp.auth import Authenticator
from egressguard.smtp.hooks import Kind, SessionHooks
from egressguard.smtp.metrics import SmtpMetrics
from egressguard.smtp.settings import SmtpSettings
from egressguard.smtp.waiting import Ticker
from egressguard.store.draft import Draft


class Session(Protocol):
    def stop_soon(self) -> None:
        """End the wait for a next command; `House.stopping` says why."""
        ...


class House(Protocol):
    """What all sessions of a server share."""

    hooks: SessionHooks
    metrics: SmtpMetrics
    tls_context: ssl.SSLContext | None
    authenticator: Authenticator | None
    buffered: Budget
    new_draft: Callable[[], Draft]
    ticker: Ticker
    stopping: bool

    @property
    def settings(self) -> SmtpSettings: ...

    def admit(self, client: IPAddress) -> bool:
        """Whether there is room for one more of this client's; who was let in must leave."""
        ...

    def readmit(self, before: IPAddress, client: IPAddress) -> bool:
        """A connection turns out to be another client's: as `admit`; when there is no room, nobody is let in."""
        ...

    def own(self, commit: Coroutine[Any, Any, Reply]) -> asyncio.Task[Reply]:
        """Run to the end, and answer TROUBLE for whatever it raises."""
        ...

    def joined(self, session: Session, task: asyncio.Task[None]) -> None: ...

    def left(self, session: Session, client: IPAddress) -> None: ...


@dataclass(frozen=True, slots=True)
class Entrance:
    """`greeting_pause_seconds`: whoever talks before it is over is refused."""

    name: str
    kind: Kind
    greeting_pause_seconds: float = 0
