"""Small sources made by hand, and what a mailbox holds, read without our own readers."""

from __future__ import annotations

import os
import re


def maildir(path, messages=(), *, validity=None, following=None, folder=""):
    """`messages`: (base name, flags or None for new/, content). `validity`: a dovecot-uidlist numbers them 1, 2, ..."""
    place = path / folder if folder else path
    for part in ("tmp", "new", "cur"):
        (place / part).mkdir(parents=True, exist_ok=True)
    for base, flags, content in messages:
        file = place / ("new" if flags is None else "cur") / (base if flags is None else f"{base}:2,{flags}")
        file.write_bytes(content)
        os.utime(file, (1_700_000_000, 1_700_000_000))
    if validity is not None:
        lines = "".join(f"{n} :{base}\n" for n, (base, _, _) in enumerate(messages, 1))
        head = f"3 V{validity} N{following or len(messages) + 1} G{'0' * 32}\n"
        (place / "dovecot-uidlist").write_text(head + lines)
    return path


def letters(count, start=0):
    return [
        (f"{1_700_000_000 + n}.M{n}P1.host", ("S", "", None)[n % 3], b"Subject: %d\n\nbody %d\n" % (n, n))
        for n in range(start, start + count)
    ]


def held(mailbox):
    """{folder: {content: (UID or None, part, flags)}}; a message that is there twice fails."""
    found = {}
    for place in (mailbox, *(path for path in mailbox.glob(".*/") if (path / "cur").is_dir())):
        uids = {}
        if (place / "dovecot-uidlist").exists():
            for line in (place / "dovecot-uidlist").read_text().splitlines()[1:]:
                uid, base = re.fullmatch(r"(\d+) (?:P\S+ )?:(.*)", line).groups()
                uids[base] = int(uid)
        messages = {}
        for part in ("new", "cur"):
            for file in (place / part).iterdir():
                base, _, flags = file.name.partition(":2,")
                content = file.read_bytes()
                assert content not in messages, f"twice: {content[:60]}"
                messages[content] = (uids.get(base), part, flags)
        found[place.name if place != mailbox else ""] = messages
    return found
