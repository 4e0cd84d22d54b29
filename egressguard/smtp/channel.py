"""What a dialogue needs of the wire below it: the seam between what SMTP means and how octets travel."""

from __future__ import annotations

from collections.abc import Awaitable, Coroutine
from typing import Any, Protocol

from egressguard.mail.reply import Reply
from egressguard.smtp.chunked import ChunkedData
from egressguard.smtp.intake import Intake


class Channel(Protocol):
    """Raises what ends a session: TimeoutError, ConnectionError or an exception of the wire's own."""

    def has_input(self) -> bool:
        """Whether the client has sent octets that nobody has read yet."""
        ...

    async def send(self, reply: Reply) -> None: ...

    async def ask(self, reply: Reply) -> bytes:
        """Send and wait for one line of an AUTH exchange."""
        ...

    def new_intake(self) -> Intake: ...

    async def receive_data(self, intake: Intake) -> None:
        """Read to the final dot; `intake.refusal` says what is wrong with it."""
        ...

    async def receive_chunk(self, size_octets: int, data: ChunkedData | None, intake: Intake | None) -> None:
        """Read exactly so many octets; None = drop them."""
        ...

    async def start_tls(self) -> None:
        """The handshake; the session ends when it fails."""
        ...

    async def ask_about_recipient(self, question: Awaitable[Reply]) -> Reply:
        """Within its time limit."""
        ...

    async def commit(self, question: Coroutine[Any, Any, Reply], intake: Intake) -> Reply:
        """Run to the end whatever becomes of the client, and close the intake then."""
        ...

    async def pause(self, seconds: float) -> None: ...
