"""Between the relay and a scan worker: the message travels as a file descriptor, the report as one JSON line.

Contract
    A request is "scan", then nothing or one JSON object, at most REQUEST_OCTETS; every string in it is bounded.
    Neither side trusts the other's octets: what is not understood is a ValueError.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from egressguard.policy.facts import Attachment, EngineResult, ScanReport, ScanRequest
from egressguard.policy.verdict import Verdict
from egressguard.scan.octets import Octets, read
from egressguard.store.content import Content

VERB = b"scan"
REQUEST_OCTETS = 32 * 1024
TEXT_CHARACTERS = 512
RECIPIENTS_OCTETS = 8 * 1024
"""Recipients beyond are not told of: a spam filter does not need the rest."""
REPORT_OCTETS = 4 * 1024 * 1024
MAX_ATTACHMENTS = 2000
_NOTHING_SAID = ScanRequest()


def second_tries(scanner: Path) -> Path:
    """Where second tries are asked for (scan.alone), beside the socket that all workers share."""
    return scanner.with_name(f"{scanner.name}.alone")


def send_message(sock: socket.socket, content: Content, request: ScanRequest = _NOTHING_SAID) -> None:
    """Hand `content` over as a file descriptor: the worker needs no right to any path. Raises OSError."""
    line = encode_request(request)
    fd = _descriptor(content)
    try:
        sent = socket.send_fds(sock, [line], [fd])
    finally:
        os.close(fd)
    if sent < len(line):  # else the worker may be done, and gone, already
        sock.sendall(line[sent:])


def encode_request(request: ScanRequest) -> bytes:
    if request is _NOTHING_SAID:
        return VERB + b"\n"
    fields = {
        "client": _text(request.client),
        "helo": _text(request.helo),
        "user": _text(request.user),
        "reverse_path": None if request.reverse_path is None else _text(request.reverse_path),
        "forward_paths": list(_bounded(request.forward_paths)),
        "queue_id": _text(request.queue_id),
        "asks": sorted(request.asks),
    }
    return VERB + b" " + json.dumps(fields, ensure_ascii=False).encode() + b"\n"


def decode_request(line: bytes) -> ScanRequest:
    """Raises ValueError."""
    if line == VERB + b"\n":
        return _NOTHING_SAID
    if not line.startswith(VERB + b" {") or not line.endswith(b"}\n"):
        raise ValueError("expected a scan request")
    try:
        fields = json.loads(line[len(VERB) :])
        reverse_path = fields["reverse_path"]
        return ScanRequest(
            client=_text(fields["client"]),
            helo=_text(fields["helo"]),
            user=_text(fields["user"]),
            reverse_path=None if reverse_path is None else _text(reverse_path),
            forward_paths=tuple(_bounded(fields["forward_paths"])),
            queue_id=_text(fields["queue_id"]),
            asks=frozenset(map(_text, fields["asks"])),
        )
    except (KeyError, TypeError, RecursionError) as wrong:
        raise ValueError(f"not a scan request: {wrong}") from wrong


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("expected a text")
    return "".join(c for c in value[:TEXT_CHARACTERS] if c.isprintable())


def _bounded(paths: Any) -> Iterator[str]:
    room = RECIPIENTS_OCTETS
    for path in paths:
        text = _text(path)
        room -= len(json.dumps(text, ensure_ascii=False).encode()) + 2
        if room < 0:
            return
        yield text


def _descriptor(content: Content) -> int:
    """An anonymous copy of what lies in memory; a message that has become a file is not copied."""
    if content.file is not None and not content.front and not content.rest:
        return os.open(content.file, os.O_RDONLY | os.O_CLOEXEC)
    fd = os.memfd_create("message", os.MFD_CLOEXEC)
    try:
        for piece in content.pieces():
            view = memoryview(piece)
            while view:
                view = view[os.write(fd, view) :]
    except BaseException:
        os.close(fd)
        raise
    return fd


@dataclass(frozen=True, slots=True)
class Received:
    """A message as a worker has it; `fd` is open while the worker has it in hand."""

    request: ScanRequest
    content: Octets
    fd: int


@contextlib.contextmanager
def received_message(sock: socket.socket, max_octets: int) -> Iterator[Received]:
    """The message that a client hands over. Raises ValueError for anything else."""
    line, fds, _, _ = socket.recv_fds(sock, REQUEST_OCTETS, 1)
    try:
        while line[: len(VERB)] == VERB[: len(line)] and not line.endswith(b"\n"):
            more = sock.recv(REQUEST_OCTETS + 1 - len(line))
            if not more:
                raise ValueError("expected a whole line")
            line += more
        request = decode_request(line)
        if len(fds) != 1:
            raise ValueError("expected one message")
        size = os.fstat(fds[0]).st_size
        if size > max_octets:
            raise ValueError(f"a message of {size} octets; expected at most {max_octets}")
        yield Received(request, read(fds[0], 0, size), fds[0])
    finally:
        for fd in fds:
            os.close(fd)


def encode_report(report: ScanReport) -> bytes:
    attachments = [
        [list(a.path), a.media_type, a.size_octets, a.encrypted, a.macro, a.active] for a in report.attachments or ()
    ]
    fields = {
        "verdict": report.verdict.value if report.verdict else None,
        "findings": report.findings,
        "attachments": None if report.attachments is None else attachments[:MAX_ATTACHMENTS],
        "score": report.score,
        "engines": [[e.engine, e.result, e.seconds] for e in report.engines],
    }
    return json.dumps(fields).encode() + b"\n"


def decode_report(line: bytes) -> ScanReport:
    """Raises ValueError: a worker that was taken over may say anything."""
    try:
        fields = json.loads(line)
        verdict = Verdict(fields["verdict"]) if fields["verdict"] is not None else None
        attachments = None if fields["attachments"] is None else tuple(map(_attachment, fields["attachments"]))
        engines = tuple(
            EngineResult(str(name), str(result), _number(seconds)) for name, result, seconds in fields["engines"]
        )
        score = None if fields["score"] is None else _number(fields["score"])
        return ScanReport(verdict, tuple(str(f) for f in fields["findings"]), attachments, score, engines)
    except (KeyError, TypeError, IndexError, RecursionError, OverflowError) as wrong:
        raise ValueError(f"not a report: {wrong}") from wrong


def _attachment(listed: Any) -> Attachment:
    path, kind, size, encrypted, macro, active = listed
    return Attachment(tuple(map(str, path)), str(kind), int(size), encrypted is True, macro is True, active is True)


def _number(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError("expected a finite number")
    return number
