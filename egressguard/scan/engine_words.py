"""What engines say, fit to be told; and that one says nothing.

By itself: to ask clamd how old its signatures are needs nothing that looks into messages (scan.edition).
"""

from __future__ import annotations

NAME_CHARACTERS = 200


class EngineDown(Exception):
    """The engine did not say what it thinks of the message; its words say why."""


def printable(text: str, most: int = NAME_CHARACTERS) -> str:
    return "".join(c for c in text if c.isprintable())[:most]
