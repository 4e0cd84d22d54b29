"""What Dovecot calls for mail that an account's Sieve script sends: `python -m egressguard.access.sieve_sendmail`.

    DROP ACCOUNT -i -f SENDER -- RECIPIENT...      the message on standard input

Contract
    Status 0 means that the message is on stable storage, in the drop directory. Any other makes Dovecot put off the
    message that the script was about, and it comes again.
    Whose script it was is ours to say, not the message's: the gateway believes it of the access role's user alone
    (relay.pickup), and its rules judge what is sent as that account's.
    Little is imported, and a message is never whole in memory: this starts once for each that is sent, and Dovecot
    lets its processes have 256 MB of address space.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from egressguard.store import drop

EX_USAGE, EX_TEMPFAIL = 64, 75
"""sysexits.h"""
MAX_OCTETS = 1024 * 1024 * 1024
PIECE_OCTETS = 64 * 1024
USAGE = "expected DROP ACCOUNT -i -f SENDER -- RECIPIENT..."
LF, CR, CRLF = b"\n", b"\r", b"\r\n"


def main(words: list[str]) -> int:
    if len(words) < 7 or (words[2], words[3], words[5]) != ("-i", "-f", "--"):
        return _failed(USAGE, EX_USAGE)
    directory, account, sender, recipients = Path(words[0]), words[1], words[4], tuple(words[6:])
    try:
        drop.put(directory, "" if sender == "<>" else sender, recipients, in_pieces(sys.stdin.buffer), account)
    except OSError as wrong:
        return _failed(f"{directory}: {wrong.strerror or wrong}", EX_TEMPFAIL)
    return 0


def in_pieces(stream: BinaryIO, most: int = MAX_OCTETS) -> Iterator[bytes]:
    """What the stream has, with CRLF at each line's end and the last one's. Raises OSError: more than `most`."""
    octets, held, ended = 0, b"", True
    while piece := stream.readline(PIECE_OCTETS):
        if (octets := octets + len(piece)) > most:
            raise OSError(errno.EFBIG, f"the message is larger than {most} octets")
        piece, held = held + piece, b""
        ended = piece.endswith(LF)
        if ended:
            piece = piece.removesuffix(LF).removesuffix(CR)
        elif piece.endswith(CR):
            piece, held = piece[:-1], CR  # its LF may be in the next piece
        yield piece.replace(CR, CRLF) + (CRLF if ended else b"")
    if held or not ended:
        yield CRLF


def _failed(words: str, status: int) -> int:
    sys.stderr.write(f"sieve_sendmail: {words}\n")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
