"""The target for whole sessions: octets to the real engine, over a transport in memory, in any writes.

Contract
    Nothing is raised inside; each line has one reply or the session is over; what was acknowledged, and nothing else,
    has reached the hooks (tests/fuzz/reading.py); memory stays within what the wire and the budget allow; the session
    ends, by its time limits if by nothing else, and leaves nothing behind.
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import logging
import shutil
import ssl
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from prometheus_client import CollectorRegistry

from egressguard.mail.envelope import Envelope
from egressguard.mail.reply import Reply
from egressguard.smtp.auth import Authenticator
from egressguard.smtp.engine import REPLIES_OCTETS, Engine
from egressguard.smtp.hooks import Kind, SessionFacts, Stage
from egressguard.smtp.house import Entrance
from egressguard.smtp.server import SmtpServer
from egressguard.smtp.settings import SmtpSettings
from egressguard.smtp.wire import HIGH_WATER_OCTETS
from egressguard.store.content import Content
from egressguard.store.draft import Draft
from tests.fuzz.login import CheapAccounts
from tests.fuzz.memory import HIGH_WATER_OCTETS as WRITTEN_AHEAD
from tests.fuzz.memory import RECEIVED_OCTETS, Finding, MemoryLoop, MemoryTransport
from tests.fuzz.pieces import flags_and_pieces
from tests.fuzz.reading import Mail, Reading, replies_of

SETTINGS = SmtpSettings(
    hostname="gateway.example.org",
    max_message_octets=2000,
    max_recipients=3,
    max_excess_recipients=5,
    max_buffered_octets=1500,
    max_errors=8,
    max_idle_commands=20,
    binarymime=True,
    auth_failure_delay_seconds=0,
    command_seconds=3,
    data_chunk_seconds=2,
    data_seconds=10,
    session_seconds=60,
)
KINDS: tuple[Kind, ...] = ("smtp", "submission", "submissions")
SECONDS = 200.0
"""No session of these settings lives longer."""


@dataclass
class Hooks:
    """Refuses the paths "unknown..." and "later...", and messages that begin so."""

    messages: list[Mail] = field(default_factory=list)

    def has_room(self, size_octets: int) -> bool:
        return size_octets != 1999

    def on_recipient(
        self, session: SessionFacts, reverse_path: str, forward_path: str, size_octets: int | None
    ) -> Reply:
        return _judged(forward_path.encode(), Reply(250, "2.1.5", "OK"))

    async def on_message(self, session: SessionFacts, envelope: Envelope, content: Content) -> Reply:
        octets = content.whole()
        reply = _judged(octets, Reply(250, "2.0.0", "Taken"))
        if reply.is_positive:
            self.messages.append(Mail(envelope.reverse_path, envelope.forward_paths, octets, session.user))
        return reply

    def on_refused(self, session: SessionFacts, stage: Stage, reply: Reply, about: str) -> None:
        if not (reply.is_permanent or reply.is_transient):
            raise Finding(f"{reply} is told as a refusal")


def _judged(octets: bytes, otherwise: Reply) -> Reply:
    if octets.startswith(b"unknown"):
        return Reply(550, "5.1.1", "Not here: " + octets[:2000].decode("utf-8", "replace"))
    if octets.startswith(b"later"):
        return Reply(451, "4.7.1", "Later")
    return otherwise


class _Listening(logging.Handler):
    """An error in the log is our own fault, and there must be none."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.heard: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        why = f": {record.exc_info[1]!r}" if record.exc_info else ""
        self.heard.append(record.getMessage() + why)


@dataclass
class World:
    """What all tries share; a server's metrics are expensive to make."""

    loop: MemoryLoop
    server: SmtpServer
    folder: Path
    engines: dict[Kind, Engine]
    listening: _Listening

    def is_clean(self) -> None:
        """Nothing of a session is left."""
        self.loop.no_trouble()
        if heard := self.listening.heard:
            raise Finding("; ".join(heard))
        server = self.server
        if server._sessions or server._commits or server._connections.open or server.buffered.taken_octets:
            raise Finding("something of the session is left")
        if any(self.folder.iterdir()):
            raise Finding("a draft is left")


@functools.cache
def _world() -> World:
    listening = _Listening()
    for name in ("egressguard", "asyncio", "mail.log"):
        logging.getLogger(name).addHandler(listening)
    folder = Path(tempfile.mkdtemp(prefix="eg-fuzz-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    loop = MemoryLoop()

    async def make() -> tuple[SmtpServer, dict[Kind, Engine]]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server = SmtpServer(Hooks(), SETTINGS, context, None, CollectorRegistry(), lambda: Draft(folder))
        return server, {kind: Engine(server, Entrance(kind, kind)) for kind in KINDS}

    server, engines = loop.run_until_complete(make())
    return World(loop, server, folder, engines, listening)


def session(octets: bytes) -> None:
    """The first octet: the listener, how the client ends, whether it reads its replies, whether TLS fails."""
    flags, pieces = flags_and_pieces(octets)
    world = _world()
    kind, ending = KINDS[flags % 4 % 3], ENDINGS[flags >> 2 & 3]
    world.loop.fails_tls = bool(flags & 32)
    try:
        played = world.loop.run_until_complete(_play(world, kind, pieces, ending, deaf=bool(flags & 16)))
        world.is_clean()
    except BaseException:
        _world.cache_clear()
        raise
    if not flags & 16:
        _check(kind, b"".join(pieces), played)


ENDINGS = ("eof", "silence", "reset", "eof")


@dataclass(frozen=True, slots=True)
class Played:
    """`ended`: the server had ended the session before the client did."""

    said: bytes
    ended: bool
    messages: list[Mail]


async def _play(world: World, kind: Kind, pieces: list[bytes], ending: str, *, deaf: bool) -> Played:
    hooks = Hooks()
    world.server.hooks = hooks
    world.server.authenticator = Authenticator(CheapAccounts(), clock=world.loop.time)
    engine = world.engines[kind].copied()
    transport = MemoryTransport(world.loop, engine, deaf=deaf)
    engine.connection_made(transport)
    task = engine._handler_coroutine
    assert task is not None
    await world.loop.settle()
    for piece in pieces:
        transport.feed(piece)
        await world.loop.settle()
        _is_bounded(engine, transport)
    ended = transport.is_over
    if ending == "eof":
        transport.end()
    elif ending == "reset":
        transport.lose()
    _, late = await asyncio.wait((task,), timeout=SECONDS)
    if late:
        task.cancel()
        raise Finding("the session does not end")
    task.result()
    await world.loop.settle()
    if not transport.is_closing():
        raise Finding("the connection stays open")
    transport.lose()
    return Played(bytes(transport.said), ended, hooks.messages)


def _is_bounded(engine: Engine, transport: MemoryTransport) -> None:
    if len(engine._wire._buffer) > HIGH_WATER_OCTETS + RECEIVED_OCTETS:
        raise Finding(f"{len(engine._wire._buffer)} octets of input are held")
    if transport.unread_octets > WRITTEN_AHEAD + REPLIES_OCTETS + 4096:
        raise Finding(f"{transport.unread_octets} octets of replies are held")


def _check(kind: Kind, octets: bytes, played: Played) -> None:
    reading = Reading(
        octets,
        replies_of(played.said),
        people=kind != "smtp",
        ended=played.ended,
        most_octets=SETTINGS.max_message_octets,
        most_recipients=SETTINGS.max_recipients,
        tls=kind == "submissions",
    )
    if (wanted := reading.walk()) != played.messages:
        raise Finding(f"taken: {played.messages}, acknowledged: {wanted}")
