"""Which account a recipient's local part may mean.

Contract
    Pure. A name that is not an account name is never turned into one, except for case and a detail behind a separator.
    An account name is safe as a directory name, in a passwd-file line and in a local part.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

ACCOUNT_NAME_OCTETS = 64  # a local part is no longer (RFC 5321 s4.5.3.1.1)
_ACCOUNT_NAME = re.compile(rf"[a-z0-9][a-z0-9._-]{{0,{ACCOUNT_NAME_OCTETS - 1}}}")
_QUOTED_PAIR = re.compile(r"\\(.)")


def is_account_name(text: str) -> bool:
    """Lower-case letters, digits, ".", "_", "-"; a dot neither ends it nor follows another (a dot-string)."""
    return bool(_ACCOUNT_NAME.fullmatch(text)) and ".." not in text and not text.endswith(".")


def names_in(local_part: str, separator: str = "+") -> Iterator[tuple[str, str]]:
    """(name, detail): what the local part may be, quotes taken off; the whole first, then less and less of it.

    The local part is ours to interpret (RFC 5321 s2.3.11): we ignore case, and the detail is the user's own. Names are
    in lower case, and not always such as an account may have."""
    text = _unquoted(local_part)
    yield text.lower(), ""
    at = text.rfind(separator) if separator else -1
    while at >= 0:
        yield text[:at].lower(), text[at + 1 :]
        at = text.rfind(separator, 0, at)


def local_part_of(forward_path: str) -> str:
    """What stands before the last "@"; a bare `postmaster` is its own local part (RFC 5321 s4.5.1)."""
    local_part, at, _ = forward_path.rpartition("@")
    return local_part if at else forward_path


def _unquoted(local_part: str) -> str:
    if len(local_part) >= 2 and local_part[0] == local_part[-1] == '"':
        return _QUOTED_PAIR.sub(r"\1", local_part[1:-1])
    return local_part
