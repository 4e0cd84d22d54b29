"""Keywords of messages in Maildirs: Dovecot's letters, Courier's lists.

Contract
    Pure. What is no IMAP keyword (an atom, RFC 3501 s9) is left out; so is what is beyond MAX_KEYWORDS of a folder.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

DOVECOT_FILE = "dovecot-keywords"
COURIER_DIRECTORY = "courierimapkeywords"
COURIER_LIST = ":list"

MAX_KEYWORDS = 26
"""Dovecot has a letter for so many in a folder; it keeps the others in its index only."""
_ATOM = re.compile(r"[!#$&\['+,./0-9:;<=>?@A-Z^_`a-z|}~-]{1,100}")


def is_keyword(text: str) -> bool:
    return _ATOM.fullmatch(text) is not None


def parse_dovecot_keywords(lines: Iterable[bytes]) -> dict[str, str]:
    """Letter -> keyword."""
    found = {}
    for line in lines:
        number, _, name = line.decode("utf-8", "replace").partition(" ")
        if number.isdigit() and len(number) <= 2 and int(number) < MAX_KEYWORDS and is_keyword(name):
            found[chr(ord("a") + int(number))] = name
    return found


def render_dovecot_keywords(keywords: Iterable[str]) -> str:
    return "".join(f"{number} {name}\n" for number, name in enumerate(keywords))


def parse_courier_list(lines: Iterable[bytes]) -> dict[str, tuple[str, ...]]:
    """Base name -> keywords: names one a line, an empty line, then `base:numbers` a message."""
    names: list[str] = []
    found: dict[str, tuple[str, ...]] = {}
    in_names = True
    for line in lines:
        text = line.decode("utf-8", "surrogateescape")
        if not text:
            in_names = False
        elif in_names:
            names.append(text)
        else:
            base, _, numbers = text.partition(":")
            chosen = [int(n) for n in numbers.split() if n.isdigit() and len(n) <= 4]
            found[base] = tuple(names[n] for n in chosen if n < len(names) and is_keyword(names[n]))
    return found


def parse_courier_file(lines: Iterable[bytes]) -> tuple[str, ...]:
    """A message's own file, newer than the list: one keyword a line."""
    return tuple(text for text in (line.decode("utf-8", "replace") for line in lines) if is_keyword(text))
