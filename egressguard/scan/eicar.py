"""The EICAR test file: recognised without any signature database, so that every installation can be tried out."""

from __future__ import annotations

from egressguard.scan.octets import Octets

# In two halves, so that no scanner takes this source file for the test file.
_SIGNATURE = rb"X5O!P%@AP[4\PZX54(P^)7CC)7}$" + b"EICAR-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*"
_TAIL = frozenset(b" \t\n\r\x1a")
_LONGEST = 128
"""The file may be padded with white space up to this length, as its authors define it."""


def is_eicar(content: Octets) -> bool:
    """Whether `content` is the test file: it starts with the 68 octets, and only white space follows."""
    if not content.startswith(_SIGNATURE):
        return False
    return set(content[len(_SIGNATURE) : _LONGEST]) <= _TAIL


def contains_eicar(content: Octets) -> bool:
    """Whether the 68 octets stand anywhere: for text bodies, where a mail program may show them as a file."""
    return _SIGNATURE in content
