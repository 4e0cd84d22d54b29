"""What a dialogue needs of the wire below it: the seam between what SMTP means and how octets travel."""

from __future__ import annotations

from collections.abc import Awaitable, Coroutine
from typing import Any, Protocol

from egressguard.mail.reply import Reply


class Channel(Protocol):
    """Raises what ends a session: TimeoutError, ConnectionError or an exception of the wire's own."""

    def has_input(self) -> bool:
        """Whether the client has sent octets that nobody has read yet."""
        ...

    async def send(self, reply: Reply) -> None: ...

    async def ask(self, reply: Reply) -> bytes:
        """Send and wait for one line of an AUTH exchange."""
        ...

    async def receive_message(self) -> bytes | Reply:
        """Read to the final dot: the content, or the refusal of it."""
        ...

    async def start_tls(self) -> None:
        """The handshake; the session ends when it fails."""
        ...

    async def ask_about_recipient(self, question: Awaitable[Reply]) -> Reply:
        """Within its time limit."""
        ...

    async def commit(self, question: Coroutine[Any, Any, Reply]) -> Reply:
        """Run to the end whatever becomes of the client."""
        ...

    async def pause(self, seconds: float) -> None: ...
