"""A folder as people and IMAP name it ("Lists/Debian") -> its directory in a Maildir++ (".Lists.Debian").

Contract
    Pure. Letters beyond ASCII are in modified UTF-7 (RFC 3501 s5.1.3), as Dovecot and others keep them on disk.
    What is given was checked before (policy.mailbox_rules): no dots, no empty names.
"""

from __future__ import annotations

import base64
import itertools

INBOX = "INBOX"


def directory_of(folder: str) -> str:
    """The directory's name below the Maildir; "" = the Maildir itself, which is the inbox."""
    if folder == INBOX:
        return ""
    return "." + modified_utf7(folder).replace("/", ".")


def modified_utf7(text: str) -> str:
    """ "&" is "&-", printable ASCII is itself, the rest is base64 of UTF-16 between "&" and "-"."""
    pieces = (_encoded("".join(run), plain=plain) for plain, run in itertools.groupby(text, _is_plain))
    return "".join(pieces)


def _is_plain(character: str) -> bool:
    return " " <= character <= "~"


def _encoded(run: str, *, plain: bool) -> str:
    if plain:
        return run.replace("&", "&-")
    coded = base64.b64encode(run.encode("utf-16-be")).decode().rstrip("=").replace("/", ",")
    return f"&{coded}-"
