"""A worker of a rescan: a process of its own that is handed descriptors and says what is in them.

Contract
    It has no network (where no engine needs one and the kernel lets us), as root another user's rights, and the
    limits of the scan role's workers: a message that takes too long or too much memory, or that its
    reader stumbles over, ends the worker, no more.
    Requests: a descriptor with start and size. Answers: one JSON line a message, in the same order.
    Engines that can do so begin with the messages that wait behind the one in hand.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import logging
import os
import pwd
import resource
import signal
import socket
import struct
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import egressguard
from egressguard.policy.facts import ScanReport
from egressguard.policy.site import Scan
from egressguard.scan.crew import REQUEST
from egressguard.scan.look import Look, needs_network
from egressguard.scan.memory import DIGEST_OCTETS
from egressguard.scan.octets import digest_of, read
from egressguard.scan.worker import MEMORY_OCTETS, PROCESSOR_SHARE, deadly

log = logging.getLogger(__name__)

_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_FD = struct.Struct("i")
_USERS = ("eg-scan", "nobody")


def serve(sock: socket.socket, settings: Scan, rules: Path, alone: bool = False) -> None:
    """Answer until the other side has closed. `rules` is read while that is still allowed. `alone`: the message that
    comes is the only one of this process, and what its reader stumbles over now is the message's doing."""
    look = Look(settings, rules)
    confine(keeps_network=needs_network(settings))
    if alone:
        signal.setitimer(signal.ITIMER_PROF, settings.timeout_seconds * PROCESSOR_SHARE)
    with sock, contextlib.suppress(ConnectionError):
        for asked in _requests(sock, look):
            signal.setitimer(signal.ITIMER_REAL, settings.timeout_seconds)  # its signal's default ends the process
            try:
                answer = _answer(asked, look, alone)
            finally:
                os.close(asked.fd)
            signal.setitimer(signal.ITIMER_REAL, 0)
            sock.sendall(answer)


@dataclass(frozen=True, slots=True)
class _Request:
    """Octets `start` to `start` + `size` of `fd`; `number` if an engine was given it ahead."""

    fd: int
    start: int
    size: int
    number: int | None = None

    @property
    def is_file(self) -> bool:
        return self.start == 0 and self.size == os.fstat(self.fd).st_size


def _requests(sock: socket.socket, look: Look) -> Iterator[_Request]:
    """One after the other; all that have come are taken in before the next is given."""
    waiting: deque[_Request] = deque()
    while True:
        try:
            while (taken := _receive(sock, look, 0 if not waiting else socket.MSG_DONTWAIT)) is not None:
                waiting.append(taken)
        except BlockingIOError:
            pass
        if not waiting:
            return
        yield waiting.popleft()


def _receive(sock: socket.socket, look: Look, flags: int) -> _Request | None:
    """None when the other side has closed. Raises BlockingIOError."""
    data, beside, _, _ = sock.recvmsg(REQUEST.size, socket.CMSG_LEN(_FD.size), flags)  # recv_fds drops its flags
    if len(beside) != 1:
        return None
    (fd,) = _FD.unpack(beside[0][2])
    while len(data) < REQUEST.size and (more := sock.recv(REQUEST.size - len(data))):
        data += more
    start, size = REQUEST.unpack(data)
    asked = _Request(fd, start, size)
    return replace(asked, number=look.ahead(asked.fd, asked.size)) if asked.is_file else asked


def _answer(asked: _Request, look: Look, alone: bool) -> bytes:
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
    for number in (signal.SIGALRM, signal.SIGPROF, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    for number in (signal.SIGINT, signal.SIGHUP):  # a terminal's Ctrl-C is the parent's
        signal.signal(number, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_OCTETS, MEMORY_OCTETS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.umask(0o077)
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
