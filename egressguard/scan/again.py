"""Clamd asked again about messages that were clean, when nothing but its signatures has changed since.

Contract
    Nothing here raises. What clamd does not get, or does not say to be without a find, is not known: whoever asks
    looks at the message in the usual way.
    A clamd that does not answer in time, or cannot read descriptors (AppArmor), is given nothing any more.
"""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

from egressguard.scan.clamd_session import Session, is_answer

AT_ONCE = 48
"""Messages that clamd has at a time: it is never without one."""
Message = TypeVar("Message")


class ClamdAgain(Generic[Message]):
    """`path` is that of clamd's Unix socket, `seconds` the time for each answer."""

    def __init__(self, path: str, seconds: float, max_octets: int) -> None:
        self._session = Session(path)
        self._seconds = seconds
        self._max_octets = max_octets
        self._is_of_use = True
        self._given: deque[tuple[Message, int]] = deque()

    def give(self, message: Message, fd: int, size: int) -> bool:
        """Whether clamd has got `message`, which `fd` is the file of."""
        if not self._is_of_use or size > self._max_octets or (number := self._session.send(fd)) is None:
            return False
        self._given.append((message, number))
        return True

    def __len__(self) -> int:
        """How many it has."""
        return len(self._given)

    def answered(self) -> tuple[Message, bool]:
        """The message that it has had longest, and whether it finds nothing in that."""
        message, number = self._given.popleft()
        try:
            said = self._session.answer(number, self._seconds)
        except TimeoutError:
            self._is_of_use = False
            return message, False
        if said is not None and not is_answer(said):
            self._is_of_use = False
        return message, said is not None and said.endswith(": OK")

    def close(self) -> list[Message]:
        """Ask no more; those that it still has."""
        self._session.close()
        left = [message for message, _ in self._given]
        self._given.clear()
        return left
