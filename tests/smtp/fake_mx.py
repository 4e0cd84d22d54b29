"""An SMTP server that misbehaves on demand: the peer of the client's and the queue's tests."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ipaddress
import os
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

# What may stand for a reply. All but HANG and ENDLESS end the connection there.
HANG = "hang"
CUT = "cut"
FIN = "fin"  # in order, without a word
RESET = "reset"
ALERT = "alert"  # TLS only: a fatal alert where a record belongs
ENDLESS = "endless"  # continuation lines as long as somebody takes them

_FATAL_ALERT = b"\x15\x03\x03\x00\x02\x02\x28"  # handshake_failure, RFC 8446 s6
_MOST_SAID_OCTETS = 1 << 28  # of ENDLESS: where a client listens to so much it has no bounds


@dataclass
class _Taking:
    """The transaction that a session is in."""

    sender: str = ""
    paths: list[str] = field(default_factory=list)


@dataclass
class FakeMx:
    """`replies` maps a command line's beginning to a reply or one of the words above; GREETING, DOT (behind the final
    dot) and CONTENT (before it) stand for what is no command.

    Case does not count, the longest beginning wins. `commands` is every line it was sent, `messages` what it took
    at the final dot, `said_octets` what it got rid of. With `drip_seconds` it speaks octet by octet; `delays` are
    seconds before it answers, and behind its answers to `leaves_after` it hangs up, by the same beginnings.
    """

    replies: dict[str, str] = field(default_factory=dict)
    delays: dict[str, float] = field(default_factory=dict)
    drip_seconds: float = 0
    leaves_after: tuple[str, ...] = ()
    extensions: tuple[str, ...] = ("8BITMIME", "SMTPUTF8", "SIZE 1000000")
    ehlo_name: str = "mx.test"
    starttls: ssl.SSLContext | None = None
    implicit: ssl.SSLContext | None = None
    lmtp: bool = False  # then DOT <path> is the final dot's reply for that recipient
    port: int = 0
    connections: int = 0
    most_at_once: int = 0
    said_octets: int = 0
    commands: list[str] = field(default_factory=list)
    messages: list[tuple[str, list[str], bytes]] = field(default_factory=list)
    _now: int = 0
    _sessions: set[asyncio.Task[None]] = field(default_factory=set)

    @contextlib.asynccontextmanager
    async def listening(self, address: str = "127.0.0.1") -> AsyncIterator[FakeMx]:
        """On a free port, or where `address` is a path on a Unix socket."""
        server: asyncio.Server
        if address.startswith("/"):
            server = await asyncio.start_unix_server(self._serve, address)
        else:
            server = await asyncio.start_server(self._serve, address, self.port, ssl=self.implicit)
            self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task in self._sessions:
                task.cancel()
            await asyncio.gather(*self._sessions, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        session = asyncio.current_task()
        assert session is not None
        self._sessions.add(session)
        session.add_done_callback(self._sessions.discard)
        self.connections += 1
        self._now += 1
        self.most_at_once = max(self.most_at_once, self._now)
        try:
            await self._session(reader, writer)
        except (ConnectionError, ssl.SSLError, asyncio.IncompleteReadError):
            pass
        finally:
            self._now -= 1
            writer.close()

    async def _session(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        taking = _Taking()
        going = await self._say(writer, "GREETING", "220 mx.test ESMTP")
        while going and (line := (await reader.readline()).decode("utf-8").strip()):
            self.commands.append(line)
            verb = line.split()[0].upper()
            handle = {"MAIL": self._mail, "RCPT": self._rcpt, "DATA": self._data, "STARTTLS": self._tls}.get(verb)
            if handle is not None:
                going = await handle(line, taking, reader, writer)
            else:
                going = await self._say(writer, line, self._usual(verb, writer)) and verb != "QUIT"

    def _usual(self, verb: str, writer: asyncio.StreamWriter) -> str:
        if self.lmtp and verb in {"EHLO", "HELO"}:
            return "500 5.5.1 LHLO please"
        if verb == ("LHLO" if self.lmtp else "EHLO"):
            return self._ehlo(writer.get_extra_info("sslcontext") is not None)
        return {"QUIT": "221 bye", "AUTH": "235 2.7.0 welcome"}.get(verb, "250 ok")

    async def _mail(self, line: str, taking: _Taking, _reader: object, writer: asyncio.StreamWriter) -> bool:
        taking.sender, taking.paths = line, []
        return await self._say(writer, line, "250 2.1.0 ok")

    async def _rcpt(self, line: str, taking: _Taking, _reader: object, writer: asyncio.StreamWriter) -> bool:
        if self._reply(line, "250").startswith("2"):
            taking.paths.append(line[9:].partition(">")[0])
        return await self._say(writer, line, "250 2.1.5 ok")

    async def _tls(self, line: str, _taking: object, _reader: object, writer: asyncio.StreamWriter) -> bool:
        if self.starttls is None:
            return await self._say(writer, line, "502 5.5.1 no")
        going = await self._say(writer, line, "220 go")
        await writer.start_tls(self.starttls)
        return going

    async def _data(
        self, line: str, taking: _Taking, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        going = await self._say(writer, line, "354 go")
        if not going or not self._reply(line, "354").startswith("354"):
            return going
        spoken = "CONTENT" in self.replies
        content = await self._content(reader, writer)
        if spoken:
            return True  # that was its answer
        if self.lmtp:
            return await self._each_told(taking, content, writer)
        if self._reply("DOT", "250").startswith("2"):
            self.messages.append((taking.sender, taking.paths, content))
        return await self._say(writer, "DOT", "250 2.0.0 taken")

    async def _each_told(self, taking: _Taking, content: bytes, writer: asyncio.StreamWriter) -> bool:
        taken = [path for path in taking.paths if self._reply(f"DOT <{path}>", "250").startswith("2")]
        self.messages.append((taking.sender, taken, content))
        for path in taking.paths:
            if not await self._say(writer, f"DOT <{path}>", "250 2.0.0 taken"):
                return False
        return True

    async def _content(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        lines: list[bytes] = []
        while (line := await reader.readline()) != b".\r\n":
            speaks = not lines and "CONTENT" in self.replies
            if not line or (speaks and not await self._say(writer, "CONTENT", "")):
                raise ConnectionError
            lines.append(line[1:] if line.startswith(b".") else line)
        return b"".join(lines)

    def _ehlo(self, secure: bool) -> str:
        offered = [*self.extensions, *(["STARTTLS"] if self.starttls and not secure else [])]
        lines = [self.ehlo_name, *offered]
        return "\r\n".join(f"250{'-' if n < len(lines) - 1 else ' '}{line}" for n, line in enumerate(lines))

    def _reply(self, line: str, usual: str) -> str:
        matching = [key for key in self.replies if line.upper().startswith(key.upper())]
        return self.replies[max(matching, key=len)] if matching else usual

    async def _say(self, writer: asyncio.StreamWriter, line: str, usual: str) -> bool:
        """False when the connection is over."""
        reply = self._reply(line, usual)
        delays = [seconds for key, seconds in self.delays.items() if line.upper().startswith(key.upper())]
        await asyncio.sleep(max(delays, default=0))
        if reply == HANG:
            await asyncio.sleep(3600)
        if reply in _LEAVE:
            _LEAVE[reply](writer)
            return False
        if reply == ENDLESS:
            await self._say_without_end(writer)
        octets = reply.encode() + b"\r\n"
        for piece in _single(octets) if self.drip_seconds else (octets,):
            writer.write(piece)
            await writer.drain()
            self.said_octets += len(piece)
            await asyncio.sleep(self.drip_seconds)
        if line.upper().startswith(self.leaves_after):
            _fin(writer)
            return False
        return True

    async def _say_without_end(self, writer: asyncio.StreamWriter) -> None:
        line = b"250-" + b"x" * 994 + b"\r\n"
        while self.said_octets < _MOST_SAID_OCTETS:
            writer.write(line)
            await writer.drain()
            self.said_octets += len(line)


def _single(octets: bytes) -> Iterator[bytes]:
    return (octets[n : n + 1] for n in range(len(octets)))


def _cut(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


def _fin(writer: asyncio.StreamWriter) -> None:
    writer.close()


def _reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def _alert(writer: asyncio.StreamWriter) -> None:
    os.write(writer.get_extra_info("socket").fileno(), _FATAL_ALERT)
    writer.transport.abort()


_LEAVE = {CUT: _cut, FIN: _fin, RESET: _reset, ALERT: _alert}


def make_certificate(directory: Path, *names: str) -> tuple[ssl.SSLContext, Path]:
    """A self-signed certificate for names and addresses: (the server's context, the file to trust)."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([_general_name(n) for n in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = directory / "certificate.pem"
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_path = directory / "key.pem"
    encoding, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    key_path.write_bytes(key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, plain))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path, key_path)
    return context, path


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
