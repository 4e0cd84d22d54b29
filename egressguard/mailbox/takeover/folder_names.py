"""Names of folders: what a source calls them -> parts that Maildir++ can have on disk.

Contract
    Pure. The answer is plain ASCII in modified UTF-7 (RFC 3501 s5.1.3), without "." and "/", and never empty.
    A name that is right already stays as it is, octet for octet.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re

from egressguard.mailbox.folder_name import modified_utf7
from egressguard.mailbox.takeover.source import Name

PART_OCTETS = 200
NAME_OCTETS = 240
"""A whole name is one file name (255 octets) in Maildir++."""
MAX_PARTS = 30

_SHIFTED = re.compile(r"&([A-Za-z0-9+,]*)-")
_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f./]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def decode_utf7(name: str) -> str | None:
    """The text that a name in modified UTF-7 means; None: it is none."""
    if not name.isascii() or _CONTROL.search(name) or "&" in _SHIFTED.sub("", name):
        return None
    try:
        text = _SHIFTED.sub(lambda found: _unshifted(found[1]), name)
    except (binascii.Error, UnicodeDecodeError):
        return None
    return text if modified_utf7(text) == name else None


def safe_part(raw: str) -> str:
    """A file name's part (octets outside UTF-8 as surrogates) as a part of a name of ours."""
    if decode_utf7(raw) is None:
        octets = raw.encode("utf-8", "surrogateescape")
        raw = modified_utf7(_CONTROL.sub("_", octets.decode("utf-8", "replace")))
    part = _FORBIDDEN.sub("_", raw).strip() or "_"
    if len(part) > PART_OCTETS:
        part = f"{modified_utf7((decode_utf7(part) or part)[:20])[:150]}_{_digest(raw)}"
        part = part if decode_utf7(part) is not None else f"folder_{_digest(raw)}"
    return f"_{part[1:]}" if part[0] == "~" else part


def safe_name(parts: tuple[str, ...]) -> Name:
    """() stays INBOX; a folder below it that is called INBOX gets another name: there is one INBOX only."""
    name = tuple(safe_part(part) for part in parts)
    if name and name[0].upper() == "INBOX":
        name = (f"{name[0]}_", *name[1:])
    if len(name) > MAX_PARTS or len(".".join(name)) > NAME_OCTETS:
        return (f"{name[0][:100].rpartition('&')[0] or 'folder'}_{_digest('/'.join(name))}",)
    return name


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _unshifted(code: str) -> str:
    if not code:
        return "&"
    return base64.b64decode(code + "=" * (-len(code) % 4), b"+,", validate=True).decode("utf-16-be")
