"""The command sockets between roles and the command line."""

from __future__ import annotations

import asyncio
import os
import pwd
import socket
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from egressguard.app.control import CommandError, Commands, DaemonUnreachable, ask, ask_later, serve_commands, who_asks


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """That others may look into, as pytest's own are not."""
    with tempfile.TemporaryDirectory(prefix="eg-control-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


async def echo(**arguments: Any) -> Any:
    return arguments


async def missing() -> Any:
    raise CommandError("no such thing", "not-found")


async def broken() -> Any:
    raise RuntimeError("a fault of ours")


def served(path: Path, client: Callable[[], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        server = await serve_commands(path, Commands({"echo": echo, "missing": missing}, {"broken": broken}))
        async with server:
            return await client()

    return asyncio.run(run())


def test_a_command_and_its_answer(tmp_path: Path) -> None:
    path = tmp_path / "s"

    assert served(path, lambda: ask_later(path, "echo", a=1, b="zwei")) == {"a": 1, "b": "zwei"}


@pytest.mark.parametrize(
    ("command", "kind"), [("missing", "not-found"), ("broken", "failed"), ("unknown", "failed"), ("echo2", "failed")]
)
def test_what_goes_wrong_comes_back_as_an_error(tmp_path: Path, command: str, kind: str) -> None:
    path = tmp_path / "s"

    with pytest.raises(CommandError) as caught:
        served(path, lambda: ask_later(path, command))

    assert caught.value.kind == kind


@pytest.mark.parametrize(
    "octets", [b"rubbish\n", b"[]\n", b"{}\n", b'{"command": 7}\n', b"\xff\n", b"x" * 200_000 + b"\n"]
)
def test_rubbish_is_answered_or_closed_and_the_next_command_works(tmp_path: Path, octets: bytes) -> None:
    path = tmp_path / "s"

    def send() -> bytes:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(5)
            sock.connect(str(path))
            try:
                sock.sendall(octets)
                return sock.recv(1000)
            except ConnectionError:
                return b""

    async def client() -> Any:
        answer = await asyncio.to_thread(send)
        assert answer == b"" or b'"ok": false' in answer
        return await ask_later(path, "echo", still="there")

    assert served(path, client) == {"still": "there"}


def test_nobody_there_is_told_as_such(tmp_path: Path) -> None:
    with pytest.raises(DaemonUnreachable):
        ask(tmp_path / "nowhere", "echo")


def test_the_socket_is_closed_to_others(tmp_path: Path) -> None:
    path = tmp_path / "s"

    async def mode() -> int:
        return path.stat().st_mode & 0o777

    assert served(path, mode) == 0o660


@pytest.mark.parametrize("says", ["", "anna", "x" * 500, "an\x1bna"])
def test_the_journal_hears_from_the_kernel_who_asks(tmp_path: Path, says: str) -> None:
    async def asked(says: str) -> str:
        return who_asks(says)

    async def run() -> Any:
        async with await serve_commands(tmp_path / "s", Commands({}, {"asked": asked})):
            return await ask_later(tmp_path / "s", "asked", says=says)

    me = pwd.getpwuid(os.getuid()).pw_name
    answer = asyncio.run(run())
    assert answer == me if not says else answer.endswith(f" (as {me})")
    assert answer.isprintable() and len(answer) < 100


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to ask as somebody else")
def test_others_may_ask_what_brings_its_own_proof_and_change_nothing_else(open_folder: Path) -> None:
    path = open_folder / "s"
    asking = "import sys; from egressguard.app.control import ask; from pathlib import Path\n"
    asking += "try: print(ask(Path(sys.argv[1]), sys.argv[2]))\nexcept Exception as wrong: print(wrong)"

    async def as_nobody(command: str) -> str:
        def drop() -> None:
            os.setgid(65534)
            os.setuid(65534)

        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", asking, str(path), command, stdout=asyncio.subprocess.PIPE, preexec_fn=drop
        )
        return (await process.communicate())[0].decode().strip()

    async def run() -> list[str]:
        commands = Commands({"read": echo}, {"change": echo}, {"proven": echo})
        async with await serve_commands(path, commands):
            path.chmod(0o666)
            return [await as_nobody(command) for command in ("read", "proven", "change")]

    assert asyncio.run(run()) == ["{}", "{}", "only root may do this"]
