"""A message as an mbox has it: a From_ line, lines that look like one quoted (mboxrd), LF line ends, an empty line.

Contract
    Pure, piece by piece: memory is bounded whatever the message's size. CR LF becomes LF, no other octet is changed but
    for a ">" in front of lines that are "From " behind any number of ">": taking one away gives the message back.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator

HELD_OCTETS = 64 * 1024
_FROM_LINE = re.compile(rb"(?m)^(>*From )")
_NO_WORD = re.compile(r"[^\x21-\x7e]")


def from_line(reverse_path: str, now: float) -> bytes:
    """The line in front of a message; the null reverse-path is MAILER-DAEMON there. The time is UTC."""
    sender = _NO_WORD.sub("?", reverse_path) or "MAILER-DAEMON"
    return f"From {sender} {time.asctime(time.gmtime(now))}\n".encode("ascii")


def quoted(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The message's octets, and an empty line behind them."""
    held, at_line_start, last = b"", True, b"\n"
    for piece in pieces:
        held += piece
        cut = held.rfind(b"\n") + 1
        if not cut and len(held) > HELD_OCTETS:
            cut = len(held) - (held[-1:] == b"\r")  # a line without an end: its beginning is known
        if cut:
            block, held = held[:cut], held[cut:]
            yield _changed(block, at_line_start=at_line_start)
            at_line_start, last = block.endswith(b"\n"), block[-1:]
    if held:
        yield _changed(held, at_line_start=at_line_start)
        last = held[-1:]
    yield b"\n" if last == b"\n" else b"\n\n"


def _changed(block: bytes, *, at_line_start: bool) -> bytes:
    plain = block.replace(b"\r\n", b"\n")
    if at_line_start:
        return _FROM_LINE.sub(rb">\1", plain)
    first, newline, rest = plain.partition(b"\n")
    return first + newline + _FROM_LINE.sub(rb">\1", rest)
