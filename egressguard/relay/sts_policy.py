"""MTA-STS (RFC 8461): what a domain says in its TXT record and in its policy file. Pure.

Contract
    What is not well-formed is no record and no policy: nothing is guessed, nothing repaired.
    Bounded: POLICY_OCTETS of policy, PATTERNS of hosts, a year of max_age.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, cast

POLICY_OCTETS = 64 * 1024  # s3.2 lets a sender stop there
PATTERNS = 200
LONGEST_SECONDS = 31_557_600  # s3.2
_RECORD = re.compile(rb"v=STSv1(\s*;\s*[A-Za-z0-9][A-Za-z0-9_.-]{0,31}=[\x21-\x3a\x3c\x3e-\x7e]+)*\s*;?\s*")
_ID = re.compile(rb";\s*id=([A-Za-z0-9]{1,32})\s*(?:;|$)")
_SECONDS = re.compile(r"[0-9]{1,10}")
_FIELD = re.compile(r"([A-Za-z0-9][A-Za-z0-9_.-]{0,31})[ \t]*:[ \t]*([^\r\n]*?)[ \t]*")
_PATTERN = re.compile(r"(\*\.)?([a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?\.)*[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")

Mode = Literal["enforce", "testing", "none"]
_MODES = ("enforce", "testing", "none")


@dataclass(frozen=True, slots=True)
class StsPolicy:
    """`mx` are host names, or "*.example.org" for those one label below it."""

    mode: Mode
    max_age_seconds: int
    mx: tuple[str, ...] = ()

    @property
    def lines(self) -> tuple[str, ...]:
        """As a report shows it (RFC 8460 s4.2)."""
        hosts = (f"mx: {pattern}" for pattern in self.mx)
        return ("version: STSv1", f"mode: {self.mode}", *hosts, f"max_age: {self.max_age_seconds}")

    def lists(self, host: str) -> bool:
        """s4.1: an asterisk stands for one whole label, the leftmost."""
        name = host.rstrip(".").lower()
        return name in self.mx or f"*.{name.partition('.')[2]}" in self.mx


def record_id(texts: Iterable[bytes]) -> str | None:
    """The id in the TXT records under _mta-sts.DOMAIN; None unless exactly one is an MTA-STS record (s3.1)."""
    records = [text for text in texts if text.startswith(b"v=STSv1;")]
    if len(records) != 1 or not _RECORD.fullmatch(records[0]):
        return None
    found = _ID.search(records[0])
    return found[1].decode() if found else None


def parse_policy(octets: bytes) -> StsPolicy | None:
    """The policy file's content (s3.2); None when it is not a policy."""
    if len(octets) > POLICY_OCTETS:
        return None
    try:
        pairs = [_pair(line) for line in _lines(octets.decode("utf-8"))]
    except ValueError:
        return None
    first: dict[str, str] = {}
    for key, value in pairs:
        first.setdefault(key, value)  # s3.2: of all keys but mx the first counts
    mx = tuple(dict.fromkeys(value.lower() for key, value in pairs if key == "mx"))
    if first.get("version") != "STSv1" or first.get("mode") not in _MODES:
        return None
    return _policy(cast(Mode, first["mode"]), first.get("max_age", ""), mx)


def _policy(mode: Mode, max_age: str, mx: Sequence[str]) -> StsPolicy | None:
    if not _SECONDS.fullmatch(max_age) or int(max_age) > LONGEST_SECONDS:
        return None
    fits = len(mx) <= PATTERNS and all(_PATTERN.fullmatch(pattern) for pattern in mx)
    return StsPolicy(mode, int(max_age), tuple(mx)) if fits and (mx or mode == "none") else None


def _lines(text: str) -> list[str]:
    return [line for line in text.replace("\r\n", "\n").split("\n") if line.strip(" \t")]


def _pair(line: str) -> tuple[str, str]:
    """Raises ValueError."""
    found = _FIELD.fullmatch(line)
    if found is None:
        raise ValueError("no field")
    return found[1], found[2]
