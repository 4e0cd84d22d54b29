"""tests/dialogs/*.smtp against the real server, however the client's octets are cut.

A script is C: and S: lines. C: lines that follow each other are sent at once (PIPELINING); "\\xNN", "\\0", "\\r" and
"\\n" in them are octets, and a line that ends with "\\" gets no CRLF. An S: line is a whole reply line, or its
beginning with "..." behind it. "S: (closed)" says that the server closes; "LISTENER: kind" picks one; "TLS" starts
the handshake after 220.
"""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from tests.smtp.conftest import Client, Running, Stand

SCRIPTS = sorted((Path(__file__).parent.parent / "dialogs").glob("*.smtp"))
_ESCAPE = re.compile(rb"\\(x[0-9a-f]{2}|0|r|n)")


def octets_of(text: str) -> bytes:
    raw = text.encode()
    end = b"\r\n"
    if raw.endswith(b"\\"):
        raw, end = raw[:-1], b""
    return _ESCAPE.sub(_octet, raw) + end


def _octet(match: re.Match[bytes]) -> bytes:
    word = match[1].decode()
    return {"0": b"\0", "r": b"\r", "n": b"\n"}.get(word) or bytes([int(word[1:], 16)])


async def play(client: Client, running: Running, script: str, chunk_octets: int) -> None:
    waiting = b""
    for number, line in enumerate(script.splitlines(), start=1):
        mark, _, text = line.partition(" ")
        if mark == "C:":
            waiting += octets_of(text)
            continue
        await client.send(waiting, chunk_octets)
        waiting = b""
        if mark == "TLS":
            await client.writer.start_tls(running.client_context, server_hostname="gateway.example.org")
        elif mark == "S:":
            await expect(client, text, number)


async def expect(client: Client, wanted: str, number: int) -> None:
    got = await client.line()
    if wanted == "(closed)":
        assert got == "", f"line {number}"
    elif wanted.endswith("..."):
        assert got.startswith(wanted[:-3]), f"line {number}: {got!r}"
    else:
        assert got == wanted, f"line {number}"


@pytest.mark.parametrize("chunk_octets", [1, 7, 1 << 30], ids=["1", "7", "whole"])
@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_dialog(path: Path, chunk_octets: int, stand: Stand) -> None:
    script = path.read_text()
    kind = re.search(r"^LISTENER: (\w+)$", script, re.MULTILINE)

    async def dialog() -> None:
        async with stand.serve() as running:
            where = kind[1] if kind else "smtp"
            async with stand.client(running, where, greeted=False) as client:  # type: ignore[arg-type]
                await play(client, running, script, chunk_octets)

    asyncio.run(dialog())


def test_there_are_dialogs() -> None:
    assert len(SCRIPTS) >= 10
