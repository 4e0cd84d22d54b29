"""Between the relay and a scan worker: the message travels as a file descriptor, the report as one JSON line."""

from __future__ import annotations

import json
import os
import socket

from egressguard.policy.facts import Attachment, ScanReport, Verdict
from egressguard.store.content import Content

REQUEST = b"scan\n"
REPORT_OCTETS = 4 * 1024 * 1024
MAX_ATTACHMENTS = 2000


def send_message(sock: socket.socket, content: Content) -> None:
    """Hand `content` over as a file descriptor: the worker needs no right to any path. Raises OSError."""
    fd = _descriptor(content)
    try:
        socket.send_fds(sock, [REQUEST], [fd])
    finally:
        os.close(fd)


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


def receive_message(sock: socket.socket, max_octets: int) -> bytes:
    """The message that a client hands over. Raises ValueError for anything else."""
    data, fds, _, _ = socket.recv_fds(sock, len(REQUEST), 1)
    try:
        if data != REQUEST or len(fds) != 1:
            raise ValueError("expected one message")
        size = os.fstat(fds[0]).st_size
        if size > max_octets:
            raise ValueError(f"a message of {size} octets; expected at most {max_octets}")
        return os.pread(fds[0], size, 0) if size < 1 << 30 else b""
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
        "attachments": attachments[:MAX_ATTACHMENTS],
    }
    return json.dumps(fields).encode() + b"\n"


def decode_report(line: bytes) -> ScanReport:
    """Raises ValueError: a worker that was taken over may say anything."""
    try:
        fields = json.loads(line)
        verdict = Verdict(fields["verdict"]) if fields["verdict"] is not None else None
        attachments = tuple(
            Attachment(tuple(map(str, path)), str(kind), int(size), encrypted is True, macro is True, active is True)
            for path, kind, size, encrypted, macro, active in fields["attachments"]
        )
        return ScanReport(verdict, tuple(str(f) for f in fields["findings"]), attachments)
    except (KeyError, TypeError, IndexError) as wrong:
        raise ValueError(f"not a report: {wrong}") from wrong
