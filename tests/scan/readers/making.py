"""Messages that hide a file: a plain one or one of tests/scan's tricks, changed at random, each by its number."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from random import Random

from tests.scan.more_tricks import tricks
from tests.scan.readers.changes import changed, spliced
from tests.scan.samples import EICAR_ZIP, INVOICE
from tests.scan.tricks import File, Trick, multipart

FILES = (EICAR_ZIP, INVOICE)
MAX_OCTETS = 60_000
"""Larger tricks are there for limits of ours; readers would only take their time."""

_TRICK_SHARE = 0.6
_SPLICED_SHARE = 0.05
_NUMBERS_OF_CHANGES = (1, 1, 2, 2, 3, 4, 6)


@dataclass(frozen=True, slots=True)
class Made:
    """`trick` is the name of the one that was changed."""

    file: File
    trick: str
    message: bytes


def made(seed: int, number: int) -> Made:
    """One of the messages of a seed: the same two numbers make the same octets."""
    dice = Random(f"{seed} {number}")
    file, (name, message) = dice.choice(FILES), ("", b"")
    while not 0 < len(message) <= MAX_OCTETS:
        name, trick = dice.choice(_all_tricks()) if dice.random() < _TRICK_SHARE else ("none", multipart)
        message = trick(file)
    for _ in range(dice.choice(_NUMBERS_OF_CHANGES)):
        if dice.random() < _SPLICED_SHARE:
            message = spliced(dice, message, dice.choice(_all_tricks())[1](dice.choice(FILES)))
        else:
            message = changed(dice, message)
    return Made(file, name, message)


@cache
def _all_tricks() -> tuple[tuple[str, Trick], ...]:
    return tuple(tricks())
