"""An event loop without a kernel: connections are in memory, time passes only when everybody waits.

Contract
    Deterministic: no socket, no thread, no clock. What asks for a thread is done at once.
    A transport is as strict as uvloop's: what is closed can be neither paused nor resumed, and nothing is written
    behind an EOF. TLS is a handshake that succeeds or fails; its octets are not encrypted.
    Whatever a callback raises, and a wait that nothing can end, is a Finding.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Any

HIGH_WATER_OCTETS = 64 * 1024
"""As asyncio's and uvloop's: so much is written ahead of a peer that does not read."""
RECEIVED_OCTETS = 256 * 1024
"""So much the loops read at once."""


class Finding(AssertionError):
    """What must not be, whatever the octets."""


class _Selector:
    """Time passes in it, nothing else happens."""

    def __init__(self, loop: MemoryLoop) -> None:
        self._loop = loop

    def select(self, seconds: float | None) -> list[Any]:
        if seconds is None:
            raise Finding("everybody waits, and nothing can end it")
        self._loop.now += seconds
        return []

    def close(self) -> None: ...


class MemoryLoop(asyncio.BaseEventLoop):
    """`on_connection` hears of each transport that `create_connection` makes; `fails_tls`: no handshake succeeds."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.fails_tls = False
        self.on_connection: Callable[[MemoryTransport], None] | None = None
        self.troubles: list[str] = []
        self._selector = _Selector(self)
        self._clock_resolution = 1e-6
        self.set_exception_handler(self._note)

    def _note(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.troubles.append(f"{context.get('message')}: {context.get('exception')!r}")

    def time(self) -> float:
        return self.now

    def _process_events(self, _events: list[Any]) -> None: ...

    def _write_to_self(self) -> None: ...

    def run_in_executor(self, _executor: Any, function: Callable[..., Any], *arguments: Any) -> Any:
        future = self.create_future()
        try:
            future.set_result(function(*arguments))
        except Exception as wrong:
            future.set_exception(wrong)
        return future

    async def start_tls(self, transport: Any, protocol: Any, *_: Any, **_options: Any) -> Any:
        transport.begin_tls()
        for _turn in range(3):
            await asyncio.sleep(0)
        if transport.is_lost:
            return None
        if self.fails_tls:
            transport.abort()
            raise ssl.SSLError("no handshake")
        transport.end_tls(protocol)
        return transport

    async def sock_connect(self, _sock: Any, _address: Any) -> None: ...

    async def create_connection(self, factory: Callable[[], Any], *_: Any, sock: Any, **options: Any) -> Any:
        protocol = factory()
        transport = MemoryTransport(self, protocol, sock=sock)
        if options.get("ssl") is not None:
            if self.fails_tls:
                sock.close()
                raise ssl.SSLError("no handshake")
            transport.begin_tls()
            transport.end_tls(protocol)
        protocol.connection_made(transport)
        if self.on_connection is not None:
            self.on_connection(transport)
        return transport, protocol

    async def settle(self) -> None:
        """Until nobody can go on without more octets or more time."""
        while self._ready:
            await asyncio.sleep(0)

    def no_trouble(self) -> None:
        troubles, self.troubles = self.troubles, []
        if troubles:
            raise Finding("; ".join(troubles))


class _Socket:
    """As much of a socket as the engine asks of one."""

    def getsockname(self) -> tuple[str, int]:
        return "192.0.2.1", 25

    def getsockopt(self, *_: int) -> bytes:
        raise OSError("not redirected")

    def setsockopt(self, *_: object) -> None: ...

    def close(self) -> None: ...


class _Tls:
    """ssl.SSLObject and the protocol below TLS, as far as anybody looks."""

    def __init__(self, transport: MemoryTransport) -> None:
        self._transport = transport
        self._buffer = bytearray()

    def cipher(self) -> tuple[str, str, int]:
        return "TLS_AES_256_GCM_SHA384", "TLSv1.3", 256

    def version(self) -> str:
        return "TLSv1.3"

    def get_buffer(self, size: int) -> bytearray:
        self._buffer = bytearray(max(size, 1))
        return self._buffer

    def buffer_updated(self, octets: int) -> None:
        self._transport.waiting += self._buffer[:octets]


class MemoryTransport(asyncio.Transport):
    """One end of a connection: `feed`, `end` and `lose` are the peer's doing, `said` is what the peer was sent.

    `deaf`: the peer reads nothing."""

    def __init__(self, loop: MemoryLoop, protocol: Any, *, sock: Any = None, deaf: bool = False) -> None:
        super().__init__()
        self._loop = loop
        self._protocol = protocol
        self._sock = sock or _Socket()
        self.deaf = deaf
        self.said = bytearray()
        self.unread_octets = 0
        self.waiting = bytearray()
        self.secure = self._handshaking = False
        self.is_lost = self.eof_written = False
        self._closing = self._paused = self._pauses_writer = self._ended = self._end_told = False

    # The peer's side.

    @property
    def is_over(self) -> bool:
        """Whether our side has said its last word."""
        return self._closing or self.eof_written or self.is_lost

    def feed(self, octets: bytes) -> None:
        self.waiting += octets
        self._deliver()

    def end(self) -> None:
        self._ended = True
        self._deliver()

    def lose(self) -> None:
        self._lose(ConnectionResetError("reset by peer"))

    def _deliver(self) -> None:
        while self.waiting and not (self._paused or self._closing or self.is_lost):
            piece = bytes(self.waiting[:RECEIVED_OCTETS])
            del self.waiting[:RECEIVED_OCTETS]
            self._protocol.data_received(piece)
        if self._ended and not (self._end_told or self.waiting or self._paused or self._closing or self.is_lost):
            self._end_told = True
            if not self._protocol.eof_received():
                self.close()

    def begin_tls(self) -> None:
        self.secure = self._handshaking = True
        self._paused = True

    def end_tls(self, protocol: Any) -> None:
        self._protocol = protocol
        self._handshaking = False
        self._paused = False
        self._loop.call_soon(self._deliver)

    # What asyncio's transports can do.

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        known = {"peername": ("198.51.100.7", 40000), "socket": self._sock, "sockname": self._sock.getsockname()}
        if self.secure:
            known |= {"ssl_object": _Tls(self), "sslcontext": True, "peercert": None}
        return known.get(name, default)

    def get_protocol(self) -> Any:
        return _Tls(self) if self._handshaking else self._protocol

    def set_protocol(self, protocol: Any) -> None:
        self._protocol = protocol

    def is_closing(self) -> bool:
        return self._closing or self.is_lost

    def is_reading(self) -> bool:
        return not self._paused and not self.is_closing()

    def pause_reading(self) -> None:
        self._alive()
        self._paused = True

    def resume_reading(self) -> None:
        self._alive()
        if self._paused and not self._handshaking:
            self._paused = False
            self._loop.call_soon(self._deliver)

    def _alive(self) -> None:
        if self.is_lost:
            raise RuntimeError("the handle is closed")

    def write(self, data: Any) -> None:
        if self.eof_written:
            raise RuntimeError("cannot write after EOF")
        if self.is_lost or self._closing:
            return
        self.said += data
        if self.deaf:
            self.unread_octets += len(data)
            if self.unread_octets > HIGH_WATER_OCTETS and not self._pauses_writer:
                self._pauses_writer = True
                self._protocol.pause_writing()

    def can_write_eof(self) -> bool:
        return not self.secure

    def write_eof(self) -> None:
        if self.secure:
            raise NotImplementedError("TLS has no half-close")
        self._alive()
        self.eof_written = True

    def close(self) -> None:
        if self._closing:
            return
        self._closing = True
        if not self.unread_octets:
            self._loop.call_soon(self._lose, None)

    def abort(self) -> None:
        self._closing = True
        self._loop.call_soon(self._lose, None)

    def _lose(self, error: Exception | None) -> None:
        if self.is_lost:
            return
        self.is_lost = True
        self._sock.close()
        self._protocol.connection_lost(error)
