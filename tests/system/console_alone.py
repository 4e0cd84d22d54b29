"""The console role alone on loopback, as its supervisor starts it: as root, under a user of its own.

That user is in account files that only the role's mount namespace sees, as in the lab (tests.lab.gateway).
"""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

from egressguard.app.places import Places
from tests.lab.gateway import _ENTER, CODE, GROUP_ID, write_accounts
from tests.lab.internet import ROOT

SECONDS = 30


class ConsoleAlone:
    """Shares `places` with a relay that runs already; `folder` must be one that everybody may look into."""

    def __init__(self, folder: Path, places: Places) -> None:
        self._places = places
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=100)
        self.port = int(self._listening.getsockname()[1])
        self.log = folder / "console.log"
        places.role("console").mkdir(parents=True)
        if os.geteuid() == 0:
            write_accounts(folder)
            for path in (places.role("console"), places.journals):
                os.chown(path, -1, GROUP_ID)
                path.chmod(0o770)
            os.chown(places.control("relay"), -1, GROUP_ID)  # as the relay's own group would make it

    def start(self) -> None:
        """Returns when it is ready."""
        notify = self._folder / "console-notify.sock"
        words = ["-m", "egressguard", "role", "console", "--rules", str(self._places.snapshot)]
        words += ["--state", str(self._places.state), "--runtime", str(self._places.runtime)]
        environment = os.environ | {
            "EGRESSGUARD_SOCKETS": f"metrics={self._listening.fileno()}",
            "NOTIFY_SOCKET": str(notify),
        }
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard, self.log.open("wb") as log:
            heard.bind(str(notify))
            notify.chmod(0o777)
            heard.settimeout(SECONDS)
            self._process = subprocess.Popen(
                self.as_its_user(*words),
                env=environment,
                pass_fds=(self._listening.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
            try:
                while b"READY=1" not in heard.recv(4096):
                    pass
            except TimeoutError:
                raise RuntimeError(f"the console did not start:\n{self.log.read_text()[-4000:]}") from None

    def as_its_user(self, *words: str) -> list[str]:
        """Python with these words, as the console's user."""
        if os.geteuid() != 0:
            return [sys.executable, *words]
        python = Path(CODE) / Path(sys.executable).relative_to(ROOT)
        user = ["setpriv", "--reuid=eg-console", "--regid=egressguard", "--clear-groups", "--inh-caps=-all"]
        user += ["--bounding-set=-all", "--no-new-privs", "--", str(python), *words]
        enter = ["unshare", "--mount", "--propagation", "private", "sh", "-ec", _ENTER, "sh"]
        return [*enter, str(self._folder), str(ROOT), *user]

    def user(self) -> int:
        """Whom it runs as, as the kernel says."""
        assert self._process is not None
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(status.split("\nUid:")[1].split()[0])

    def ask(self, method: str, path: str) -> tuple[int, str]:
        """(status, page); a page that was asked for by HEAD is empty."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=SECONDS)
        with contextlib.closing(connection):
            connection.request(method, path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

    def close(self) -> None:
        if self._process is not None:
            self._process.terminate()
            deadline = time.monotonic() + SECONDS
            while self._process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.02)
            self._process.kill()
            self._process.wait()
        self._listening.close()
        shutil.rmtree(self._places.role("console"), ignore_errors=True)
