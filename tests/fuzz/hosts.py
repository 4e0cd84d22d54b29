"""The target for hostile hosts: the real client, from dialling to the last reply, over connections in memory.

Contract
    `send` returns, in time, with an outcome for every recipient, whatever the host says; its words are one short,
    printable line. Nothing is DELIVERED but what the host said 2yz to, by a plain reading of both directions.
    What is held of a host's words stays bounded.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, field

from egressguard.mail.outcome import Result
from egressguard.smtp.client import Patience, Peer, Sent, SmtpClient, Transaction
from egressguard.smtp.host_wire import REPLIES, REPLY_OCTETS, HostWire
from egressguard.store.content import Content
from tests.fuzz.memory import RECEIVED_OCTETS, Finding, MemoryLoop, MemoryTransport
from tests.fuzz.pieces import flags_and_pieces

PATIENCE = Patience(connect_seconds=2, command_seconds=3, data_seconds=4, whole_seconds=20)
MOST_SECONDS = 600.0
PATHS = ("b@receiver.example", "c@receiver.example")
MODES = ("none", "opportunistic", "starttls", "implicit")
CONTENT = b"Subject: x\r\n\r\n.hello\r\n.\r\n"
_LINE = re.compile(rb"([0-9]{3})(?:([ -]).*)?")


@dataclass
class HostilePeer:
    """Says one piece each time somebody waits for it; then it hangs up, or is silent."""

    loop: MemoryLoop
    pieces: list[bytes]
    ending: str
    connections: list[MemoryTransport] = field(default_factory=list)
    told: list[bytes] = field(default_factory=list)
    ahead: bool = False

    def connected(self, transport: MemoryTransport) -> None:
        self.connections.append(transport)
        self.told.append(b"")

    async def talk(self, sending: asyncio.Task[None]) -> None:
        while not sending.done():
            await self.loop.settle()
            if sending.done() or (not self._say() and not self._hang_up()):
                return

    def _say(self) -> bool:
        listening = [n for n, transport in enumerate(self.connections) if not transport.is_closing()]
        if not listening or not self.pieces:
            return False
        piece = self.pieces.pop(0)
        transport = self.connections[listening[-1]]
        self.told[listening[-1]] += piece
        self.ahead = self.ahead or _is_ahead(bytes(transport.said), self.told[listening[-1]])
        transport.feed(piece)
        _is_bounded(self)
        return True

    def _hang_up(self) -> bool:
        listening = [transport for transport in self.connections if not transport.is_closing()]
        if self.ending == "silence" or not listening:
            return False
        if self.ending == "eof":
            listening[-1].end()
        else:
            listening[-1].lose()
        return True


def host(octets: bytes) -> None:
    """The first octet: how TLS is asked for, how the host ends, one message or two, whether TLS fails."""
    flags, pieces = flags_and_pieces(octets)
    loop = MemoryLoop()
    loop.fails_tls = bool(flags & 16)
    peer = HostilePeer(loop, pieces, ("eof", "silence", "reset", "silence")[flags >> 2 & 3])
    loop.on_connection = peer.connected
    mode, messages = MODES[flags & 3], 2 if flags & 32 else 1
    try:
        sent = loop.run_until_complete(_send(peer, mode, messages, binary=bool(flags & 64)))
        loop.no_trouble()
    finally:
        loop.close()
    for one in sent:
        _check_outcomes(one)
    if mode == "none" and len(peer.connections) == messages == 1 and not peer.ahead:
        _check_delivered(sent[0], bytes(peer.connections[0].said), peer.told[0])


async def _send(peer: HostilePeer, mode: str, messages: int, *, binary: bool) -> list[Sent]:
    client, loop, sent = SmtpClient(), peer.loop, list[Sent]()
    transaction = Transaction("a@sender.example", PATHS, Content.of(CONTENT), binary=binary)
    place = Peer("mx.receiver.example", ("192.0.2.25",), 25, tls=mode)  # type: ignore[arg-type]

    async def send() -> None:
        for _ in range(messages):
            sent.append(await client.send(transaction, place, "gateway.example.org", PATIENCE))
        await client.close()

    ends_at = loop.time() + MOST_SECONDS
    sending = loop.create_task(send())
    while not sending.done():
        await peer.talk(sending)
        await asyncio.wait((sending,), timeout=0.5)
        if loop.time() > ends_at:
            sending.cancel()
            raise Finding("the client waits without end")
    sending.result()
    await loop.settle()
    if any(not transport.is_closing() for transport in peer.connections):
        raise Finding("a connection stays open")
    return sent


def _is_bounded(peer: HostilePeer) -> None:
    for transport in peer.connections:
        wire = transport.get_protocol()
        if not isinstance(wire, HostWire) or transport.is_closing():
            continue
        if len(wire._buffer) > REPLY_OCTETS + RECEIVED_OCTETS or len(wire._replies) > REPLIES:
            raise Finding(f"{len(wire._buffer)} octets, {len(wire._replies)} replies of a host are held")


def _check_outcomes(sent: Sent) -> None:
    if set(sent.outcomes) != set(PATHS):
        raise Finding(f"outcomes of {sorted(sent.outcomes)}")
    for outcome in sent.outcomes.values():
        if len(outcome.text) > 600 or not outcome.text.isprintable() or outcome.status[:1] not in "245":
            raise Finding(f"{outcome} ends up in a log and a DSN")


def _check_delivered(sent: Sent, said: bytes, told: bytes) -> None:
    """Each command beside its reply, in order; the last reply behind the content decides."""
    delivered = {path for path, outcome in sent.outcomes.items() if outcome.result is Result.DELIVERED}
    if not delivered:
        return
    if (codes := _codes(told)) is None:
        return
    commands = _commands(said)
    answered = dict(zip(["greeting", *commands], codes, strict=False))
    if answered.get("DATA", 354) != 354:
        raise Finding(f"content went out unasked: {answered}")
    for path in delivered:
        wanted = [f"RCPT TO:<{path}>", "the end"]
        if any(answered.get(command, 0) // 100 != 2 for command in wanted):
            raise Finding(f"{path} is delivered: {answered}")


def _is_ahead(said: bytes, told: bytes) -> bool:
    """Whether there are more replies than questions: those that come before theirs are nobody's, and are dropped."""
    return len(_codes(told) or ()) > 1 + len(_commands(said))


def _commands(said: bytes) -> list[str]:
    commands, at = [], 0
    while (end := said.find(b"\r\n", at)) >= 0:
        line = said[at:end].decode()
        commands.append(line)
        at = end + 2
        if line == "DATA" and (content := said.find(b"\r\n.\r\n", at)) >= 0:
            commands.append("the end")
            at = content + 5
        elif line.startswith("BDAT"):
            at += int(line.split()[1])
            commands[-1] = "the end" if line.endswith("LAST") else f"chunk at {at}"
    return commands


def _codes(told: bytes) -> list[int] | None:
    """Of all replies; None: not everything is a reply, and where the next begins is anybody's guess."""
    codes = []
    for line in told.split(b"\n")[:-1]:
        match = _LINE.fullmatch(line.rstrip(b"\r"))
        if match is None or len(line) > REPLY_OCTETS // 8:
            return None
        if match[2] != b"-":
            codes.append(int(match[1]))
    return codes
