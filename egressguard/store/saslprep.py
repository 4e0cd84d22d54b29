"""SASLprep (RFC 4013): names and passwords in the one form that both sides of an exchange hash.

Contract
    Pure. What people cannot type the same way twice (control characters, unassigned code points, mixed directions)
    is refused; printable ASCII comes back as it is. Tables are those of Unicode 3.2, as stringprep has them.
"""

from __future__ import annotations

import stringprep
import unicodedata

_PROHIBITED = (
    stringprep.in_table_c12,
    stringprep.in_table_c21_c22,
    stringprep.in_table_c3,
    stringprep.in_table_c4,
    stringprep.in_table_c5,
    stringprep.in_table_c6,
    stringprep.in_table_c7,
    stringprep.in_table_c8,
    stringprep.in_table_c9,
)


class SaslprepError(ValueError):
    """The text has no form that could be compared."""


def saslprep(text: str, *, stored: bool) -> str:
    """The prepared text. `stored` refuses code points that Unicode 3.2 had not assigned. Raises SaslprepError."""
    mapped = "".join(" " if stringprep.in_table_c12(c) else c for c in text if not stringprep.in_table_b1(c))
    prepared = unicodedata.ucd_3_2_0.normalize("NFKC", mapped)
    if any(prohibited(c) for c in prepared for prohibited in _PROHIBITED):
        raise SaslprepError("a character that is not allowed (RFC 4013 s2.3)")
    if stored and any(stringprep.in_table_a1(c) for c in prepared):
        raise SaslprepError("a code point that is not assigned (RFC 4013 s2.5)")
    _check_directions(prepared)
    return prepared


def _check_directions(text: str) -> None:
    """RFC 3454 s6: right to left from the first character to the last, or nowhere."""
    if not any(map(stringprep.in_table_d1, text)):
        return
    if any(map(stringprep.in_table_d2, text)):
        raise SaslprepError("text of both directions (RFC 4013 s2.4)")
    if not (stringprep.in_table_d1(text[0]) and stringprep.in_table_d1(text[-1])):
        raise SaslprepError("text from right to left that does not begin and end so (RFC 4013 s2.4)")
