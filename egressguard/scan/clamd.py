"""clamd over INSTREAM (clamd(8)): a Unix socket or TCP, blocking, bounded in time. For scan workers only."""

from __future__ import annotations

import socket
import struct

from egressguard.policy.site import Clamd
from egressguard.scan.examine import ScannerDown

_CHUNK_OCTETS = 1 << 16
_ANSWER_OCTETS = 4096


def ask_clamd(content: bytes, clamd: Clamd) -> str | None:
    """The name of what clamd found, or None. Raises ScannerDown when it did not say OK or FOUND."""
    try:
        with _connect(clamd) as sock:
            sock.sendall(b"zINSTREAM\0")
            for start in range(0, len(content), _CHUNK_OCTETS):
                chunk = content[start : start + _CHUNK_OCTETS]
                sock.sendall(struct.pack("!I", len(chunk)) + chunk)
            sock.sendall(struct.pack("!I", 0))
            return _understand(_read(sock))
    except OSError as wrong:
        raise ScannerDown(f"clamd ({clamd.address}): {wrong.strerror or wrong}") from wrong


def clamd_version(clamd: Clamd) -> str:
    """Of program and signatures. Raises ScannerDown."""
    try:
        with _connect(clamd) as sock:
            sock.sendall(b"zVERSION\0")
            return "".join(c for c in _read(sock) if c.isprintable())[:200]
    except OSError as wrong:
        raise ScannerDown(f"clamd ({clamd.address}): {wrong.strerror or wrong}") from wrong


def _connect(clamd: Clamd) -> socket.socket:
    if clamd.address.startswith("unix:"):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        sock.settimeout(clamd.timeout_seconds)
        try:
            sock.connect(clamd.address.removeprefix("unix:"))
        except OSError:
            sock.close()
            raise
        return sock
    host, _, port = clamd.address.rpartition(":")
    return socket.create_connection((host.strip("[]"), int(port)), clamd.timeout_seconds)


def _read(sock: socket.socket) -> str:
    answer = b""
    while not answer.endswith(b"\0") and len(answer) < _ANSWER_OCTETS:
        chunk = sock.recv(_ANSWER_OCTETS)
        if not chunk:
            break
        answer += chunk
    return answer.rstrip(b"\0\n").decode("utf-8", "replace")


def _understand(answer: str) -> str | None:
    """ "stream: OK", "stream: NAME FOUND", or an error."""
    _, _, said = answer.partition(": ")
    if said == "OK":
        return None
    if said.endswith(" FOUND"):
        return "".join(c for c in said.removesuffix(" FOUND") if c.isprintable())[:200]
    raise ScannerDown(f"clamd said: {answer[:200] or 'nothing'}")
