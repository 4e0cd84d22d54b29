"""What was said on a connection to a host, kept for `egressguard trace`.

Contract
    Cheap: octets and replies are kept as they are; `lines_of` makes text of them when somebody wants to read it.
    Bounded: RCPT lines beyond SHOWN_RECIPIENTS are counted by their replies, a reply is cut to REPLY_CHARACTERS, all
    of it to TOLD_CHARACTERS.
    No content, only how many octets it had; smtp.recording keeps secrets out.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from egressguard.values import value

SHOWN_RECIPIENTS = 20
REPLY_CHARACTERS = 1000
LINE_CHARACTERS = 300
TOLD_CHARACTERS = 6000
SHORT_OCTETS = 1500
"""Commands that are no longer are kept without looking at them."""
HIDDEN = "***"

SAID, HAPPENED = -1, 0
"""Where a reply has its code: octets that we said; words of our own about what happened."""

Told = list[Any]
"""[milliseconds since the beginning, SAID or HAPPENED or a reply's code, text]"""


class Transcript:
    """Of one connection's opening, or of one transaction."""

    __slots__ = ("_clock", "_further", "entries")

    def __init__(self) -> None:
        self._clock = asyncio.get_running_loop().time
        self.entries: list[tuple[float, int, bytes | str]] = []
        self._further: Counter[int] | None = None

    def said(self, octets: bytes) -> None:
        self.entries.append((self._clock(), SAID, octets))

    def heard(self, code: int, text: str) -> None:
        self.entries.append((self._clock(), code, text if len(text) <= REPLY_CHARACTERS else text[:REPLY_CHARACTERS]))

    def heard_further(self, code: int) -> None:
        """The reply to one of the recipients that are not shown."""
        self._further = self._further or Counter()
        self._further[code] += 1

    def noted(self, words: str) -> None:
        """Something that was not said but happened."""
        self.entries.append((self._clock(), HAPPENED, words))

    def told(self, began: float) -> list[Told]:
        """Ready for JSON; `began` as the loop's clock had it."""
        told = [
            [int((at - began) * 1000), code, _text(what) if isinstance(what, bytes) else what]
            for at, code, what in self.entries
        ]
        if self._further:
            replies = ", ".join(f"{count} answered {code}" for code, count in sorted(self._further.items()))
            told.append([told[-1][0], HAPPENED, f"further recipients: {replies}"])
        return told


def _text(octets: bytes) -> str:
    if len(octets) <= SHORT_OCTETS:
        return octets.decode("utf-8", "replace")
    return "\r\n".join(_shortened(octets)) + "\r\n"


def _shortened(octets: bytes) -> Iterator[str]:
    recipients = 0
    for line in octets.removesuffix(b"\r\n").split(b"\r\n"):
        recipients += line.startswith(b"RCPT ")
        if recipients <= SHOWN_RECIPIENTS or not line.startswith(b"RCPT "):
            yield line[:LINE_CHARACTERS].decode("utf-8", "replace")


@value(frozen=True, slots=True)
class Dialogue:
    """One connection's part in an attempt. `tls` is "" or version and cipher; `number`: which transaction on it."""

    host: str
    address: str
    port: int
    parts: Sequence[Transcript]
    tls: str = ""
    verified: bool = False
    number: int = 1

    def told(self, loop_now: float, now: float) -> dict[str, Any]:
        """Ready for the journal. `loop_now` and `now` are one moment, on the loop's clock and since the epoch."""
        began = next((part.entries[0][0] for part in self.parts if part.entries), loop_now)
        return {
            "host": self.host,
            "address": self.address,
            "port": self.port,
            "tls": self.tls,
            "verified": self.verified,
            "transaction": self.number,
            "began": now - (loop_now - began),
            "said": _cut([entry for part in self.parts for entry in part.told(began)]),
        }


def _cut(told: list[Told]) -> list[Told]:
    """The middle is left out where it is too long: the end tells what came of it."""
    if 6 * sum(len(entry[2]) for entry in told) <= TOLD_CHARACTERS:  # whatever JSON makes of a character
        return told
    while sum(len(json.dumps(entry[2])) for entry in told) > TOLD_CHARACTERS:
        middle = len(told) // 2
        told[middle - 1 : middle + 1] = [[told[middle][0], HAPPENED, "..."]]
    return told


def lines_of(told: Sequence[Told]) -> Iterator[str]:
    """ "0.012 > MAIL FROM:<a@b.example>": > we said, < the host said, * what happened; seconds since the beginning."""
    for milliseconds, code, text in told:
        for line in _as_lines(code, str(text)):
            yield f"{milliseconds / 1000:.3f} {line}"


def _as_lines(code: int, text: str) -> Iterator[str]:
    if code == SAID:
        yield from (f"> {_shown(line)}" for line in text.removesuffix("\r\n").split("\r\n"))
    elif code == HAPPENED:
        yield f"* {_shown(text)}"
    else:
        *before, last = text.split("\n")
        yield from (f"< {code}-{_shown(line)}" for line in before)
        yield f"< {code} {_shown(last)}"


def _shown(text: str) -> str:
    if len(text) > LINE_CHARACTERS:
        text = text[:LINE_CHARACTERS] + "..."
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)
