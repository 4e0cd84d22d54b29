"""A worker of a rescan: a process of its own that is handed descriptors and says what is in them.

Contract
    It has no network (where no engine needs one and the kernel lets us), as root another user's rights, and the
    limits of the scan role's workers: a message that takes too much of the processor is denied, and one that takes too
    long or too much memory, or that its reader stumbles over, ends the worker, no more.
    Requests: descriptors, each with start and size, at most AT_ONCE together. Answers: one JSON line a message, in the
    same order.
    Engines that can do so begin with the messages that wait behind the one in hand.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import logging
import os
import pwd
import signal
import socket
import struct
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import egressguard
from egressguard.policy.facts import ScanReport
from egressguard.policy.site import Scan
from egressguard.scan.crew import AT_ONCE, REQUEST
from egressguard.scan.limits import TOO_COSTLY, TooCostly, keep_to_limits
from egressguard.scan.look import Look, needs_network
from egressguard.scan.memory import DIGEST_OCTETS
from egressguard.scan.octets import digest_of, read
from egressguard.scan.worker import deadly

log = logging.getLogger(__name__)

_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_FD = struct.Struct("i")
_USERS = ("eg-scan", "nobody")
_FEW = AT_ONCE // 2
"""With fewer messages waiting it is time for more: the engines have nothing else to begin with."""


def serve(sock: socket.socket, settings: Scan, rules: Path, alone: bool = False) -> None:
    """Answer until the other side has closed. `rules` is read while that is still allowed. `alone`: the message that
    comes is the only one of this process, and what its reader stumbles over now is the message's doing."""
    look = Look(settings, rules)
    confine(keeps_network=needs_network(settings))
    with sock, contextlib.suppress(ConnectionError):
        for asked in _requests(sock, look):
            signal.setitimer(signal.ITIMER_REAL, settings.timeout_seconds)  # its signal's default ends the process
            is_sound = True
            try:
                answer = _answer(asked, look, alone)
            except TooCostly:
                answer, is_sound = _encode(deadly(TOO_COSTLY), b""), False
            finally:
                os.close(asked.fd)
            sock.sendall(answer)
            if not is_sound:
                return  # it was stopped somewhere


@dataclass(frozen=True, slots=True)
class _Request:
    """Octets `start` to `start` + `size` of `fd`; `number` if an engine was given it ahead."""

    fd: int
    start: int
    size: int
    is_file: bool
    number: int | None


def _requests(sock: socket.socket, look: Look) -> Iterator[_Request]:
    """One after the other. Before few are left, all that have come are taken in."""
    waiting: deque[_Request] = deque()
    while True:
        if len(waiting) < _FEW:
            signal.setitimer(signal.ITIMER_REAL, 0)
            with contextlib.suppress(BlockingIOError):
                while len(waiting) < _FEW and (some := _receive(sock, look, socket.MSG_DONTWAIT if waiting else 0)):
                    waiting += some
        if not waiting:
            return
        yield waiting.popleft()


def _receive(sock: socket.socket, look: Look, flags: int) -> list[_Request]:
    """Those that came together; none when the other side has closed. Raises BlockingIOError."""
    room = socket.CMSG_LEN(_FD.size * AT_ONCE)
    data, beside, _, _ = sock.recvmsg(REQUEST.size * AT_ONCE, room, flags)  # recv_fds drops its flags
    fds = [fd for _, _, octets in beside for (fd,) in _FD.iter_unpack(octets)]
    while len(data) < REQUEST.size * len(fds) and (more := sock.recv(REQUEST.size * len(fds) - len(data))):
        data += more
    return [_request(look, fd, *place) for fd, place in zip(fds, REQUEST.iter_unpack(data), strict=True)]


def _request(look: Look, fd: int, start: int, size: int) -> _Request:
    is_file = start == 0 and size == os.fstat(fd).st_size
    return _Request(fd, start, size, is_file, look.ahead(fd, size) if is_file else None)


def _answer(asked: _Request, look: Look, alone: bool) -> bytes:
    """Raises TooCostly."""
    try:
        content = read(asked.fd, asked.start, asked.size)
        digest = digest_of(content, DIGEST_OCTETS)
    except OSError as wrong:
        return _encode(ScanReport(None, (f"cannot be read: {wrong.strerror}",)), b"")
    try:
        return _encode(look(content, fd=asked.fd if asked.is_file else None, number=asked.number), digest)
    except Exception as wrong:
        log.exception("a message could not be examined")
        if not alone:
            raise SystemExit(1) from wrong  # it has a second try
        return _encode(deadly(f"its reader gave up: {type(wrong).__name__}"), digest)


def _encode(report: ScanReport, digest: bytes) -> bytes:
    verdict = report.verdict.value if report.verdict else "error"
    return json.dumps([verdict, digest.hex(), list(report.findings)]).encode() + b"\n"


def confine(*, keeps_network: bool) -> None:
    """Give up all that reading a message does not need. What the kernel refuses to take stays."""
    keep_to_limits()
    is_root = os.geteuid() == 0
    if not keeps_network:
        ctypes.CDLL(None).unshare(_CLONE_NEWNET if is_root else _CLONE_NEWUSER | _CLONE_NEWNET)
    if is_root and (user := _user()) is not None:
        os.setgroups([])
        os.setresgid(user.pw_gid, user.pw_gid, user.pw_gid)
        os.setresuid(user.pw_uid, user.pw_uid, user.pw_uid)


def _user() -> pwd.struct_passwd | None:
    """Who reads in root's stead: None where he could not load the modules that are still to come."""
    for name in _USERS:
        with contextlib.suppress(KeyError):
            user = pwd.getpwnam(name)
            return user if _may_read(user, Path(egressguard.__file__)) else None
    return None


def _may_read(user: pwd.struct_passwd, path: Path) -> bool:
    os.setegid(user.pw_gid)
    os.seteuid(user.pw_uid)
    try:
        return os.access(path, os.R_OK, effective_ids=True)
    finally:
        os.seteuid(0)
        os.setegid(0)
