"""clamd's IDSESSION: many descriptors on one connection, each answered under its number, in any order (clamd(8)).

Contract
    `send` never raises: None means that clamd has not got it, and is to be asked in the plain way.
    `answer` gives what clamd said of that message, None when it will not say it any more. Raises TimeoutError.
    A number is given once: what was sent before a failure is never answered by what comes after it.
    Answers are asked for in the order that the messages were sent in: what was passed over is forgotten.

A clamd that always has the next message at hand takes a third of the time for each: whenever it has nothing to do it
tidies up its memory, and starts anew with the next.
"""

from __future__ import annotations

import socket
import time
from array import array

MOST_UNDER_WAY = 64
_ANSWER_OCTETS = 4096
_SEND_SECONDS = 5.0


def is_answer(said: str) -> bool:
    """Whether it is about the message; else it tells of trouble."""
    return said.endswith((": OK", " FOUND"))


class Session:
    """Opened with the first message; after a failure, with the next. `path` is that of a Unix socket."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._sock: socket.socket | None = None
        self._sent = 0
        self._sent_before = 0
        self._waiting: set[int] = set()
        self._said: dict[int, str] = {}
        self._heard = b""

    def send(self, fd: int) -> int | None:
        """The number to ask for the answer by."""
        if len(self._waiting) >= MOST_UNDER_WAY:
            return None
        try:
            sock = self._sock or self._open()
            sock.settimeout(_SEND_SECONDS)
            # One call, though two would do, too: each piece wakes clamd.
            sock.sendmsg([b"zFILDES\0\0"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [fd]))])
        except OSError:
            self.close()
            return None
        self._sent += 1
        self._waiting.add(self._sent)
        return self._sent

    def answer(self, number: int, seconds: float) -> str | None:
        until = time.monotonic() + seconds
        try:
            while number in self._waiting:
                self._listen(until - time.monotonic())
        except TimeoutError:
            self.close()
            raise
        except (OSError, ValueError):
            self.close()
        said = self._said.get(number)
        self._said = {later: words for later, words in self._said.items() if later > number}
        return said

    def close(self) -> None:
        """What is under way is not heard of any more."""
        if self._sock is not None:
            self._sock.close()
        self._sock = None
        self._waiting.clear()

    def _open(self) -> socket.socket:
        """Raises OSError."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._sock, self._heard, self._sent_before = sock, b"", self._sent  # clamd counts from one again
        sock.settimeout(_SEND_SECONDS)
        sock.connect(self._path)
        sock.sendall(b"zIDSESSION\0")
        return sock

    def _listen(self, seconds: float) -> None:
        """Take in what comes next. Raises OSError, TimeoutError, and ValueError for what is no answer."""
        if self._sock is None or seconds <= 0:
            raise TimeoutError("it took too long")
        self._sock.settimeout(seconds)
        chunk = self._sock.recv(_ANSWER_OCTETS)
        if not chunk:
            raise ConnectionError("it has closed the session")
        *answers, self._heard = (self._heard + chunk).split(b"\0")
        for answer in answers:
            self._take(answer)
        if len(self._heard) > _ANSWER_OCTETS:
            raise ValueError("an answer without end")

    def _take(self, answer: bytes) -> None:
        """ "3: fd[11]: OK". Raises ValueError."""
        digits, _, said = answer.partition(b": ")
        number = self._sent_before + int(digits)
        if number not in self._waiting:
            raise ValueError("an answer to nothing")
        self._waiting.remove(number)
        self._said[number] = said.rstrip(b"\n").decode("utf-8", "replace")
