"""Mail of this machine's own programs: from the drop directory through the same acceptance as any other.

Contract
    A file is removed when its message is taken, and not before; a crash in between takes it once (source_id).
    The rules judge it as mail of a user who logged in: the owner of the file, from loopback, listener "drop".
    Put off: tried again after RETRY_SECONDS. Refused, or no message at all: set aside (NAME.refused), told in journal
    and log: whoever put it down has long gone.
    A file that names an account is of its Sieve script: the account is who logged in, if the owner may say so.
    What such a script redirects is kept in the account's inbox where it is not taken.
"""

from __future__ import annotations

import asyncio
import logging
import pwd
from collections.abc import Awaitable, Callable, Mapping
from ipaddress import IPv4Address
from pathlib import Path
from typing import Protocol

from egressguard.mail.address import AddressError
from egressguard.mail.envelope import Envelope
from egressguard.mail.reply import Reply
from egressguard.mail.submission import qualified
from egressguard.smtp.hooks import SessionFacts
from egressguard.store.content import Content
from egressguard.store.drop import BadDrop, Dropped, read, remove, set_aside, waiting
from egressguard.store.interface import SpoolBroken, SpoolFull

log = logging.getLogger(__name__)

LISTENER = "drop"
LOOK_SECONDS = 1.0
RETRY_SECONDS = 60.0
NOBODY = Reply(550, "5.1.3", "no recipient that is an address")
NOT_HIS = Reply(550, "5.7.1", "it names an account, which only the user that Dovecot runs as may")
KEPT = Reply(250, "2.0.0", "kept in the inbox")
LATER = Reply(451, "4.3.0", "it cannot be kept now")


class Acceptor(Protocol):
    """relay.accept.Acceptance, as far as it is used here."""

    def on_recipient(
        self, session: SessionFacts, reverse_path: str, forward_path: str, size_octets: int | None
    ) -> Reply | Awaitable[Reply]: ...

    async def on_message(self, session: SessionFacts, envelope: Envelope, content: Content) -> Reply: ...


class Scripts(Protocol):
    """mailbox.sieve_mail.SieveMail."""

    def may_speak(self, dropped: Dropped) -> bool: ...

    def why_not(self, dropped: Dropped) -> str: ...

    async def keep(self, dropped: Dropped, why: str) -> bool:
        """Durable when it returns; False: there is nothing to keep. Raises SpoolFull, SpoolBroken, OSError."""
        ...


class Pickup:
    def __init__(
        self,
        directory: Path,
        acceptor: Acceptor,
        scripts: Scripts,
        record: Callable[[str, Mapping[str, object]], None],
        *,
        max_octets: Callable[[], int],
        clock: Callable[[], float],
    ) -> None:
        self._directory = directory
        self._acceptor = acceptor
        self._scripts = scripts
        self._record = record
        self._max_octets = max_octets
        self._clock = clock
        self._not_before: dict[str, float] = {}

    async def run(self) -> None:
        """Look again and again until cancelled. Trouble that lasts is told once."""
        trouble = ""
        while True:
            try:
                await self.look()
                trouble = ""
            except OSError as wrong:
                if str(wrong) != trouble:
                    log.error("the drop directory cannot be read", extra={"fields": {"why": str(wrong)}})
                trouble = str(wrong)
            await asyncio.sleep(LOOK_SECONDS)

    async def look(self) -> None:
        """Take what waits and is due. Raises OSError when the directory cannot be read."""
        names = await asyncio.to_thread(lambda: list(waiting(self._directory)))
        self._not_before = {name: at for name, at in self._not_before.items() if name in set(names)}
        for name in names:
            if self._clock() >= self._not_before.get(name, 0.0):
                await self._take(name)

    async def _take(self, name: str) -> None:
        try:
            dropped = await asyncio.to_thread(read, self._directory, name, self._max_octets())
        except FileNotFoundError:
            return
        except (BadDrop, OSError) as wrong:
            self._aside(name, str(wrong), {})
            return
        reply = await self._answer(dropped)
        if reply.is_positive:
            remove(self._directory, name)
            self._not_before.pop(name, None)
        elif reply.is_transient:
            self._not_before[name] = self._clock() + RETRY_SECONDS
        else:
            self._aside(name, str(reply), {"sender": dropped.sender, "user": _sent_by(dropped)})

    async def _answer(self, dropped: Dropped) -> Reply:
        if not dropped.account:
            return await self._submit(dropped)
        if not self._scripts.may_speak(dropped):
            return NOT_HIS
        why = self._scripts.why_not(dropped)
        reply = Reply(550, "5.7.1", why) if why else await self._submit(dropped)
        if reply.is_positive or reply.is_transient:
            return reply
        try:
            return KEPT if await self._scripts.keep(dropped, why or str(reply)) else reply
        except (SpoolFull, SpoolBroken, OSError) as wrong:
            log.error("what a Sieve script redirects cannot be kept now", extra={"fields": {"why": str(wrong)}})
            return LATER

    async def _submit(self, dropped: Dropped) -> Reply:
        """One reply for the whole: a recipient who is put off puts all off, one who is refused refuses all."""
        session = SessionFacts(
            client=IPv4Address("127.0.0.1"),
            client_port=0,
            listener=LISTENER,
            kind="submission",
            user=_sent_by(dropped),
            source_id=f"{LISTENER}:{dropped.name}",
        )
        try:
            sender, *paths = (qualified(text, "localhost") for text in (dropped.sender, *dropped.recipients))
        except AddressError:
            return NOBODY
        for path in paths:
            answer = self._acceptor.on_recipient(session, sender, path, len(dropped.content))
            reply = answer if isinstance(answer, Reply) else await answer
            if not reply.is_positive:
                return reply
        utf8 = not all(text.isascii() for text in (sender, *paths))
        envelope = Envelope(sender, tuple(paths), smtputf8=utf8, body_8bit=not dropped.content.isascii())
        return await self._acceptor.on_message(session, envelope, Content.of(dropped.content))

    def _aside(self, name: str, why: str, more: Mapping[str, object]) -> None:
        try:
            set_aside(self._directory, name)
        except OSError as wrong:
            log.error("a dropped message cannot be set aside", extra={"fields": {"file": name, "why": str(wrong)}})
            self._not_before[name] = self._clock() + RETRY_SECONDS
            return
        log.error("a dropped message is not taken", extra={"fields": {"file": name, "why": why}})
        self._record("mail.refused", {"listener": LISTENER, "file": name, "reply": why, "stage": "data", **more})


def _sent_by(dropped: Dropped) -> str:
    return dropped.account or _user_of(dropped.owner)


def _user_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid-{uid}"
