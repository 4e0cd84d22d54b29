"""The scan role's server: workers that share one listening Unix socket, replaced when they end.

Contract
    `start` returns with the socket listening; `stop` ends every worker; `reload` replaces them by workers with the
    new settings, each after the message it has in hand.
    Workers that die at once are started again at most once a second. A message that one died on gets a second try
    (scan.alone).
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import socket
import threading
from multiprocessing.connection import wait
from multiprocessing.context import ForkProcess
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter

from egressguard.policy.site import Scan
from egressguard.scan.alone import SecondTries
from egressguard.scan.protocol import second_tries
from egressguard.scan.worker import work, work_alone

log = logging.getLogger(__name__)

BACKLOG = 128
_fork = multiprocessing.get_context("fork")


class ScanServer:
    """`rules` is where YARA rules lie, `max_message_octets` bounds what a worker reads; larger is refused."""

    def __init__(
        self,
        path: Path,
        settings: Scan,
        *,
        registry: CollectorRegistry,
        rules: Path = Path(),
        max_message_octets: int = 1 << 29,
    ) -> None:
        self._path = path
        self._settings = settings
        self._rules = rules
        self._max_message_octets = max_message_octets
        self._restarts = Counter(
            "egressguard_scan_worker_restarts_total", "Scan workers that ended and were replaced.", registry=registry
        )
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._workers: list[ForkProcess] = []
        self._second_tries = SecondTries(second_tries(path), self._begin_alone, settings.timeout_seconds, registry)
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._forking = threading.Lock()
        self._keeper = threading.Thread(target=self._keep, name="scan-keeper", daemon=True)

    def start(self) -> None:
        self._path.unlink(missing_ok=True)
        self._listener.bind(str(self._path))
        self._path.chmod(0o660)
        self._listener.listen(BACKLOG)
        with self._lock:
            self._fill()
        self._keeper.start()
        self._second_tries.start()

    def reload(self, settings: Scan) -> None:
        with self._lock:
            self._settings = settings
            self._second_tries.seconds = settings.timeout_seconds
            old, self._workers = self._workers, []
            self._fill()
        for worker in old:
            worker.terminate()
            worker.join(1)

    def stop(self) -> None:
        self._stopping.set()
        with self._lock:
            for worker in self._workers:
                worker.kill()
                worker.join()
            self._workers = []
        self._second_tries.stop()
        if self._keeper.is_alive():
            self._keeper.join()
        self._listener.close()
        self._path.unlink(missing_ok=True)

    def _fill(self) -> None:
        while len(self._workers) < self._settings.workers:
            worker = _fork.Process(target=self._work, args=(self._settings, os.getpid()), daemon=True)
            self._start(worker)
            self._workers.append(worker)

    def _work(self, settings: Scan, parent: int) -> None:
        """In the child: follow the parent into death, and drop what it had open besides the listener."""
        threading.Thread(target=_follow, args=(parent,), daemon=True).start()
        with contextlib.suppress(KeyboardInterrupt):
            work(self._listener, settings, self._rules, self._max_message_octets)

    def _begin_alone(self, client: socket.socket) -> ForkProcess:
        process = _fork.Process(target=self._work_alone, args=(client, self._settings, os.getpid()), daemon=True)
        self._start(process)
        return process

    def _start(self, process: ForkProcess) -> None:
        """One at a time: a process that another thread starts meanwhile would hold what tells of this one's end."""
        with self._forking:
            process.start()

    def _work_alone(self, client: socket.socket, settings: Scan, parent: int) -> None:
        threading.Thread(target=_follow, args=(parent,), daemon=True).start()
        work_alone(client, settings, self._rules, self._path, self._max_message_octets)

    def _keep(self) -> None:
        while not self._stopping.wait(0.05):
            with self._lock:
                sentinels = [worker.sentinel for worker in self._workers]
            if wait(sentinels, timeout=1):
                self._replace_ended()

    def _replace_ended(self) -> None:
        with self._lock:
            ended = [worker for worker in self._workers if not worker.is_alive()]
            if self._stopping.is_set() or not ended:
                return
            for worker in ended:
                worker.join()
                self._restarts.inc()
                log.warning("a scan worker ended", extra={"fields": {"exit_code": worker.exitcode}})
            self._workers = [worker for worker in self._workers if worker not in ended]
            self._stopping.wait(1 if any(worker.exitcode for worker in ended) else 0)
            self._fill()


def _follow(parent: int) -> None:
    """A worker whose server was killed must not go on holding the socket."""
    pause = threading.Event()
    while os.getppid() == parent:
        pause.wait(1)
    os._exit(0)
