"""A worker of a rescan, asked directly."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from egressguard.policy.site import Clamd, Scan
from egressguard.scan import crew

CLEAN = b"Subject: x\r\n\r\nnothing\r\n"
DENIED = b"Content-Type: a/b; name=x.exe\r\n\r\n1"
DENYING = Scan(denied_names=("*.exe",))


@contextlib.contextmanager
def clamd_that_waits_for(messages: int, said: bytes) -> Iterator[str]:
    """Its address; it says nothing before it has so many at once."""
    with tempfile.TemporaryDirectory(prefix="eg-") as name, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{name}/s")
        listener.listen()
        Path(name).chmod(0o755)  # the worker is another user
        Path(name, "s").chmod(0o666)

        def play() -> None:
            with contextlib.suppress(OSError), listener.accept()[0] as client:
                heard = b""
                while heard.count(b"zFILDES\0\0") < messages and (chunk := client.recv(4096)):
                    heard += chunk
                client.sendall(said)
                client.recv(1)

        player = threading.Thread(target=play)
        player.start()
        try:
            yield f"unix:{name}/s"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            player.join()


def verdicts(settings: Scan, contents: list[bytes], together: int = 1) -> list[str]:
    """Of one worker that has all of them before it begins."""
    ours, theirs = socket.socketpair()
    with ours:
        for first in range(0, len(contents), together):
            some = contents[first : first + together]
            fds = [os.memfd_create("message") for _ in some]
            for fd, content in zip(fds, some, strict=True):
                os.write(fd, content)
            socket.send_fds(ours, [b"".join(crew.REQUEST.pack(0, len(content)) for content in some)], fds)
            for fd in fds:
                os.close(fd)
        process = crew._start(theirs, settings, Path())
        theirs.close()
        with ours.makefile("rb") as said:
            told = [json.loads(said.readline())[0] for _ in contents]
    process.join(10)
    assert process.exitcode == 0, "it ends when the other side has closed"
    return told


def test_clamd_gets_what_waits_behind_the_message_in_hand() -> None:
    """And each message the answer that is its own."""
    answers = b"3: fd[9]: OK\x001: fd[7]: OK\x002: fd[8]: Worm FOUND\x00"
    with clamd_that_waits_for(3, answers) as address:
        settings = Scan(clamd=Clamd(address=address), timeout_seconds=20)

        assert verdicts(settings, [CLEAN] * 3) == ["clean", "infected", "clean"]


def test_one_that_is_told_nothing_more_has_said_what_it_was_asked() -> None:
    assert verdicts(DENYING, [CLEAN, DENIED]) == ["clean", "denied"]


def test_messages_that_come_together_are_answered_in_their_order() -> None:
    contents = [CLEAN, DENIED, DENIED, CLEAN, DENIED, CLEAN, CLEAN, CLEAN] * 3
    expected = ["denied" if content is DENIED else "clean" for content in contents]

    assert verdicts(DENYING, contents, together=crew.AT_ONCE) == expected
