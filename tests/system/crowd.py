"""Ten thousand silent clients and one who has something to say: a program for a network namespace of its own.

    python -m tests.system.crowd FOLDER        prints one line of JSON: what a stranger saw, and what the server counts

Contract
    The server is a process of its own, so that its memory is its own. Clients stand at addresses 127.0.X.Y; each has
    read the greeting before the next one comes. Nothing is timed but by how long a peer may be silent.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from egressguard.store.passwd import PasswdEntry, PasswdFile, render_passwd_line
from tests.smtp.conftest import HASH, SETTINGS, Stand
from tests.smtp.wire_peer import taken

PER_ADDRESS, ADDRESSES = 1000, 10
CROWD = PER_ADDRESS * ADDRESSES
IN_ALL = CROWD + 1
TLS_CROWD = 300
FILES = CROWD + 1000
SILENT_SECONDS = 60
SERVED = ["220", "250", "250", "250", "354", "250", "221"]
"""What a client reads whose message goes through."""


async def serve(folder: Path) -> None:
    """Until standard input ends; each line there asks for a line of JSON."""
    (folder / "passwd").write_text(render_passwd_line(PasswdEntry("anna", HASH)))
    stand = Stand(folder, PasswdFile(folder / "passwd"))
    loop, questions = asyncio.get_running_loop(), asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(questions), sys.stdin)
    limits = {"max_connections": IN_ALL, "max_connections_per_client": PER_ADDRESS}
    async with stand.serve(SETTINGS, **limits) as running:
        print(json.dumps(running.places), flush=True)
        while await questions.readline():
            status = Path("/proc/self/status").read_text()
            (resident,) = (int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS"))
            seen = {
                "resident_octets": resident,
                "files": sum(1 for _ in Path("/proc/self/fd").iterdir()),
                "active": running.counted("active_connections"),
                "accepted": running.counted("connections_total", listener="smtp", result="accepted"),
                "refused": running.counted("connections_total", listener="smtp", result="refused"),
                "rejects": running.counted("rejects_total", stage="connect", reason="limit"),
                "told": len(running.hooks.refused),
                "messages": len(taken(running)),
            }
            print(json.dumps(seen), flush=True)


class Server:
    """`ask()` is what the server says of itself."""

    def __init__(self, folder: Path) -> None:
        words = [sys.executable, "-m", "tests.system.crowd", "--serve", str(folder)]
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.places: dict[str, tuple[str, int]] = {kind: tuple(place) for kind, place in self._line().items()}

    def ask(self) -> dict[str, float]:
        assert self._process.stdin is not None
        self._process.stdin.write("?\n")
        self._process.stdin.flush()
        return self._line()

    def when(self, active: int, most_files: float = FILES) -> dict[str, float]:
        """What it says once it counts so many sessions and has no more files open; fails when that never comes."""
        deadline = time.monotonic() + SILENT_SECONDS
        while (seen := self.ask())["active"] != active or seen["files"] > most_files:
            assert time.monotonic() < deadline, seen
        return seen

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(SILENT_SECONDS)

    def _line(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())


def connect(place: tuple[str, int], source: str) -> socket.socket:
    return socket.create_connection(place, SILENT_SECONDS, source_address=(source, 0))


def said(sock: socket.socket) -> str:
    """One reply line, or "" when the server has closed."""
    line = b""
    while not line.endswith(b"\n"):
        octets = sock.recv(512)
        if not octets:
            break
        line += octets
    return line.decode().strip()


def hand_in(sock: socket.socket) -> list[str]:
    """A whole transaction; the replies' codes."""
    lines = ("HELO a.example", "MAIL FROM:<a@sender.example>", "RCPT TO:<anna@example.org>", "DATA", "x\r\n.", "QUIT")
    codes = []
    for line in lines:
        sock.sendall(line.encode() + b"\r\n")
        codes.append(said(sock)[:3])
    return codes


def crowd(folder: Path) -> dict[str, object]:
    with contextlib.ExitStack() as stack:
        server = Server(folder)
        stack.callback(server.close)
        place = server.places["smtp"]
        with contextlib.closing(connect(place, "127.0.9.1")) as first:  # what is loaded once is loaded now
            assert [said(first)[:3], *hand_in(first)] == SERVED
        before = server.when(0)
        idle = []
        for number in range(CROWD):
            sock = connect(place, f"127.0.1.{1 + number // PER_ADDRESS}")
            stack.callback(sock.close)
            assert said(sock)[:3] == "220", number
            idle.append(sock)
        full = server.when(CROWD)
        one_too_many = [_refused(place, "127.0.1.1") for _ in range(50)]
        with contextlib.closing(connect(place, "127.0.2.1")) as honest:
            greeting = said(honest)[:3]
            over_all = [_refused(place, "127.0.3.1") for _ in range(50)]
            served = hand_in(honest)
        crowded = server.when(CROWD, full["files"])
        for sock in idle:
            sock.close()
        after = server.when(0, before["files"])
        tls = _tls_crowd(server, stack)
    return {
        "before": before,
        "full": full,
        "per_idle_octets": (full["resident_octets"] - before["resident_octets"]) / CROWD,
        "per_idle_tls_octets": tls,
        "one_too_many": sorted(set(one_too_many)),
        "over_all": sorted(set(over_all)),
        "served": [greeting, *served],
        "crowded": crowded,
        "after": after,
    }


def _refused(place: tuple[str, int], source: str) -> str:
    with contextlib.closing(connect(place, source)) as sock:
        reply = said(sock)
        return reply[:3] if said(sock) == "" else f"{reply[:3]} and more"


def _tls_crowd(server: Server, stack: contextlib.ExitStack) -> float:
    """Octets of memory for each of TLS_CROWD silent clients of port 465."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    before = server.ask()
    for _ in range(TLS_CROWD):
        sock = context.wrap_socket(connect(server.places["submissions"], "127.0.4.1"))
        stack.callback(sock.close)
        assert sock.recv(3) == b"220"
    return (server.when(TLS_CROWD)["resident_octets"] - before["resident_octets"]) / TLS_CROWD


def main() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, max(FILES, resource.getrlimit(resource.RLIMIT_NOFILE)[1])))
    folder = Path(sys.argv[-1])
    if "--serve" in sys.argv:
        asyncio.run(serve(folder))
    else:
        print(json.dumps(crowd(folder)))


if __name__ == "__main__":
    main()
