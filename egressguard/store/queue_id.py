"""Queue ids: short, sortable by time, unique over restarts, and safe as a file name."""

from __future__ import annotations

import os
import re

_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_PAIRS = tuple(first + second for first in _DIGITS for second in _DIGITS)
_TIME_DIGITS = 9  # milliseconds in base 36: good until the year 5188
_CHANCE_DIGITS = 7  # 32 bits
_QUEUE_ID = re.compile(r"[0-9A-Za-z]{1,32}")


def new_queue_id(now: float, chance: int) -> str:
    """`now` in seconds since the epoch, `chance` 32 random bits (higher bits are dropped). Pure."""
    return _base36(int(now * 1000), _TIME_DIGITS) + _base36(chance & 0xFFFFFFFF, _CHANCE_DIGITS)


def random_queue_id(now: float) -> str:
    return new_queue_id(now, _chances.next())


class _Chances:
    """Random numbers from the kernel, fetched many at a time."""

    def __init__(self) -> None:
        self._numbers: list[int] = []

    def next(self) -> int:
        if not self._numbers:
            octets = os.urandom(4 * 256)
            self._numbers = [int.from_bytes(octets[at : at + 4], "big") for at in range(0, len(octets), 4)]
        return self._numbers.pop()

    def forget(self) -> None:
        self._numbers.clear()


_chances = _Chances()
os.register_at_fork(after_in_child=_chances.forget)


def is_queue_id(text: str) -> bool:
    """Whether the text can be a queue id: nothing else ever becomes part of a path."""
    return _QUEUE_ID.fullmatch(text) is not None


def _base36(number: int, width: int) -> str:
    text = ""
    while number:
        number, rest = divmod(number, len(_PAIRS))
        text = _PAIRS[rest] + text
    return text.lstrip("0").rjust(width, "0")
