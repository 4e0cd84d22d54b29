"""Mailboxes of any size, as years of use leave them: ten folders, most mail small, some of it with attachments.

Written as their servers would have written them, fast. `benchmarks/mailboxes.py` takes them over, too.
"""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

FOLDERS = 10
KEYWORDS = ("$Label1", "$Label2", "NonJunk", "work")


def sizes(count: int) -> list[int]:
    """40 KB in the mean."""
    dice = random.Random(1)
    return [200_000 if dice.random() < 0.18 else dice.randrange(1500, 8000) for _ in range(count)]


def letter(number: int, size: int) -> bytes:
    line = b"%d " % number + b"x" * 66 + b"\n"
    return (
        b"From: a@b.example\nSubject: %d\nMessage-Id: <%d@b.example>\n\n" % (number, number) + line * (size // 70 + 1)
    )[:size] + b"\n"


def base_name(number: int) -> str:
    return f"{1_600_000_000 + number}.M{number}P1.host"


def flags(number: int) -> str:
    """As Maildir has them."""
    return ("S", "", "RS", "FS")[number % 4]


def make_maildir(root: Path, count: int, form: str) -> None:
    """`form`: dovecot, courier or qmail."""
    for folder in range(FOLDERS):
        place = root / (f".folder{folder}" if folder else "")
        for part in ("tmp", "new", "cur"):
            (place / part).mkdir(parents=True, exist_ok=True)
        uids = []
        for number, size in list(enumerate(sizes(count)))[folder::FOLDERS]:
            base = base_name(number)
            uids.append(base)
            letters = "abcd"[number % 4] if form == "dovecot" else ""
            path = place / "cur" / f"{base}:2,{flags(number)}{letters}"
            path.write_bytes(letter(number, size))
            os.utime(path, (1_600_000_000 + number,) * 2)
        lines = [f"{uid} {':' if form == 'dovecot' else ''}{base}\n" for uid, base in enumerate(uids, 1)]
        if form == "dovecot":
            head = f"3 V{1_500_000_000 + folder} N{len(uids) + 1} G{folder + 1:032x}\n"
            (place / "dovecot-uidlist").write_text(head + "".join(lines))
            (place / "dovecot-keywords").write_text("".join(f"{n} {word}\n" for n, word in enumerate(KEYWORDS)))
        elif form == "courier":
            (place / "courierimapuiddb").write_text(f"1 {1_500_000_000 + folder} {len(uids) + 1}\n" + "".join(lines))


def make_mboxes(root: Path, inbox: Path, count: int) -> None:
    root.mkdir(parents=True)
    for folder in range(FOLDERS):
        numbered = list(enumerate(sizes(count)))[folder::FOLDERS]
        with (root / f"folder{folder}" if folder else inbox).open("wb") as file:
            for uid, (number, size) in enumerate(numbered, 1):
                date = time.strftime("%a %b %d %H:%M:%S %Y", time.localtime(1_600_000_000 + number)).encode()
                base = b"X-IMAPbase: %d %010d $Label1\n" % (1_500_000_000 + folder, len(numbered)) if uid == 1 else b""
                status = b"Status: RO\n" if "S" in flags(number) else b"Status: O\n"
                file.write(b"From a@b.example %s\n%sX-UID: %d\n%s" % (date, base, uid, status))
                file.write(letter(number, size) + b"\n")
