"""Any commands in any order, in groups and cut anywhere: each is answered once, as the model says, and what was
acknowledged is what is stored. EGRESSGUARD_FUZZ is how many sessions are tried (make fuzz FUZZ=20000)."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import os
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from egressguard.smtp.hooks import Kind
from egressguard.store.passwd import PasswdEntry, PasswdFile, render_passwd_line
from tests.smtp.conftest import HASH, PASSWORD, Client, Running, Stand
from tests.smtp.session_model import MAX_RECIPIENTS, OVERSIZE, Command, Model, Verb
from tests.smtp.wire_peer import extensions, taken

TRIES = int(os.environ.get("EGRESSGUARD_FUZZ", "160"))
MUCH = 10**9


def _plain(password: str) -> bytes:
    return b"AUTH PLAIN " + base64.b64encode(f"\0anna\0{password}".encode()) + b"\r\n"


def _bdat(content: bytes, *, last: bool) -> Command:
    octets = b"BDAT %d%s\r\n" % (len(content), b" LAST" if last else b"")
    return Command(octets + content, Verb.BDAT, content, extended=last)


GREETINGS = (Command(b"EHLO client.example.net\r\n", Verb.EHLO), Command(b"helo client.example.net\r\n", Verb.HELO))
MAILS = (
    Command(b"MAIL FROM:<a@sender.example>\r\n", Verb.MAIL, b"a@sender.example"),
    Command(b"mail from:<>\r\n", Verb.MAIL),
    Command(b"MAIL FROM:<a@sender.example> SIZE=10 BODY=8BITMIME\r\n", Verb.MAIL, b"a@sender.example", extended=True),
)
RCPTS = (
    Command(b"RCPT TO:<anna@example.org>\r\n", Verb.RCPT, b"anna@example.org"),
    Command(b"rcpt to:<bert@example.org>\r\n", Verb.RCPT, b"bert@example.org"),
    Command(b"RCPT TO:<carl@example.org>\r\n", Verb.RCPT, b"carl@example.org"),
)
DATA = Command(b"DATA\r\n", Verb.DATA)
WRONG = (
    Command(b"EHLO \r\n", Verb.EHLO, flawed=True),
    Command(b"MAIL FROM:<a@sender.example\r\n", Verb.MAIL, flawed=True),
    Command(b"MAIL FROM:<@relay.example:a@sender.example>\r\n", Verb.MAIL, flawed=True),
    Command(b"RCPT TO:<>\r\n", Verb.RCPT, flawed=True),
    Command(b"RCPT TO:<unknown@example.org>\r\n", Verb.RCPT, b"unknown@example.org"),
    Command(b"RSET now\r\n", Verb.RSET, flawed=True),
    Command(b"QUIT now\r\n", Verb.QUIT, flawed=True),
    Command(b"AUTH CRAM-MD5\r\n", Verb.AUTH, flawed=True),
    Command(b"AUTH PLAIN !\r\n", Verb.AUTH, flawed=True),
    Command(b"EXPN staff\r\n", Verb.NEVER),
    Command(b"BOGUS\r\n", Verb.NEVER),
    Command(b"\r\n", Verb.NEVER),
    Command(b".\r\n", Verb.NEVER),
    Command(b"\xff\xfe\r\n", Verb.NEVER),
    Command(b"NOOP " + b"x" * 3000 + b"\r\n", Verb.NEVER),
)
OTHERS = (
    *(Command(octets, Verb.ALWAYS) for octets in (b"NOOP\r\n", b"noop x\r\n", b"VRFY root\r\n", b"HELP\r\n")),
    Command(b"RSET\r\n", Verb.RSET),
    Command(_plain(PASSWORD), Verb.AUTH, b"right"),
    Command(_plain("guess"), Verb.AUTH, b"wrong"),
)
LAST_OF_A_GROUP = (
    DATA,
    DATA,
    DATA,
    Command(b"DATA now\r\n", Verb.DATA, flawed=True),
    Command(b"STARTTLS\r\n", Verb.STARTTLS),
    Command(b"STARTTLS now\r\n", Verb.STARTTLS, flawed=True),
    Command(b"QUIT\r\n", Verb.QUIT),
    Command(_plain("guess"), Verb.AUTH, b"wrong"),
    Command(b"NOOP\nNOOP\r\n", Verb.FATAL),
    Command(b"NO\rOP\r\n", Verb.FATAL),
    Command(b"NO\0OP\r\n", Verb.FATAL),
    Command(b"GET / HTTP/1.1\r\n", Verb.FATAL),
    Command(b"RCPT TO:<goaway@example.org>\r\n", Verb.RCPT, b"goaway@example.org"),
    Command(b"RCPT TO:<broken@example.org>\r\n", Verb.RCPT, b"broken@example.org"),
)
LINES = st.lists(st.sampled_from([b"", b".", b"..", b".x", b"text", b"QUIT", b"\xe9", b"Subject: x"]), max_size=6)
LAWFUL = LINES.map(lambda lines: b"".join(line + b"\r\n" for line in lines))
CONTENT = LAWFUL | LAWFUL | st.sampled_from([b"a\nb\r\n", b"x" * OVERSIZE + b"\r\n"])
WELL = st.sampled_from(GREETINGS + MAILS + RCPTS + RCPTS)
ANY = WELL | WELL | st.sampled_from(WRONG) | st.sampled_from(OTHERS)
TO_TLS = (GREETINGS[0], Command(b"STARTTLS\r\n", Verb.STARTTLS), GREETINGS[0])
LOGIN, GUESS = OTHERS[5:]
BEGINNINGS: tuple[tuple[Command, ...], ...] = (
    (),
    GREETINGS[:1],
    TO_TLS[:2],
    TO_TLS,
    (*TO_TLS, MAILS[0]),
    (*TO_TLS, GUESS, GUESS),
    (*TO_TLS, LOGIN, MAILS[0], RCPTS[0]),
    (GREETINGS[0], MAILS[0], RCPTS[0]),
    (GREETINGS[1], MAILS[1], RCPTS[1], RCPTS[2]),
)


@dataclass(frozen=True)
class Group:
    """Commands that are sent at once (RFC 2920), cut into writes of these lengths, again and again."""

    commands: tuple[Command, ...]
    cuts: tuple[int, ...]
    content: bytes


@st.composite
def groups(draw: st.DrawFn) -> Group:
    commands = draw(st.lists(ANY, max_size=4))
    if draw(st.booleans()) or not commands:
        commands.append(draw(st.sampled_from(LAST_OF_A_GROUP)))
    cuts = draw(st.lists(st.integers(1, 40), max_size=5))
    return Group(tuple(commands), tuple(cuts), draw(CONTENT))


@st.composite
def counted(draw: st.DrawFn) -> Group:
    """A transaction by BDAT, with what else may come in between."""
    chunks = draw(st.lists(LAWFUL, min_size=1, max_size=3))
    commands = [_bdat(chunk, last=n == len(chunks)) for n, chunk in enumerate(chunks, 1)]
    between = draw(st.sampled_from([(), (OTHERS[0],), (OTHERS[4],)]))  # NOOP, RSET
    setting_out = draw(st.sampled_from([(MAILS[0], RCPTS[0]), (MAILS[0],), ()]))
    cuts = draw(st.lists(st.integers(1, 40), max_size=5))
    return Group((*setting_out, *commands[:1], *between, *commands[1:]), tuple(cuts), b"")


def stuffed(content: bytes) -> bytes:
    return (b"\r\n" + content).replace(b"\r\n.", b"\r\n..")[2:] + b".\r\n"


@dataclass
class Talk:
    """One session and its model."""

    client: Client
    running: Running
    model: Model
    said: list[bytes] = field(default_factory=list)

    async def group(self, group: Group) -> None:
        commands = self._within_reach(group.commands)
        await self._send(b"".join(command.octets for command in commands), group.cuts)
        for command in commands:
            await self._expect(self.model.classes(command), command)
            if self.model.closed:
                return
            if command.verb is Verb.STARTTLS and self.said[-1][:1] == b"2":
                await self.client.writer.start_tls(self.running.client_context, server_hostname="gateway.example.org")
            if command.verb is Verb.DATA and self.said[-1][:1] == b"3":
                await self._send(stuffed(group.content), group.cuts)
                await self._expect(self.model.content(group.content), command)

    def _within_reach(self, commands: Sequence[Command]) -> Sequence[Command]:
        """What stands behind a command that ends the session would be cut off over TLS, its last reply with it."""
        if not self.model.tls:
            return commands
        last = next((n for n, command in enumerate(commands) if command.value == b"wrong"), len(commands))
        return commands[: last + 1]

    async def _send(self, octets: bytes, cuts: tuple[int, ...]) -> None:
        for length in itertools.cycle(cuts) if cuts else (len(octets),):
            await self.client.send(octets[:length])
            octets = octets[length:]
            if not octets:
                return

    async def _expect(self, classes: str, command: Command) -> None:
        reply = await self.client.reply()
        self.said.append(reply.encode())
        event(f"{command.verb.name} {reply[:1]}yz")
        assert reply[:1] and reply[:1] in classes, f"{command}: expected {classes}, said {self.said[-3:]}"

    async def end(self) -> None:
        """Nothing is said that was not asked for, and what was acknowledged is stored."""
        if not self.model.closed:
            assert (await self.client.say("QUIT"))[:1] == "2"
        assert await self.client.rest() == ""
        stored = [(message.reverse_path, message.forward_paths, message.content) for message in taken(self.running)]
        assert stored == self.model.stored


@dataclass
class Server:
    """A server that stands for all tries, in a loop that stands still between them."""

    runner: asyncio.Runner
    running: Running
    chunking: bool
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(2))

    def play(self, kind: Kind, talk: Sequence[Group]) -> None:
        self.runner.run(self._play(kind, talk))

    async def _play(self, kind: Kind, talk: Sequence[Group]) -> None:
        self.running.hooks.messages.clear()
        async with self._client(kind) as client:
            session = Talk(client, self.running, Model(kind != "smtp", self.chunking))
            for group in talk:
                if not session.model.closed:
                    await session.group(group)
            await session.end()

    @contextlib.asynccontextmanager
    async def _client(self, kind: Kind) -> AsyncIterator[Client]:
        """From an address of its own: who guesses too often is shut out, and its neighbours are not."""
        number = next(self._numbers)
        place = (f"127.{number >> 16 & 127}.{number >> 8 & 255}.{number & 255}", 0)
        client = Client(*await asyncio.open_connection(*self.running.places[kind], local_addr=place))
        try:
            assert (await client.reply())[:3] == "220"
            yield client
        finally:
            client.writer.transport.abort()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("model")
    (folder / "passwd").write_text(render_passwd_line(PasswdEntry("anna", HASH)))
    stand = Stand(folder, PasswdFile(folder / "passwd"))
    limits = {"max_message_octets": OVERSIZE - 1, "max_recipients": MAX_RECIPIENTS}
    serving = stand.serve(**limits, max_errors=MUCH, max_idle_commands=MUCH)

    async def open_it() -> tuple[Running, bool]:
        running = await serving.__aenter__()
        async with stand.client(running) as client:
            return running, "CHUNKING" in await extensions(client)

    with asyncio.Runner() as runner:
        running, chunking = runner.run(open_it())
        yield Server(runner, running, chunking)
        runner.run(serving.__aexit__(None, None, None))


TRIED = settings(max_examples=TRIES, deadline=None, suppress_health_check=list(HealthCheck))


@TRIED
@given(
    kind=st.sampled_from(["smtp", "submission"]),
    beginning=st.sampled_from(BEGINNINGS),
    talk=st.lists(groups(), max_size=6),
)
def test_any_session_answers_as_the_model_says(
    kind: Kind, beginning: tuple[Command, ...], talk: list[Group], server: Server
) -> None:
    alone = [Group((command,), (), b"") for command in beginning]
    server.play(kind, [*alone, *talk])


@settings(TRIED, max_examples=max(TRIES // 4, 1))
@given(talk=st.lists(counted(), min_size=1, max_size=3))
def test_counted_messages_answer_as_the_model_says(talk: list[Group], server: Server) -> None:
    if not server.chunking:
        pytest.skip("CHUNKING is not offered")
    server.play("smtp", [Group(GREETINGS[:1], (), b""), *talk])


WHOLE_SESSION = (
    b"EHLO a.example\r\nMAIL FROM:<a@sender.example> SIZE=10\r\nRCPT TO:<anna@example.org>\r\nBOGUS\r\nDATA\r\n",
    b"Subject: x\r\n\r\n..\r\n.\r\nRSET\r\nMAIL FROM:<>\r\nRCPT TO:<anna@example.org>\r\nDATA\r\n",
    b".\r\nNOOP\r\nQUIT\r\n",
)
ANSWERS = (["250", "250", "250", "500", "354"], ["250", "250", "250", "250", "354"], ["250", "250", "221"])


@pytest.mark.parametrize("part", range(len(WHOLE_SESSION)))
def test_no_place_is_a_bad_place_to_cut(part: int, server: Server) -> None:
    """One session, as many times as it has octets: each time one of its writes is cut in two elsewhere."""

    async def walk(cut: int) -> None:
        server.running.hooks.messages.clear()
        async with server._client("smtp") as client:
            for number, (octets, codes) in enumerate(zip(WHOLE_SESSION, ANSWERS, strict=True)):
                here = cut if number == part else 0
                await client.send(octets[:here])
                for _ in range(4):  # the server reads what is there, and waits for the rest
                    await asyncio.sleep(0)
                await client.send(octets[here:])
                assert [(await client.reply())[:3] for _ in codes] == codes, f"cut at {cut}"
            assert await client.rest() == ""
        assert [message.content for message in taken(server.running)] == [b"Subject: x\r\n\r\n.\r\n", b""]

    for cut in range(1, len(WHOLE_SESSION[part])):
        server.runner.run(walk(cut))
