"""The lab's gateway: the real daemon, as the real command, under the real users, in its own namespace.

The users are bind-mounted account files that only the daemon's mount namespace sees; so is the checkout, below a
path that those users can read. Nothing is added to the machine's own accounts.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from tests.lab.internet import ROOT, SMART_PASSWORD
from tests.lab.network import Network

USERS = ("eg-gate", "eg-relay", "eg-scan", "eg-access", "eg-console")
GROUP_ID = 64200
READY_SECONDS = 60
ACCOUNT, PASSWORD = "anna", "correct horse battery"
CODE = "/mnt"
"""Where the daemon sees the checkout: a folder that every Debian has."""

_ENTER = """
mount --bind "$1/passwd" /etc/passwd && mount --bind "$1/group" /etc/group && mount --bind "$2" /mnt || exit 70
shift 2
cd /mnt # Python looks there first, and the roles' users may not look where the checkout really is
exec "$@"
"""


def write_accounts(folder: Path) -> None:
    """Copies of the account files with the roles' users in them."""
    passwd, group = Path("/etc/passwd").read_text(), Path("/etc/group").read_text()
    kept = [line for line in passwd.splitlines() if not line.startswith("eg-")]
    kept += [f"{user}:x:{GROUP_ID + 1 + i}:{GROUP_ID}::/nonexistent:/usr/sbin/nologin" for i, user in enumerate(USERS)]
    (folder / "passwd").write_text("\n".join(kept) + "\n")
    groups = [line for line in group.splitlines() if not line.startswith("egressguard:")]
    (folder / "group").write_text("\n".join([*groups, f"egressguard:x:{GROUP_ID}:"]) + "\n")


class Gateway:
    def __init__(self, network: Network, folder: Path, ca_file: Path) -> None:
        self._network = network
        self.folder = folder
        self.state, self.runtime, self.rules = folder / "state", folder / "run", folder / "rules"
        shutil.copytree(Path(__file__).parent / "rules", self.rules)
        site = self.rules / "site.yaml"
        site.write_text(site.read_text().replace("@CA_FILE@", str(ca_file)))
        write_accounts(folder)
        self._process: subprocess.Popen[bytes] | None = None
        self.log = folder / "gateway.log"

    def start(self) -> None:
        """Start the daemon and return when it says that it is ready."""
        with self.log.open("ab") as log:
            begin = log.tell()
            self._process = subprocess.Popen(
                self._command("run"), stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
            )
        deadline = time.monotonic() + READY_SECONDS
        while b"EgressGuard is ready" not in self.log.read_bytes()[begin:]:
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the gateway did not start:\n{self.log.read_text()[-4000:]}")
            time.sleep(0.05)

    def prepare(self) -> None:
        """An account and the smart host's password, made the way an administrator makes them."""
        self.cli("user", "add", ACCOUNT, "--password-file", "-", given=PASSWORD + "\n", check=True)
        secret = self.state / "secrets" / "provider"
        secret.write_text(SMART_PASSWORD + "\n")
        os.chown(secret, 0, GROUP_ID)
        secret.chmod(0o640)

    def kill(self) -> None:
        """SIGKILL to the supervisor and every role at once, as a power cut would."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def stop(self) -> int:
        """SIGINT, as Ctrl-C; the exit status."""
        if self._process is None:
            return 0
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
        try:
            return self._process.wait(40)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            return self._process.wait()

    def cli(self, *words: str, given: str | None = None, check: bool = False) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            self._command(*words), input=given, capture_output=True, text=True, timeout=60, check=False
        )
        if check and done.returncode:
            raise RuntimeError(f"egressguard {' '.join(words)}: {done.stderr}")
        return done

    def rows(self, *words: str) -> list[dict[str, Any]]:
        """The JSON lines that a command prints."""
        return [json.loads(line) for line in self.cli(*words, "--json", check=True).stdout.splitlines()]

    def journal(self, kind: str) -> list[dict[str, Any]]:
        return self.rows("journal", "--since", "1h", "--kind", kind, "--limit", "100000")

    def metrics(self) -> str:
        """The page that Prometheus would scrape."""
        program = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:9125/metrics').read().decode())"
        return self._network.python("gateway", program, timeout=20).stdout

    def sample(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that carry these labels."""
        total = 0.0
        for line in self.metrics().splitlines():
            if line.startswith(name) and all(f'{key}="{value}"' in line for key, value in labels.items()):
                total += float(line.rpartition(" ")[2])
        return total

    def _command(self, *words: str) -> list[str]:
        places = ("--rules", str(self.rules), "--state", str(self.state), "--runtime", str(self.runtime))
        program = ["env", f"PYTHONPATH={CODE}", f"{CODE}/.venv/bin/python", "-m", "egressguard", *words, *places]
        inside = ["unshare", "--mount", "sh", "-c", _ENTER, "sh", str(self.folder), str(ROOT), *program]
        return self._network.command("gateway", *inside)
