"""The workers of a rescan: each gets some messages ahead, so that none waits for us; one that dies is replaced.

Contract
    `run` passes on what is no Job as it comes, and gives each Job back once, with what was found, in any order.
    A worker that ends with a message in hand: that message has a second try, alone in a process whose end is watched,
    as in the scan role (scan.alone): what that one dies of is denied. The others are given to the worker's successor.
    Workers are started by a server process that never saw a message, a database or a descriptor of ours (forkserver).
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import socket
import struct
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from egressguard.policy.verdict import Verdict
from egressguard.scan.job import ERROR, Done, Job

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerContext, ForkServerProcess

    from egressguard.policy.site import Scan

MESSAGES_PER_WORKER = 2000
"""After so many messages a worker makes room for a fresh one, as in the scan role."""
REQUEST = struct.Struct("!QQ")
ANSWER_OCTETS = 64 * 1024
AT_ONCE = 8
"""Messages that a worker is given together: to wake it, and to be woken, costs more than to hand one over."""
AHEAD = 2 * AT_ONCE
"""Messages that a worker has at most: it never waits for us, and little is asked again when it dies."""
_PAUSE_SECONDS = 0.002
"""While each worker has enough to do answers are left to gather."""
_GRACE_SECONDS = 5
_VERDICTS = frozenset({*(verdict.value for verdict in Verdict), ERROR})
_MAX_FINDINGS, _FINDING_CHARACTERS = 100, 1000
_NO_RULES = Path()
Passed = TypeVar("Passed")


@dataclass(eq=False, slots=True)
class _Hand:
    process: ForkServerProcess
    sock: socket.socket
    given: deque[Job] = field(default_factory=deque)
    heard: bytearray = field(default_factory=bytearray)
    taken: int = 0

    @property
    def room(self) -> int:
        return AHEAD - len(self.given) if self.taken < MESSAGES_PER_WORKER else 0


class Crew:
    """`size` workers for one run; they start with the first Job, and `settings` is asked for then. `rules` is where
    YARA rules lie."""

    def __init__(self, settings: Callable[[], Scan], size: int, rules: Path = _NO_RULES) -> None:
        self._settings = settings
        self._rules = rules
        self._size = size
        self._hands: list[_Hand] = []
        self._waiting: deque[Job] = deque()
        self._selector = selectors.DefaultSelector()

    def run(self, items: Iterator[Job | Passed]) -> Iterator[Done | Passed]:
        for item in items:
            if not isinstance(item, Job):
                yield item
                continue
            self._waiting.append(item)
            while len(self._waiting) >= AT_ONCE * self._size:
                self._hand_out(AT_ONCE)
                has_given_some = len(self._waiting) < AT_ONCE * self._size
                yield from self._listen(0 if has_given_some else None)  # where none has room, all have something
        while self._waiting or any(hand.given for hand in self._hands):
            self._hand_out(1)
            yield from self._listen()

    def close(self) -> None:
        """End the workers, whatever they have in hand."""
        for hand in self._hands:
            hand.process.kill()
            hand.process.join()
            hand.sock.close()
            self._waiting += hand.given
        for job in self._waiting:
            os.close(job.fd)
        self._hands.clear()
        self._waiting.clear()
        self._selector.close()

    def _hand_out(self, least: int) -> None:
        """At least so many to each worker that has room for them, the idlest first; what is left in equal shares."""
        while len(self._waiting) >= least and (hand := self._idlest()).room >= least:
            share = -(-len(self._waiting) // self._size)
            self._give(hand, min(hand.room, AT_ONCE, max(least, share)))

    def _give(self, hand: _Hand, count: int) -> None:
        jobs = [self._waiting.popleft() for _ in range(count)]
        asked = b"".join(REQUEST.pack(job.start, job.size) for job in jobs)
        try:
            socket.send_fds(hand.sock, [asked], [job.fd for job in jobs])
        except OSError:  # it is gone, and never saw these
            self._waiting.extendleft(reversed(jobs))
            hand.taken = MESSAGES_PER_WORKER
            if not hand.given:
                self._dismiss(hand)
            return
        hand.given += jobs
        hand.taken += count

    def _idlest(self) -> _Hand:
        while len(self._hands) < self._size:
            self._hire()
        return max(self._hands, key=lambda hand: hand.room)

    def _hire(self) -> None:
        ours, theirs = socket.socketpair()
        process = _start(theirs, self._settings(), self._rules)
        theirs.close()
        hand = _Hand(process, ours)
        self._hands.append(hand)
        self._selector.register(ours, selectors.EVENT_READ, hand)

    def _listen(self, timeout: float | None = None) -> Iterator[Done]:
        if timeout is None and all(len(hand.given) > AT_ONCE for hand in self._hands):
            time.sleep(_PAUSE_SECONDS)
        for event, _ in self._selector.select(timeout):
            hand: _Hand = event.data
            try:
                chunk = hand.sock.recv(ANSWER_OCTETS)
            except OSError:
                chunk = b""
            hand.heard += chunk
            try:
                yield from _understood(hand)
            except ValueError:  # it was taken over, or is broken: none of its words counts any more
                chunk = b""
            if not chunk:
                yield from self._bury(hand)
            elif hand.taken >= MESSAGES_PER_WORKER and not hand.given:
                self._dismiss(hand)

    def _dismiss(self, hand: _Hand) -> None:
        self._selector.unregister(hand.sock)
        self._hands.remove(hand)
        hand.sock.close()
        hand.process.join(1)
        hand.process.kill()
        hand.process.join()

    def _bury(self, hand: _Hand) -> Iterator[Done]:
        """Its first message is why it ended; other workers get the others."""
        self._dismiss(hand)
        if hand.given:
            job = hand.given.popleft()
            self._waiting.extendleft(reversed(hand.given))
            yield self._try_alone(job)

    def _try_alone(self, job: Job) -> Done:
        """One such at a time: nothing else is handed out or heard meanwhile."""
        ours, theirs = socket.socketpair()
        settings = self._settings()
        process = _start(theirs, settings, self._rules, alone=True)
        theirs.close()
        hand = _Hand(process, ours, deque((job,)))
        with ours:
            ours.settimeout(settings.timeout_seconds + _GRACE_SECONDS)
            try:
                socket.send_fds(ours, [REQUEST.pack(job.start, job.size)], [job.fd])
                while hand.given and (chunk := ours.recv(ANSWER_OCTETS)):
                    hand.heard += chunk
                    for done in _understood(hand):
                        return done
            except (OSError, ValueError):  # it is gone, hangs, or talks nonsense
                pass
            finally:
                process.join(_GRACE_SECONDS if hand.given else 0)
                exit_code = process.exitcode or 0  # who has to be ended did not die of it
                process.kill()
                process.join()
        return _died(job, exit_code)


def _died(job: Job, exit_code: int) -> Done:
    from egressguard.scan.alone import how_it_died  # noqa: PLC0415  not loaded where nothing dies
    from egressguard.scan.worker import deadly  # noqa: PLC0415

    why = how_it_died(exit_code)
    if why is None:
        return Done(job, ERROR, b"", (f"the scan worker ended ({_how(exit_code)})",))
    return Done(job, Verdict.DENIED.value, b"", deadly(why).findings)


def prepare() -> None:
    """Let the server of the workers load what they need, while who calls does something else."""
    from multiprocessing import forkserver  # noqa: PLC0415

    _context()
    forkserver.ensure_running()


def _context() -> ForkServerContext:
    """Imported here: where nothing is out of date, a scan takes less time than these take to load."""
    import multiprocessing  # noqa: PLC0415

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["egressguard.scan.hand"])
    return context


def _start(sock: socket.socket, settings: Scan, rules: Path, *, alone: bool = False) -> ForkServerProcess:
    context = _context()
    from egressguard.scan.hand import serve  # noqa: PLC0415

    process = context.Process(target=serve, args=(sock, settings, rules, alone), daemon=True)
    process.start()
    return process


def _understood(hand: _Hand) -> Iterator[Done]:
    """The whole lines heard so far. Raises ValueError."""
    while (end := hand.heard.find(b"\n")) >= 0:
        verdict, digest, findings = _decode(bytes(hand.heard[:end]))
        del hand.heard[: end + 1]
        if not hand.given:
            raise ValueError("an answer to nothing")
        yield Done(hand.given.popleft(), verdict, digest, findings)
    if len(hand.heard) > ANSWER_OCTETS * 16:
        raise ValueError("an answer without end")


def _decode(line: bytes) -> tuple[str, bytes, tuple[str, ...]]:
    """Raises ValueError: a worker that was taken over may say anything."""
    with contextlib.suppress(TypeError, RecursionError):
        verdict, digest, findings = json.loads(line)
        if verdict in _VERDICTS:
            words = tuple(str(finding)[:_FINDING_CHARACTERS] for finding in findings[:_MAX_FINDINGS])
            return verdict, bytes.fromhex(digest), words
    raise ValueError("not an answer")


def _how(exit_code: int | None) -> str:
    if exit_code == -14:  # SIGALRM
        return "it took too long"
    return "it took too much memory, or crashed"
