"""The command socket of a role: one JSON line in, one JSON line out.

Contract
    A request is {"command": NAME, "arguments": {...}} and a newline, at most REQUEST_OCTETS.
    The answer is {"ok": true, "result": ...} or {"ok": false, "error": WORDS, "kind": KIND}.
    Who may ask is the socket file's mode (0660, the egressguard group); only root and the role's own user may
    change anything: one role that was taken over cannot command another. What needs no more than a proof that comes
    with it (a signed token) anybody may ask who may connect.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import pwd
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

REQUEST_OCTETS = 64 * 1024
ANSWER_OCTETS = 256 * 1024 * 1024
REQUEST_SECONDS = 10
NAME_CHARACTERS = 60

Handler = Callable[..., Awaitable[Any]]

_asking: ContextVar[int | None] = ContextVar("asking", default=None)
"""The user who put the command that is being answered, as the kernel says."""


@dataclass(frozen=True, slots=True)
class Commands:
    """`reads` change nothing; `changes` are for root and the role's own user.

    `proven` are for whoever may connect: what they are asked with is itself the proof that it may be done."""

    reads: Mapping[str, Handler] = field(default_factory=dict)
    changes: Mapping[str, Handler] = field(default_factory=dict)
    proven: Mapping[str, Handler] = field(default_factory=dict)


class CommandError(Exception):
    """What the person who asked is told; `kind` is "failed", "not-found", "refused" or "temporary"."""

    def __init__(self, words: str, kind: str = "failed") -> None:
        super().__init__(words)
        self.kind = kind


class DaemonUnreachable(Exception):
    """No role answers at that socket."""


async def serve_commands(path: Path, commands: Commands) -> asyncio.Server:
    """Answer commands at `path` until the server is closed. An old socket file is replaced."""
    path.unlink(missing_ok=True)
    server = await asyncio.start_unix_server(
        lambda reader, writer: _serve_one(reader, writer, commands), path, limit=REQUEST_OCTETS
    )
    path.chmod(0o660)
    return server


async def _serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, commands: Commands) -> None:
    try:
        async with asyncio.timeout(REQUEST_SECONDS):
            line = await reader.readline()
        _asking.set(_user(writer))
        answer = await _answer(line, _allowed(writer, commands))
        writer.write(json.dumps(answer, default=str).encode() + b"\n")
        await writer.drain()
    except (TimeoutError, ValueError, ConnectionError) as wrong:
        log.info("command connection ended", extra={"fields": {"why": str(wrong) or type(wrong).__name__}})
    finally:
        writer.close()


def _allowed(writer: asyncio.StreamWriter, commands: Commands) -> Mapping[str, Handler]:
    if _user(writer) in {0, os.getuid()}:
        return {**commands.reads, **commands.proven, **commands.changes}
    return {**commands.reads, **commands.proven, **dict.fromkeys(commands.changes, _not_yours)}


def _user(writer: asyncio.StreamWriter) -> int:
    raw = writer.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    _, uid, _ = struct.unpack("3i", raw)
    return int(uid)


def who_asks(says: str) -> str:
    """For the journal: the user who put the command that is being answered, and who he says that he is."""
    uid = _asking.get()
    try:
        known = pwd.getpwuid(os.getuid() if uid is None else uid).pw_name
    except KeyError:
        known = str(uid)
    shown = "".join(c for c in says[:NAME_CHARACTERS] if c.isprintable())
    return known if shown in {"", known} else f"{shown} (as {known})"


async def _not_yours(**_arguments: Any) -> Any:
    raise CommandError("only root may do this", "permission")


async def _answer(line: bytes, handlers: Mapping[str, Handler]) -> dict[str, Any]:
    try:
        request = json.loads(line)
        handler = handlers[request["command"]]
        arguments = dict(request.get("arguments", {}))
    except (ValueError, KeyError, TypeError):
        return {"ok": False, "error": "expected a known command and its arguments", "kind": "failed"}
    try:
        return {"ok": True, "result": await handler(**arguments)}
    except CommandError as wrong:
        return {"ok": False, "error": str(wrong), "kind": wrong.kind}
    except TypeError as wrong:
        return {"ok": False, "error": f"wrong arguments: {wrong}", "kind": "failed"}
    except Exception as wrong:  # the one place a role answers for its own faults
        log.exception("a command failed", extra={"fields": {"command": request["command"]}})
        return {"ok": False, "error": f"{type(wrong).__name__}: {wrong}", "kind": "failed"}


def ask(path: Path, command: str, timeout_seconds: float = 60, **arguments: Any) -> Any:
    """Send one command and return its result. Raises DaemonUnreachable or CommandError."""
    request = json.dumps({"command": command, "arguments": arguments}).encode() + b"\n"
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(timeout_seconds)
            sock.connect(str(path))
            sock.sendall(request)
            answer = _read_line(sock)
    except OSError as wrong:
        raise DaemonUnreachable(f"{path}: {wrong.strerror or wrong}") from wrong
    return _result(answer, path)


async def ask_later(path: Path, command: str, timeout_seconds: float = 5, **arguments: Any) -> Any:
    """`ask` for use on the event loop."""
    return await asyncio.to_thread(ask, path, command, timeout_seconds, **arguments)


def _read_line(sock: socket.socket) -> bytes:
    chunks: list[bytes] = []
    size = 0
    while chunk := sock.recv(65536):
        chunks.append(chunk)
        size += len(chunk)
        if chunk.endswith(b"\n") or size > ANSWER_OCTETS:
            break
    return b"".join(chunks)


def _result(answer: bytes, path: Path) -> Any:
    try:
        decoded = json.loads(answer)
    except ValueError:
        raise DaemonUnreachable(f"{path}: the answer was cut off") from None
    if decoded.get("ok"):
        return decoded.get("result")
    raise CommandError(str(decoded.get("error")), str(decoded.get("kind", "failed")))
