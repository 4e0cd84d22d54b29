"""Delivery to a program: `via: "pipe:NAME:NEXTHOP"`, a command of site.pipes.

Contract
    The program runs without a shell, in a session of its own, in "/", with a fixed environment and no file of ours.
    It runs as the relay's user, without capabilities, or not at all: a relay that is root becomes the pipe's user.
    Bounded: processes at once, the time of each, the output that is looked at. What overstays is killed with all its
    children, and its mail is tried later.
    Never raises for anything a program does. What is not certain is transient.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from egressguard.mail.outcome import Outcome, permanent, transient
from egressguard.policy.model import Policy
from egressguard.policy.next_hop import parse_next_hop
from egressguard.policy.pipes import Pipe
from egressguard.relay.program import arguments, from_line, outcome_of, unfit, with_line_feeds
from egressguard.store.content import Content
from egressguard.store.interface import Claim

OUTPUT_OCTETS = 2000
LAST_WORDS_SECONDS = 0.5
"""How long what a program has said is waited for once it has ended: a child of its may keep the pipe open."""
ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C", "HOME": "/"}


@dataclass(frozen=True, slots=True)
class _Job:
    """One message for one next hop of a pipe."""

    name: str
    pipe: Pipe
    nexthop: str
    sender: str
    content: Content
    now: float

    def input(self) -> Iterator[bytes]:
        """Blocks where the content lies in a file."""
        if self.pipe.from_line:
            line = from_line(self.sender or self.pipe.null_sender, self.now)
            yield line if self.pipe.line_ends == "lf" else line.replace(b"\n", b"\r\n")
        pieces = self.content.pieces()
        yield from with_line_feeds(pieces) if self.pipe.line_ends == "lf" else pieces


@dataclass(slots=True)
class Pipes:
    """`places` has the places of each pipe, as many as its rule says."""

    places: dict[tuple[str, int], asyncio.Semaphore] = field(default_factory=dict)

    async def deliver(
        self, hop: str, forward_paths: Sequence[str], claim: Claim, content: Content, policy: Policy
    ) -> Mapping[str, Outcome]:
        """Run the program of `hop` as often as its recipients need; each has an outcome in the answer."""
        next_hop = parse_next_hop(hop)
        pipe = policy.site.pipes.get(next_hop.host)
        if pipe is None:
            gone = transient("4.3.5", f"the pipe {next_hop.host} is no longer in the rules")
            return dict.fromkeys(forward_paths, gone)
        if (no := _unfit_message(claim)) is not None:
            return dict.fromkeys(forward_paths, no)
        job = _Job(next_hop.host, pipe, next_hop.argument, claim.reverse_path, content, time.time())
        outcomes = {path: no for path in forward_paths if (no := unfit(path)) is not None}
        fit = [path for path in forward_paths if path not in outcomes]
        for start in range(0, len(fit), pipe.max_recipients):
            group = fit[start : start + pipe.max_recipients]
            async with self._places(job):
                outcomes |= dict.fromkeys(group, await _run(job, group))
        return outcomes

    def _places(self, job: _Job) -> asyncio.Semaphore:
        most = job.pipe.max_processes
        return self.places.setdefault((job.name, most), asyncio.Semaphore(most))


def _unfit_message(claim: Claim) -> Outcome | None:
    if claim.requiretls:  # RFC 8689 s4.2.1: who knows how the program sends it on
        return permanent("5.7.30", "a program cannot promise REQUIRETLS")
    if claim.binary:
        return permanent("5.6.3", "a program takes no binary content")
    return unfit(claim.reverse_path, sender=True)


async def _run(job: _Job, recipients: Sequence[str]) -> Outcome:
    ids = _ids(job.pipe.user)
    if isinstance(ids, Outcome):
        return ids
    words = arguments(job.pipe, job.sender, recipients, job.nexthop)
    try:
        async with asyncio.timeout(job.pipe.timeout_seconds), _started(words, ids) as running:
            took_all = await running.feed(job.input())
            status, said = await running.end()
    except TimeoutError:
        return transient("4.3.0", f"{job.name} did not end in {job.pipe.timeout_seconds} seconds and was killed")
    except OSError as wrong:
        return transient("4.3.5", f"{job.name} cannot be run: {wrong}")
    return outcome_of(job.name, status, said, took_all=took_all)


def _ids(user: str | None) -> Mapping[str, Any] | Outcome:
    """Whom the program becomes, as subprocess.Popen wants it: a process without capabilities can become nobody else."""
    own = os.geteuid()
    if user is None:
        return {} if own else transient("4.3.5", "this relay is root's: a pipe needs a `user` in the rules")
    try:
        account = pwd.getpwnam(user)
    except KeyError:
        return transient("4.3.5", f"there is no user {user} for this pipe")
    if account.pw_uid == own:
        return {}
    if own:
        return transient("4.3.5", f"the relay cannot run a program as {user}")
    groups = os.getgrouplist(user, account.pw_gid)
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": groups}


@dataclass(slots=True)
class _Running:
    """A program that runs: `mouth` is its standard input, `said` grows while somebody is `listening`."""

    process: subprocess.Popen[bytes]
    mouth: int
    said: bytearray
    listening: asyncio.Task[None]

    async def feed(self, pieces: Iterable[bytes]) -> bool:
        """Whether it was given everything. Raises OSError when our own content cannot be read."""
        source = iter(pieces)
        while (piece := await asyncio.to_thread(next, source, None)) is not None:
            if not await _written(self.mouth, piece):
                return False
        os.close(self.mouth)
        self.mouth = -1
        return True

    async def end(self) -> tuple[int, bytes]:
        """Its exit status, and the first of what it said."""
        await _ended(self.process)
        await asyncio.wait({self.listening}, timeout=LAST_WORDS_SECONDS)
        return self.process.wait(), bytes(self.said)


@contextlib.asynccontextmanager
async def _started(words: Sequence[str], ids: Mapping[str, Any]) -> AsyncIterator[_Running]:
    """Ended when this is left, whatever the reason. Raises OSError."""
    process, mouth, ear = _start(words, ids)
    said = bytearray()
    running = _Running(process, mouth, said, asyncio.create_task(_listen(ear, said)))
    try:
        yield running
    finally:
        await _finish(running)
        os.close(ear)


def _start(words: Sequence[str], ids: Mapping[str, Any]) -> tuple[subprocess.Popen[bytes], int, int]:
    """The program, our end of its standard input, and of what it says.

    By subprocess itself: uvloop hands descriptors of ours on, and loops differ in what they make of a broken pipe."""
    stdin, mouth = os.pipe()
    ear, stdout = os.pipe()
    try:
        process = subprocess.Popen(
            words, stdin=stdin, stdout=stdout, stderr=stdout, cwd="/", env=ENVIRONMENT, start_new_session=True, **ids
        )
    except BaseException:
        os.close(mouth)
        os.close(ear)
        raise
    finally:
        os.close(stdin)
        os.close(stdout)
    os.set_blocking(mouth, False)
    os.set_blocking(ear, False)
    return process, mouth, ear


async def _ended(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        loop, descriptor = asyncio.get_running_loop(), os.pidfd_open(process.pid)
        try:
            await _ready(descriptor, loop.add_reader, loop.remove_reader)
        finally:
            os.close(descriptor)


async def _finish(running: _Running) -> None:
    process = running.process
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        await asyncio.to_thread(process.wait)
    if running.mouth >= 0:
        os.close(running.mouth)
    running.listening.cancel()
    await asyncio.gather(running.listening, return_exceptions=True)


async def _written(mouth: int, octets: bytes) -> bool:
    """False when nobody reads there any more."""
    left, loop = memoryview(octets), asyncio.get_running_loop()
    while left:
        try:
            left = left[os.write(mouth, left) :]
        except BlockingIOError:
            await _ready(mouth, loop.add_writer, loop.remove_writer)
        except BrokenPipeError:
            return False
    return True


async def _listen(ear: int, said: bytearray) -> None:
    """Keep the first words, and drop the rest: a program must not stop because nobody listens."""
    loop = asyncio.get_running_loop()
    while True:
        await _ready(ear, loop.add_reader, loop.remove_reader)
        octets = os.read(ear, 4096)
        if not octets:
            return
        said += octets[: OUTPUT_OCTETS - len(said)]


async def _ready(end: int, watch: Callable[..., object], unwatch: Callable[[int], object]) -> None:
    ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    watch(end, lambda: None if ready.done() else ready.set_result(None))
    try:
        await ready
    finally:
        unwatch(end)
