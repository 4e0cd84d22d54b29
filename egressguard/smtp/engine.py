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
import ssl
from collections.abc import Awaitable, Coroutine
from dataclasses import replace
from typing import Any, cast

from aiosmtpd.smtp import SMTP

from egressguard.mail.reply import Reply
from egressguard.net.flow import plain_address
from egressguard.smtp import replies
from egressguard.smtp.chunked import ChunkedData
from egressguard.smtp.commands import AUTH_OCTETS
from egressguard.smtp.dialogue import Dialogue
from egressguard.smtp.dotted import DottedData
from egressguard.smtp.hooks import SessionFacts
from egressguard.smtp.house import Entrance, House
from egressguard.smtp.intake import Intake
from egressguard.smtp.origin import original_destination
from egressguard.smtp.proxy import NeedMore, ProxyError, parse_proxy
from egressguard.smtp.replies import render_reply
from egressguard.smtp.waiting import Waiting
from egressguard.smtp.wire import BadLine, LineTooLong, Wire

log = logging.getLogger(__name__)

LINGER_SECONDS = 1
PROXY_SECONDS = 10
REPLIES_OCTETS = 16 * 1024
"""So much of the replies to a pipelined group waits for the rest of it."""


class SessionOver(Exception):
    """The session ends here; `reply`, if there is one, is its last word."""

    def __init__(self, reply: Reply | None = None) -> None:
        super().__init__()
        self.reply = reply


class Engine(SMTP):
    """aiosmtpd's SMTP gives session, task, output and their life cycle; commands never reach its methods."""

    def __init__(self, house: House, entrance: Entrance) -> None:
        """One that serves nobody: `copied` makes one for each connection."""
        settings = house.settings
        super().__init__(None, hostname=settings.hostname, ident="ESMTP", loop=asyncio.get_running_loop())
        self.command_size_limits = {}  # aiosmtpd's is shared by all sessions of the process
        self._house = house
        self._entrance = entrance
        self._settings = settings
        self._facts: SessionFacts | None = None  # set while admitted
        self._over_tls = False
        self._unsent: list[bytes] = []
        self._unsent_octets = 0

    def copied(self) -> Engine:
        """For a new connection. (aiosmtpd's __init__ looks through all its methods: half a millisecond each time.)"""
        engine = Engine.__new__(Engine)
        engine.__dict__.update(self.__dict__)
        engine._settings = self._house.settings
        engine._unsent = []
        asyncio.StreamReaderProtocol.__init__(
            engine, asyncio.StreamReader(loop=self.loop), engine._cb_client_connected, loop=self.loop
        )
        return engine

    # The connection's life, as asyncio tells it.

    def connection_made(self, made: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, made)  # uvloop's is one in all but name
        if transport.get_extra_info("peername") is None:  # gone before we looked
            transport.abort()
            return
        facts = _facts_of(transport, self._entrance, redirected=self._entrance.name == self._settings.redirect_to)
        admitted = self._house.admit(facts.client)
        self._house.metrics.connected(self._entrance.name, accepted=admitted)
        if not admitted:
            self._turn_away(transport, facts)
            return
        self._facts = facts
        self._wire = Wire(self._house.ticker, self._pause_reading)
        super().connection_made(transport)  # starts _handle_client
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
            self._wire.feed(data)

    def eof_received(self) -> bool:
        """The client has said all it will say. What it said is still answered; aiosmtpd would cancel everything."""
        if self._facts is None:
            return False
        self._wire.feed_eof()
        return not self._over_tls

    def connection_lost(self, error: Exception | None) -> None:
        """The session's task is not cancelled: it notices when it next reads or writes."""
        if self._facts is not None:
            asyncio.StreamReaderProtocol.connection_lost(self, error)
            self._client_connected_cb = None
            self._wire.lose(error)
            self.transport = None

    def _pause_reading(self, pause: bool) -> None:
        transport = cast(asyncio.Transport | None, self.transport)
        if transport is not None and not transport.is_closing():
            transport.pause_reading() if pause else transport.resume_reading()

    def _reset_timeout(self, duration: float | None = None) -> None:
        """aiosmtpd's one timer for everything is not used: each wait has its own."""

    @property
    def is_gone(self) -> bool:
        """Whether the client has left; its commit may still be under way."""
        return self._wire.is_ended

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
        except ProxyError as wrong:
            log.warning("a load balancer sent no PROXY header", extra={"fields": {"why": str(wrong)}})
        except Exception:
            log.exception("a session failed")
            await self._say_last(replies.TROUBLE)
        finally:
            self._wire.close()
            self._leave()
            self._house.left(self, self._facts.client)

    def _leave(self) -> None:
        """Close; a client that does not read what was said to it is not waited for: it is no longer counted."""
        if self._paused:  # type: ignore[attr-defined]
            cast(asyncio.Transport, self._writer.transport).abort()
        else:
            self._writer.close()
        del self._reader, self._writer  # which know us: without this only the garbage collector would end us

    async def _serve(self, facts: SessionFacts) -> None:
        if self._settings.hears_proxy(facts.client):
            facts = await self._heard_from_proxy(facts)
        if self._entrance.kind == "submissions":
            await self._upgrade()
            facts = replace(facts, tls=True)
        dialogue = self._new_dialogue(facts)
        try:
            await self._converse(dialogue)
        finally:
            dialogue.close()

    async def _heard_from_proxy(self, facts: SessionFacts) -> SessionFacts:
        """Who the load balancer says its client is; without a header that makes sense nobody is served."""
        octets = b""
        ends_at = self.loop.time() + PROXY_SECONDS
        while isinstance(header := parse_proxy(octets), NeedMore):
            try:
                octets += await self._piece(None, ends_at)
            except SessionOver:  # without its words: nobody is there yet to hear them, and TLS has not begun
                raise SessionOver from None
        self._wire.unread(octets[header.octets :])
        if header.source is None:
            return facts
        told = replace(facts, client=header.source, client_port=header.source_port, original_destination=None)
        if not self._house.readmit(facts.client, told.client):
            self._house.hooks.on_refused(told, "connect", replies.TOO_MANY_CONNECTIONS, "")
            self._house.metrics.rejected("connect", replies.reason_of(replies.TOO_MANY_CONNECTIONS))
            raise SessionOver(replies.TOO_MANY_CONNECTIONS if self._entrance.kind != "submissions" else None)
        self._facts = told
        return told

    async def _converse(self, dialogue: Dialogue) -> None:
        await self._wait_for_silence()
        reply: Reply | None = dialogue.greeting
        await self.send(dialogue.greeting)
        ends_at = self.loop.time() + self._settings.session_seconds
        while not dialogue.closing:
            if self._house.stopping:
                raise SessionOver(replies.STOPPING)
            if self.loop.time() > ends_at:
                raise self._out_of_time("session_seconds")
            reply = await dialogue.answer(await self._line())
            if reply is not None:
                self._write(reply)
                if not self._wire.has_line():
                    await self._flush()
        await self._flush()
        if reply is not None and reply.code != 221:
            await self._linger()

    async def _wait_for_silence(self) -> None:
        """A mail server waits for the greeting (RFC 5321 s3.1); a spammer's program often does not."""
        pause = self._entrance.greeting_pause_seconds
        if not (pause or self._wire.has_input()) or self._over_tls:
            return
        if not await self._wire.talks_within(pause):
            return
        self._house.metrics.spoke_early(self._entrance.name, refused=pause > 0)
        if pause:
            raise SessionOver(replies.EARLY_TALKER)

    def _out_of_time(self, limit: str) -> SessionOver:
        self._house.metrics.limited(limit)
        return SessionOver(replies.TIMED_OUT)

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
            if self._house.stopping:
                raise SessionOver(replies.STOPPING) from None
            raise self._out_of_time("command_seconds") from None
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
                while await self._wire.piece(LINGER_SECONDS) is not None:
                    pass

    # What the dialogue asks of the wire (dialogue.Channel).

    def has_input(self) -> bool:
        return self._wire.has_input()

    async def send(self, reply: Reply) -> None:
        self._write(reply)
        await self._flush()

    def _write(self, reply: Reply) -> None:
        """The replies to a pipelined group travel together (RFC 2920 s3.2)."""
        octets = render_reply(reply)
        self._unsent.append(octets)
        self._unsent_octets += len(octets)
        if self._unsent_octets > REPLIES_OCTETS:
            self._hand_over()

    def _hand_over(self) -> None:
        if self._unsent:
            self._writer.write(b"".join(self._unsent))
            self._unsent.clear()
            self._unsent_octets = 0

    async def _flush(self) -> None:
        self._hand_over()
        if self._paused:  # type: ignore[attr-defined]  # asyncio's FlowControlMixin: the client does not read
            async with asyncio.timeout(self._settings.command_seconds):
                await self._writer.drain()

    async def ask(self, reply: Reply) -> bytes:
        await self.send(reply)
        return await self._line()

    async def pause(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def start_tls(self) -> None:
        cast(asyncio.Transport, self.transport).pause_reading()  # nothing more for the reader of clear text
        await self.send(replies.READY_FOR_TLS)
        await self._upgrade()

    async def _upgrade(self) -> None:
        transport, context = cast(asyncio.Transport, self._writer.transport), self._house.tls_context
        assert context is not None
        seconds = self._settings.tls_handshake_seconds
        transport.pause_reading()  # what came so far came to us; what comes from here on is TLS's
        upgrading = self.loop.create_task(
            self.loop.start_tls(
                transport, self, context, server_side=True, ssl_handshake_timeout=seconds, ssl_shutdown_timeout=5
            )
        )
        if early := self._wire.take_all():  # implicit TLS: the client need not wait for us to begin
            # Two turns later: behind what start_tls itself has called soon.
            self.loop.call_soon(lambda: self.loop.call_soon(_feed, transport, early))
        try:
            tls = await upgrading
        except (OSError, ssl.SSLError) as wrong:
            self._house.metrics.handshake(None)
            if isinstance(wrong, ConnectionAbortedError):  # asyncio's word for a handshake that takes too long
                self._house.metrics.limited("tls_handshake_seconds")
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
            self._house.metrics.limited("recipient_hook_seconds")
            return replies.TROUBLE

    def new_intake(self) -> Intake:
        return Intake(self._house.new_draft, self._house.buffered, self._settings.max_buffered_octets)

    async def commit(self, question: Coroutine[Any, Any, Reply], intake: Intake) -> Reply:
        task = self._house.own(question)
        waiting = Waiting(self._house.ticker)

        def done(_task: asyncio.Task[Reply]) -> None:
            intake.close()
            waiting.wake()

        task.add_done_callback(done)
        try:
            await waiting.until(self.loop.time() + self._settings.message_hook_seconds)  # which cancels nothing
        except TimeoutError:
            log.error("a message could not be taken in time; it may still be")
            self._house.metrics.limited("message_hook_seconds")
            return replies.TROUBLE
        finally:
            waiting.close()
        return task.result()

    async def receive_data(self, intake: Intake) -> None:
        data = DottedData(self._settings.max_message_octets)
        intake.judged_by(data)
        await self._receive(data, intake, self.loop.time() + self._settings.data_seconds)

    async def _receive(self, data: DottedData, intake: Intake, ends_at: float) -> None:
        """Read to the end, wherever it is: what does not end is cut."""
        rest: bytes | None = None
        while rest is None:
            content, rest = data.feed(await self._piece(None, ends_at))
            await intake.add(content)
            if data.received_octets > 2 * self._settings.max_message_octets + 1024 * 1024:
                raise SessionOver(replies.TOO_BIG)
        if rest:
            self._wire.unread(rest)

    async def receive_chunk(self, size_octets: int, data: ChunkedData | None, intake: Intake | None) -> None:
        ends_at = self.loop.time() + self._settings.data_seconds
        while size_octets:
            piece = await self._piece(size_octets, ends_at)
            size_octets -= len(piece)
            if data is not None and intake is not None:
                await intake.add(data.feed(piece))

    async def _piece(self, limit_octets: int | None, ends_at: float) -> bytes:
        if not self._wire.has_input():
            await self._flush()
        seconds = min(self._settings.data_chunk_seconds, ends_at - self.loop.time())
        try:
            piece = await self._wire.piece(seconds, limit_octets)
        except TimeoutError:
            silent = self.loop.time() < ends_at
            raise self._out_of_time("data_chunk_seconds" if silent else "data_seconds") from None
        if piece is None:  # cut before the end: there is no message
            raise SessionOver
        return piece


def _feed(transport: asyncio.Transport, octets: bytes) -> None:
    """Give octets to the TLS protocol that has taken the engine's place (asyncio.BufferedProtocol)."""
    protocol = cast(asyncio.BufferedProtocol, transport.get_protocol())
    while octets:
        buffer = memoryview(protocol.get_buffer(len(octets)))
        count = min(len(buffer), len(octets))
        buffer[:count] = octets[:count]
        protocol.buffer_updated(count)
        octets = octets[count:]


def _facts_of(transport: asyncio.Transport, entrance: Entrance, *, redirected: bool) -> SessionFacts:
    """`redirected`: the connection may have been."""
    address, port = transport.get_extra_info("peername")[:2]
    return SessionFacts(
        client=plain_address(address),
        client_port=port,
        listener=entrance.name,
        kind=entrance.kind,
        original_destination=original_destination(transport.get_extra_info("socket")) if redirected else None,
    )
