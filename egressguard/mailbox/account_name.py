"""Which account a recipient's local part means.

Contract
    Pure. A name that is not an account name is never turned into one, except for case and "+detail".
    An account name is safe as a directory name, in a passwd-file line and in a local part.
"""

from __future__ import annotations

import re

ACCOUNT_NAME_OCTETS = 64  # a local part is no longer (RFC 5321 s4.5.3.1.1)
_ACCOUNT_NAME = re.compile(rf"[a-z0-9][a-z0-9._-]{{0,{ACCOUNT_NAME_OCTETS - 1}}}")
_QUOTED_PAIR = re.compile(r"\\(.)")


def is_account_name(text: str) -> bool:
    """Lower-case letters, digits, ".", "_", "-"; a dot neither ends it nor follows another (a dot-string)."""
    return bool(_ACCOUNT_NAME.fullmatch(text)) and ".." not in text and not text.endswith(".")


def account_of(local_part: str) -> str | None:
    """The account name in `local_part`: quotes taken off, lower case, without "+detail"; None = none can be.

    The local part is ours to interpret (RFC 5321 s2.3.11): we ignore case, and "+detail" is the user's own.
    """
    name = _unquoted(local_part).lower().partition("+")[0]
    return name if is_account_name(name) else None


def local_part_of(forward_path: str) -> str:
    """What stands before the last "@"; a bare `postmaster` is its own local part (RFC 5321 s4.5.1)."""
    local_part, at, _ = forward_path.rpartition("@")
    return local_part if at else forward_path


def _unquoted(local_part: str) -> str:
    if len(local_part) >= 2 and local_part[0] == local_part[-1] == '"':
        return _QUOTED_PAIR.sub(r"\1", local_part[1:-1])
    return local_part
