"""The readers, each in a process of its own, with the files of its peer where it has one (scripts/peer).

Contract
    Whoever cannot be had here is left out, and `lacking` says why, a family of readers at a time.
    All are asked about a message at once. An answer that does not come in ANSWER_SECONDS, or not at all, is empty, and
    the next question goes to a process that was started anew.
    When `close` is done, none of their processes is left, whatever they had started themselves.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent.parent
PEER = (str(ROOT / "scripts" / "peer"), "mime")
FROM_NPM = ROOT / ".peers" / "mailparsers"
ANSWER_SECONDS = 2.0
START_SECONDS = 60.0
NOTHING = Path("/dev/null")
"""A message of no octets: whoever answers that is ready."""

Found = list[tuple[bytes, bytes]]
"""Names and contents"""


@dataclass(frozen=True, slots=True)
class Family:
    """Readers that are there or not there together: the words of a command by each one's name."""

    name: str
    readers: dict[str, tuple[str, ...]]
    peer: tuple[str, ...] = PEER


def _script(*words: str) -> tuple[str, ...]:
    """A command whose last words are a script of this folder and its arguments."""
    return tuple(str(HERE / word) if (HERE / word).is_file() else word for word in words)


_PHP = 'exec "$(ls /usr/bin/php[0-9].[0-9] | tail -n 1)" -d extension=mbstring -d extension=mailparse "$0"'
"""The package that would make it `php` is only unpacked, and so are the settings that would load these."""

_PYTHON = "/usr/bin/python3"  # the one that Debian's bindings are for
FAMILIES = (
    Family("Perl", {name: _script("perl", "libraries.pl", name) for name in ("mime_parser", "email_mime")}),
    Family("Ruby", {"mail": _script("ruby", "mail.rb")}),
    Family("PHP", {"mailparse": _script("sh", "-c", _PHP, "mailparse.php")}),
    Family("GNOME", {name: _script(_PYTHON, "libraries.py", name) for name in ("gmime", "camel")}),
    Family(
        "programs",
        {
            name: _script(_PYTHON, "programs.py", name)
            for name in ("ripmime", "munpack", "uudeview", "mshow", "reformime")
        },
    ),
    Family("Python", {name: _script(sys.executable, "libraries.py", name) for name in ("compat32", "default")}, ()),
    Family(
        "npm",
        {
            name: _script("node", "node.cjs", str(FROM_NPM), name)
            for name in ("mailparser", "postal-mime", "emailjs-mime-parser")
        },
        (),
    ),
)


def lacking(family: Family) -> str:
    """Why its readers cannot be had here; "" = they can."""
    if family.name == "npm" and (shutil.which("node") is None or not (FROM_NPM / ".unpacked").exists()):
        return "needs node and libraries from npm: run scripts/peers on a machine with npm"
    return _peer_lacking(family.peer) if family.peer else ""


@cache
def _peer_lacking(peer: tuple[str, ...]) -> str:
    tried = subprocess.run([*peer, "true"], check=False, capture_output=True, text=True)
    return "" if tried.returncode == 0 else tried.stderr.strip() or f"{peer} failed"


class Reader:
    """One of them; `folder` is for what it leaves behind when it is killed."""

    def __init__(self, command: Iterable[str], folder: Path) -> None:
        self._command = tuple(command)
        self._folder = folder
        self._process = self._started()

    def _started(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "TMPDIR": str(self._folder)},
            start_new_session=True,  # so that it can be killed with all that it has started
        )

    def ask(self, message: Path) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # told when its answer is read
            self._process.stdin.write(bytes(message) + b"\n")
            self._process.stdin.flush()

    def answer(self, seconds: float = ANSWER_SECONDS) -> Found:
        line = self._line(seconds)
        if not line.endswith(b"\n"):
            self.start_anew()
            return []
        return [(base64.b64decode(name), base64.b64decode(content)) for name, content in json.loads(line)]

    def _line(self, seconds: float) -> bytes:
        """Without its end where that did not come in time or the process has ended."""
        assert self._process.stdout is not None
        until, line = time.monotonic() + seconds, b""
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, until - time.monotonic()))
            octets = os.read(self._process.stdout.fileno(), 1 << 20) if ready else b""
            if not octets:
                break
            line += octets
        return line

    def start_anew(self) -> None:
        self.kill()
        self._process = self._started()
        self.ask(NOTHING)
        self._line(START_SECONDS)

    def close(self) -> None:
        """Its end of its own accord, which takes away what it made; else by force."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError, subprocess.TimeoutExpired):
            self._process.stdin.close()
            self._process.wait(ANSWER_SECONDS)
        self.kill()

    def kill(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if self._process.returncode is None:  # else its number may be somebody else's by now
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._process.stdout.close()
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()


class Readers:
    """All that can be had, by name; `folder` is for the messages and what readers leave behind."""

    def __init__(self, families: Iterable[Family], folder: Path) -> None:
        self._folder = folder
        self._readers = {
            name: Reader((*family.peer, *command), folder)
            for family in families
            for name, command in family.readers.items()
        }
        self._answers(NOTHING, START_SECONDS)

    def ask(self, message: bytes, seconds: float = ANSWER_SECONDS) -> dict[str, Found]:
        """What each finds in it."""
        path = self._folder / "message"
        path.write_bytes(message)
        return self._answers(path, seconds)

    def _answers(self, path: Path, seconds: float) -> dict[str, Found]:
        for reader in self._readers.values():
            reader.ask(path)
        return {name: reader.answer(seconds) for name, reader in self._readers.items()}

    def close(self) -> None:
        for reader in self._readers.values():
            reader.close()
