"""One connection: aiosmtpd's protocol with its faults cured, the wire below a Dialogue.

Contract
    A client that goes away, half-closes or falls silent never cuts a commit in the middle.
    Whatever a hook raises, the client reads 451 4.3.0 and is cut off; the cause is in the log only.
    Every wait has an end: for a line, for a chunk, for a message, for a hook, for the client to read its replies.
    A session that is asked to stop finishes the message it is receiving, and takes no further command.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Awaitable, Coroutine
from dataclasses import replace
from typing import Any

from aiosmtpd.smtp import SMTP

from egressguard.mail.reply import Reply
from egressguard.net.flow import plain_address
from egressguard.smtp import replies
from egressguard.smtp.commands import AUTH_OCTETS
from egressguard.smtp.dialogue import Dialogue
from egressguard.smtp.dotted import DottedData
from egressguard.smtp.hooks import SessionFacts
from egressguard.smtp.house import Entrance, House
from egressguard.smtp.origin import original_destination
from egressguard.smtp.replies import render_reply
from egressguard.smtp.wire import CHUNK_OCTETS, BadLine, LineTooLong, Wire

log = logging.getLogger(__name__)

LINGER_SECONDS = 1


class SessionOver(Exception):
    """The session ends here; `reply`, if there is one, is its last word."""

    def __init__(self, reply: Reply | None = None) -> None:
        super().__init__()
        self.reply = reply


class Engine(SMTP):
    """aiosmtpd's SMTP gives the stream, the transport and their life cycle; commands never reach its methods."""

    line_length_limit = CHUNK_OCTETS  # of the stream: it stops reading the socket at twice this

    def __init__(self, house: House, entrance: Entrance) -> None:
        settings = house.settings
        super().__init__(None, hostname=settings.hostname, ident="ESMTP", loop=asyncio.get_running_loop())
        self.command_size_limits = {}  # aiosmtpd's is shared by all sessions of the process
        self._house = house
        self._entrance = entrance
        self._settings = settings
        self._facts: SessionFacts | None = None  # set while admitted
        self._over_tls = False
        self._held_octets = 0

    # The connection's life, as asyncio tells it.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        if transport.get_extra_info("peername") is None:  # gone before we looked
            transport.abort()
            return
        facts = _facts_of(transport, self._entrance)
        admitted = self._house.admit(facts.client)
        self._house.metrics.connected(self._entrance.name, accepted=admitted)
        if not admitted:
            self._turn_away(transport, facts)
            return
        self._facts = facts
        _send_at_once(transport)
        super().connection_made(transport)  # starts _handle_client
        self._wire = Wire(self._reader)
        assert self._handler_coroutine is not None
        self._house.joined(self, self._handler_coroutine)

    def _turn_away(self, transport: asyncio.Transport, facts: SessionFacts) -> None:
        """No session, no task: what is refused costs next to nothing."""
        reply = replies.TOO_MANY_CONNECTIONS
        self._house.hooks.on_refused(facts, "connect", reply, "")
        self._house.metrics.rejected("connect", replies.reason_of(reply))
        if self._entrance.kind != "submissions":  # before a TLS handshake there is no way to say it
            transport.write(render_reply(reply))
        transport.close()

    def data_received(self, data: bytes) -> None:
        if self._facts is not None:
            super().data_received(data)

    def eof_received(self) -> bool:
        """The client has said all it will say. What it said is still answered; aiosmtpd would cancel everything."""
        if self._facts is None:
            return False
        self._reader.feed_eof()
        return not self._over_tls

    def connection_lost(self, error: Exception | None) -> None:
        """The session's task is not cancelled: it notices when it next reads or writes."""
        if self._facts is not None:
            asyncio.StreamReaderProtocol.connection_lost(self, error)
            self.transport = None

    def _reset_timeout(self, duration: float | None = None) -> None:
        """aiosmtpd's one timer for everything is not used: each wait has its own."""

    def stop_soon(self) -> None:
        self._wire.hurry()

    # The session's task.

    async def _handle_client(self) -> None:
        assert self._facts is not None
        try:
            await self._serve(self._facts)
        except (ConnectionError, TimeoutError, ssl.SSLError):
            log.debug("a client is gone, or reads no more")
        except SessionOver as over:
            await self._say_last(over.reply)
        except Exception:
            log.exception("a session failed")
            await self._say_last(replies.TROUBLE)
        finally:
            self._release_octets()
            self._writer.close()
            self._house.left(self, self._facts.client)

    async def _serve(self, facts: SessionFacts) -> None:
        if self._entrance.kind == "submissions":
            await self._upgrade()
            facts = replace(facts, tls=True)
        dialogue = self._new_dialogue(facts)
        reply: Reply | None = dialogue.greeting
        await self.send(dialogue.greeting)
        ends_at = self.loop.time() + self._settings.session_seconds
        while not dialogue.closing:
            if self._house.stopping:
                raise SessionOver(replies.STOPPING)
            if self.loop.time() > ends_at:
                raise SessionOver(replies.TIMED_OUT)
            reply = await dialogue.answer(await self._line())
            if reply is not None:
                await self.send(reply)
        if reply is not None and reply.code != 221:
            await self._linger()

    def _new_dialogue(self, facts: SessionFacts) -> Dialogue:
        house = self._house
        tools = (house.hooks, self._settings, house.metrics, house.authenticator)
        return Dialogue(self, facts, *tools, offers_starttls=house.tls_context is not None)

    async def _line(self) -> bytes:
        """The client's next line, whatever its verb: none is allowed more than AUTH."""
        try:
            line = await self._wire.line(AUTH_OCTETS, self._settings.command_seconds)
        except LineTooLong:
            raise SessionOver(replies.LINE_TOO_LONG) from None
        except BadLine:
            raise SessionOver(replies.BAD_LINE) from None
        except TimeoutError:
            raise SessionOver(replies.STOPPING if self._house.stopping else replies.TIMED_OUT) from None
        if line is None:
            raise SessionOver
        return line

    async def _say_last(self, reply: Reply | None) -> None:
        if reply is None:
            return
        if reply.is_permanent or reply.code == 451:
            self._house.metrics.rejected("other", replies.reason_of(reply))
        if reply.is_permanent and self._facts is not None:
            self._house.hooks.on_refused(self._facts, "other", reply, "")
        with contextlib.suppress(ConnectionError, TimeoutError, ssl.SSLError):
            await self.send(reply)
            await self._linger()

    async def _linger(self) -> None:
        """Closing while octets arrive makes TCP throw away our last reply; so read on for a moment."""
        if self._over_tls or self._house.stopping:
            return
        self._writer.write_eof()
        with contextlib.suppress(ConnectionError, TimeoutError):
            async with asyncio.timeout(LINGER_SECONDS):
                while await self._wire.chunk(LINGER_SECONDS) is not None:
                    pass

    # What the dialogue asks of the wire (dialogue.Channel).

    def has_input(self) -> bool:
        return self._wire.has_input()

    async def send(self, reply: Reply) -> None:
        self._writer.write(render_reply(reply))
        async with asyncio.timeout(self._settings.command_seconds):
            await self._writer.drain()

    async def ask(self, reply: Reply) -> bytes:
        await self.send(reply)
        return await self._line()

    async def pause(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def start_tls(self) -> None:
        assert isinstance(self.transport, asyncio.Transport)
        self.transport.pause_reading()  # from here on it is TLS's, and nothing for the reader of clear text
        await self.send(replies.READY_FOR_TLS)
        await self._upgrade()

    async def _upgrade(self) -> None:
        transport, context = self._writer.transport, self._house.tls_context
        assert isinstance(transport, asyncio.Transport) and context is not None
        seconds = self._settings.tls_handshake_seconds
        try:
            tls = await self.loop.start_tls(
                transport, self, context, server_side=True, ssl_handshake_timeout=seconds, ssl_shutdown_timeout=5
            )
        except (OSError, ssl.SSLError):
            self._house.metrics.handshake(None)
            raise SessionOver from None
        if tls is None:  # the client left during the handshake
            raise SessionOver
        self._house.metrics.handshake(tls.get_extra_info("ssl_object").version())
        # StreamWriter.start_tls of Python 3.11 forgets the reader, so we do its work.
        self.transport = self._reader._transport = self._writer._transport = tls  # type: ignore[attr-defined]
        self._over_tls = True

    async def ask_about_recipient(self, question: Awaitable[Reply]) -> Reply:
        try:
            async with asyncio.timeout(self._settings.recipient_hook_seconds):
                return await question
        except TimeoutError:
            log.error("a recipient could not be judged in time")
            return replies.TROUBLE

    async def commit(self, question: Coroutine[Any, Any, Reply]) -> Reply:
        octets, self._held_octets = self._held_octets, 0
        task = self._house.own(question)
        task.add_done_callback(lambda _: self._house.buffered.give_back(octets))
        try:
            async with asyncio.timeout(self._settings.message_hook_seconds):
                return await asyncio.shield(task)
        except TimeoutError:
            log.error("a message could not be taken in time; it may still be")
            return replies.TROUBLE

    async def receive_message(self) -> bytes | Reply:
        data = DottedData(self._settings.max_message_octets)
        try:
            async with asyncio.timeout(self._settings.data_seconds):
                has_room = await self._receive(data)
        except TimeoutError:
            raise SessionOver(replies.TIMED_OUT) from None
        refusal = _refusal_of(data, has_room=has_room)
        if refusal is None:
            return bytes(data.content)
        self._release_octets()
        return refusal

    async def _receive(self, data: DottedData) -> bool:
        """Read to the end; False = there was no memory for it and the content is gone."""
        has_room = True
        rest: bytes | None = None
        while rest is None:
            chunk = await self._wire.chunk(self._settings.data_chunk_seconds)
            if chunk is None:  # cut before the final dot: there is no message
                raise SessionOver
            has_room = has_room and self._hold_octets(len(chunk))
            rest = data.feed(chunk)
            if not has_room:
                data.drop()
            if data.received_octets > 2 * self._settings.max_message_octets + 1024 * 1024:
                raise SessionOver(replies.TOO_BIG)  # it does not end
        self._wire.unread(rest)
        return has_room

    def _hold_octets(self, octets: int) -> bool:
        held = self._house.buffered.take(octets, self._settings.max_buffered_octets)
        self._held_octets += octets if held else 0
        return held

    def _release_octets(self) -> None:
        self._house.buffered.give_back(self._held_octets)
        self._held_octets = 0


def _refusal_of(data: DottedData, *, has_room: bool) -> Reply | None:
    if data.malformed:
        return replies.BAD_DATA
    if data.too_big:
        return replies.TOO_BIG
    return None if has_room else replies.NO_ROOM


def _send_at_once(transport: asyncio.Transport) -> None:
    """asyncio does this only for sockets made with IPPROTO_TCP; a group of replies would take 40 ms each."""
    with contextlib.suppress(OSError):  # the connection is gone already
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _facts_of(transport: asyncio.Transport, entrance: Entrance) -> SessionFacts:
    address, port = transport.get_extra_info("peername")[:2]
    return SessionFacts(
        client=plain_address(address),
        client_port=port,
        listener=entrance.name,
        kind=entrance.kind,
        original_destination=original_destination(transport.get_extra_info("socket")),
    )
