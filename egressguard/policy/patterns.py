"""How rules name paths and domains: "anna@x.example", "*@x.example", "<>", "x.example", ".x.example", "@local".

Contract
    Case never counts. A quoted local-part is compared by what it says: "anna"@x.example is anna@x.example.
    The null reverse-path is matched by "<>" only and has no domain.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from fnmatch import fnmatchcase

from egressguard.mail.address import domain_of

LOCAL = "@local"
NULL = "<>"
_NEVER_LAST = ". <>|\"*?/\\'"
"""Windows takes off dots and spaces, and has no names with the others in them: programs that save files do so, too."""
_INVISIBLE = frozenset(
    map(chr, (0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x3164, 0xFFA0, *range(0x180B, 0x1810), *range(0xFE00, 0xFE10)))
)
"""Of Unicode's Default_Ignorable_Code_Point what is no format character; variation selectors beyond are rare."""
_QUOTED_PAIR = re.compile(r"\\(.)", re.DOTALL)


def path_matches(patterns: Iterable[str], path: str) -> bool:
    """Whether a path ("" = the null reverse-path) is one of `patterns`."""
    plain = plain_path(path)
    return any(_one_path(pattern, plain) for pattern in patterns)


def domain_matches(patterns: Iterable[str], path: str, local_domains: Iterable[str]) -> bool:
    """Whether the domain of `path` is one of `patterns`."""
    return is_one_of(patterns, domain_of(path), local_domains)


def is_one_of(patterns: Iterable[str], domain: str, local_domains: Iterable[str] = ()) -> bool:
    """Whether a domain or a host name, in lower case, is one of `patterns`."""
    return bool(domain) and any(_one_domain(p.lower(), domain, local_domains) for p in patterns)


def text_matches(patterns: Iterable[str], text: str) -> bool:
    """Whether a text (of HELO, of a header field) matches one of these shell patterns, without regard to case."""
    folded = text.casefold()
    return any(fnmatchcase(folded, pattern.casefold()) for pattern in patterns)


def name_matches(patterns: Iterable[str], name: str) -> bool:
    """Whether a file name matches one of these shell patterns, as the recipient's machine would read the name:
    compatible letters are one, invisible characters do not count, nor do those at the end that no name may end with;
    what stands behind a colon is a stream of the file in front of it (NTFS)."""
    shown = shown_name(name)
    every = (shown, _without_tail(shown.partition(":")[0])) if ":" in shown else (shown,)
    return any(fnmatchcase(one, pattern.casefold()) for one in every for pattern in patterns)


def shown_name(name: str) -> str:
    """A file name as the recipient's machine would read it."""
    if name.isascii() and name.isprintable():  # nearly all are, and the way below takes a microsecond a letter
        return _without_tail(name.lower())
    bare = (c for c in name if c not in _INVISIBLE)
    folded = unicodedata.normalize("NFKC", "".join(bare)).casefold()
    return _without_tail("".join(c for c in folded if unicodedata.category(c) not in {"Cc", "Cf"}))


def _without_tail(name: str) -> str:
    return name.rstrip(_NEVER_LAST)


def plain_path(path: str) -> str:
    """What a path says, in lower case."""
    local_part, at, domain = path.rpartition("@")
    if len(local_part) >= 2 and local_part.startswith('"') and local_part.endswith('"'):
        local_part = _QUOTED_PAIR.sub(r"\1", local_part[1:-1])  # RFC 5321 s4.1.2: quoting changes no meaning
    return f"{local_part}{at}{domain}".lower()


def _one_path(pattern: str, path: str) -> bool:
    if pattern == NULL:
        return path == ""
    if pattern.startswith("*@"):
        return path != "" and domain_of(path) == pattern[2:].lower()
    return path != "" and path == plain_path(pattern)


def _one_domain(pattern: str, domain: str, local_domains: Iterable[str]) -> bool:
    if pattern == LOCAL:
        return domain in {d.lower() for d in local_domains}
    if pattern.startswith("."):
        return domain.endswith(pattern)
    return domain == pattern
