"""Any session, cut at every one of its octets: the answers and the messages are the model's, wherever the cut is.

The engine is the real one, its transport is in memory (tests/fuzz/memory.py): a session takes half a millisecond, so
each example is played as many times as it has octets."""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from egressguard.smtp.auth import Authenticator
from egressguard.smtp.engine import Engine
from egressguard.smtp.hooks import Kind
from egressguard.smtp.house import Entrance
from egressguard.smtp.server import SmtpServer
from egressguard.store.draft import Draft
from tests.fuzz.login import CheapAccounts
from tests.fuzz.memory import MemoryLoop, MemoryTransport
from tests.fuzz.reading import replies_of
from tests.smtp.conftest import PASSWORD, SETTINGS, Remembering
from tests.smtp.session_model import MAX_RECIPIENTS, OVERSIZE, Command, Model, Verb
from tests.smtp.test_session_model import BEGINNINGS, GREETINGS, MUCH, TRIES, Group, counted, groups, stuffed

KINDS: tuple[Kind, ...] = ("smtp", "submission")
MOST_OCTETS = 1200
"""A session that is longer is cut at so many places, evenly."""
LIMITS = replace(
    SETTINGS,
    max_message_octets=OVERSIZE - 1,
    max_recipients=MAX_RECIPIENTS,
    max_errors=MUCH,
    max_idle_commands=MUCH,
)


@dataclass(frozen=True)
class Script:
    """What is written, each time after everything before was answered; what must be answered; what must be stored."""

    writes: list[bytes]
    classes: list[str]
    stored: list[tuple[str, tuple[str, ...], bytes]]

    @staticmethod
    def of(kind: Kind, talk: Sequence[Group]) -> Script:
        model = Model(kind != "smtp", chunking=True)
        script = Script([], ["2"], model.stored)
        for group in talk:
            if not model.closed:
                script._add(group, model)
        if not model.closed:
            script._add(Group((Command(b"QUIT\r\n", Verb.QUIT),), (), b""), model)
        return script

    def _add(self, group: Group, model: Model) -> None:
        self.writes.append(b"".join(command.octets for command in group.commands))
        for command in group.commands:
            self.classes.append(model.classes(command))
            if model.closed:
                return
            if command.verb is Verb.DATA and self.classes[-1] == "3":
                self.writes.append(stuffed(group.content))
                self.classes.append(model.content(group.content))

    def cut_at(self, place: int) -> list[bytes]:
        """The writes, one of them in two."""
        pieces = []
        for octets in self.writes:
            pieces += [octets[:place], octets[place:]] if 0 < place < len(octets) else [octets]
            place -= len(octets)
        return pieces

    def in_octets(self) -> list[bytes]:
        return [bytes([octet]) for octets in self.writes for octet in octets]


@dataclass
class Server:
    loop: MemoryLoop
    server: SmtpServer
    engines: dict[Kind, Engine]

    def check(self, kind: Kind, script: Script, pieces: list[bytes], where: object) -> None:
        said, hooks = self.loop.run_until_complete(self._play(kind, pieces))
        self.loop.no_trouble()
        codes = [reply.code for reply in replies_of(said)]
        answered = len(codes) == len(script.classes)
        answered = answered and all(code[0] in wanted for code, wanted in zip(codes, script.classes, strict=True))
        assert answered, f"{kind}, cut at {where}: {codes} instead of {script.classes} to {script.writes}"
        stored = [(e.reverse_path, e.forward_paths, content) for _, e, content in hooks.messages]
        assert stored == script.stored, f"{kind}, cut at {where}"

    async def _play(self, kind: Kind, pieces: list[bytes]) -> tuple[bytes, Remembering]:
        hooks = self.server.hooks = Remembering()
        self.server.authenticator = Authenticator(CheapAccounts(PASSWORD), clock=self.loop.time)
        engine = self.engines[kind].copied()
        transport = MemoryTransport(self.loop, engine)
        engine.connection_made(transport)
        await self.loop.settle()
        for piece in pieces:
            transport.feed(piece)
            await self.loop.settle()
        transport.end()
        task = engine._handler_coroutine
        assert task is not None
        await task
        await self.loop.settle()
        return bytes(transport.said), hooks


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder: Path = tmp_path_factory.mktemp("drafts")
    loop = MemoryLoop()

    async def make() -> Server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        made = SmtpServer(Remembering(), LIMITS, context, None, CollectorRegistry(), lambda: Draft(folder))
        return Server(loop, made, {kind: Engine(made, Entrance(kind, kind)) for kind in KINDS})

    yield loop.run_until_complete(make())
    assert not list(folder.iterdir())
    loop.close()


def everywhere(kind: Kind, talk: Sequence[Group], server: Server) -> None:
    script = Script.of(kind, talk)
    server.check(kind, script, script.writes, "nowhere")
    server.check(kind, script, script.in_octets(), "every octet")
    octets = sum(map(len, script.writes))
    for place in range(1, octets, 1 + octets // MOST_OCTETS):
        server.check(kind, script, script.cut_at(place), place)


TRIED = settings(max_examples=max(TRIES // 16, 1), deadline=None, suppress_health_check=list(HealthCheck))


@TRIED
@given(kind=st.sampled_from(KINDS), beginning=st.sampled_from(BEGINNINGS), talk=st.lists(groups(), max_size=4))
def test_any_session_cut_anywhere(
    kind: Kind, beginning: tuple[Command, ...], talk: list[Group], server: Server
) -> None:
    everywhere(kind, [*(Group((command,), (), b"") for command in beginning), *talk], server)


@TRIED
@given(talk=st.lists(counted(), min_size=1, max_size=3))
def test_counted_messages_cut_anywhere(talk: list[Group], server: Server) -> None:
    everywhere("smtp", [Group(GREETINGS[:1], (), b""), *talk], server)


def test_a_wrong_answer_at_one_place_would_be_seen(server: Server) -> None:
    script = Script.of("smtp", [Group(GREETINGS[:1], (), b"")])
    with pytest.raises(AssertionError, match="cut at 3"):
        server.check("smtp", replace(script, classes=["2", "5", "2"]), script.cut_at(3), 3)
