"""A content's octets as one piece without a copy."""

from __future__ import annotations

import mmap

from egressguard.store.content import Content


def octets_of(content: Content) -> bytes | mmap.mmap:
    """All of it, but for what lies in front. Of a file the pages are the kernel's, which takes them back when it needs
    them; they end with the last who looks at them, be it a thread that nobody waits for any more. Raises OSError."""
    if content.file is None:
        return content.rest
    with content.file.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
