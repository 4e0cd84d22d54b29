"""What a program is given by a pipe, and what its end means for the mail. Pure.

Contract
    Arguments are a list, never a shell's text. An address that begins with "-", or that has characters with a meaning
    to shells or to uux, is given to no program: it is a permanent outcome.
    The exit status is sysexits'. It is permanent only where it speaks of the message or the recipient; what speaks of
    the program, or of this machine, and every status that nobody defined, is transient.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Sequence

from egressguard.mail.outcome import Outcome, delivered, one_line, permanent, transient
from egressguard.policy.pipes import Pipe

_UNSAFE = re.compile(r"[\x00-\x20\x7f\"\\()<>`$|;&]|^-")
_PLACEHOLDER = re.compile(r"\{(sender|recipient|nexthop)\}")
_ENHANCED = re.compile(r"([45]\.\d{1,3}\.\d{1,3})(?:\s+|$)")

REFUSALS = {
    65: ("5.6.0", "data format error"),  # EX_DATAERR
    67: ("5.1.1", "user unknown"),  # EX_NOUSER
    68: ("5.1.2", "host name unknown"),  # EX_NOHOST
    69: ("5.3.0", "service unavailable"),  # EX_UNAVAILABLE
    76: ("5.5.0", "remote error in protocol"),  # EX_PROTOCOL
    77: ("5.7.0", "permission denied"),  # EX_NOPERM
}
TROUBLES = {
    64: ("4.3.5", "command line usage error"),  # EX_USAGE: our rules are wrong, not the mail
    66: ("4.3.0", "cannot open input"),  # EX_NOINPUT
    70: ("4.3.0", "internal software error"),  # EX_SOFTWARE
    71: ("4.3.0", "system resource problem"),  # EX_OSERR
    72: ("4.3.0", "critical system file missing"),  # EX_OSFILE
    73: ("4.2.0", "cannot create an output file"),  # EX_CANTCREAT
    74: ("4.3.0", "input/output error"),  # EX_IOERR
    75: ("4.3.0", "temporary failure"),  # EX_TEMPFAIL
    78: ("4.3.5", "configuration error"),  # EX_CONFIG
}


def unfit(path: str, *, sender: bool = False) -> Outcome | None:
    """Why an address cannot be an argument, or None: it can."""
    if not path.isascii():
        return permanent("5.6.7", "the program at the end of this route takes no internationalized addresses")
    if _UNSAFE.search(path):
        words = f"the {'sender' if sender else 'recipient'}'s address has characters that no program is given"
        return permanent("5.1.7" if sender else "5.1.3", words)
    return None


def arguments(pipe: Pipe, sender: str, recipients: Sequence[str], nexthop: str) -> list[str]:
    """The command for these recipients. What is put in is looked at once: it is never a placeholder again."""
    known = {"sender": sender or pipe.null_sender, "nexthop": nexthop}
    words = list(pipe.command[:1])
    for argument in pipe.command[1:]:
        for recipient in recipients if "{recipient}" in argument else recipients[:1]:
            facts = known | {"recipient": recipient}
            words.append(_PLACEHOLDER.sub(lambda match, facts=facts: facts[match[1]], argument))  # type: ignore[misc]
    return words


def from_line(sender: str, now: float) -> bytes:
    """The envelope's line in front of a message, as rmail takes it (RFC 976 s2.4)."""
    return f"From {sender} {time.asctime(time.gmtime(now))}\n".encode("ascii", "replace")


def with_line_feeds(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The pieces with each CRLF a line feed, also where one ends between the two."""
    kept = b""
    for piece in pieces:
        octets = kept + piece
        kept = b"\r" if octets.endswith(b"\r") else b""
        yield octets.removesuffix(kept).replace(b"\r\n", b"\n")
    yield kept


def outcome_of(name: str, status: int, output: bytes, *, took_all: bool) -> Outcome:
    """`status` as waitpid tells it, -N = ended by signal N; `took_all`: the message was written to the end."""
    said = one_line(output.decode("utf-8", "replace"))
    if status == 0:
        if took_all:
            return delivered(f"handed to the program {name}")
        return transient("4.3.0", f"{name} ended before it had read the message")
    code, words = REFUSALS.get(status) or TROUBLES.get(status) or ("4.3.0", _unknown(status))
    found = _ENHANCED.match(said)
    if found and found[1][0] == code[0]:  # its own, where it means the same
        code, said = found[1], said[found.end() :]
    make = permanent if status in REFUSALS else transient
    return make(code, f"{name}: {said or words}")


def _unknown(status: int) -> str:
    return f"ended by signal {-status}" if status < 0 else f"exit status {status}"
