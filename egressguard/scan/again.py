"""Clamd asked again about messages that were clean, when nothing but its signatures has changed since.

Contract
    `give` and `is_nothing` never raise. What clamd does not get, or does not say to be without a find, is not known:
    whoever asks looks at the message in the usual way.
    A clamd that does not answer in time, or cannot read descriptors (AppArmor), is given nothing any more.
"""

from __future__ import annotations

import contextlib

from egressguard.scan.clamd_session import Session, is_answer


class ClamdAgain:
    """`path` is that of clamd's Unix socket, `seconds` the time for each answer."""

    def __init__(self, path: str, seconds: float, max_octets: int) -> None:
        self._session = Session(path)
        self._seconds = seconds
        self._max_octets = max_octets
        self._is_of_use = True

    def give(self, fd: int, size: int) -> int | None:
        """The number to ask by about the message that `fd` is the file of; None: it was not given."""
        if not self._is_of_use or size > self._max_octets:
            return None
        return self._session.send(fd)

    def is_nothing(self, number: int) -> bool:
        """Whether clamd finds nothing in it."""
        try:
            said = self._session.answer(number, self._seconds)
        except TimeoutError:
            self._is_of_use = False
            return False
        if said is not None and not is_answer(said):
            self._is_of_use = False
        return said is not None and said.endswith(": OK")

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._session.close()
