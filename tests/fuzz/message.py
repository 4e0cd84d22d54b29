"""A target for reading messages: any octets are read, and an archive that Python's own parser finds is not missed.

Contract
    What comes out is bounded in number; the octets are not changed (they are handed over read-only).
"""

from __future__ import annotations

import email
import email.errors
import email.message
import email.policy
from collections.abc import Iterator

from egressguard.scan.heading import Describer
from egressguard.scan.names import MAX_NAME_CHARACTERS
from egressguard.scan.walk import MAX_DIFFERENCES, MAX_PARTS, walk
from tests.fuzz.memory import Finding

_SLACK = 3000
"""One buffer more may be read when the bound is met: its parts, and its blocks of fields."""

ARCHIVE = b"PK\x03\x04" + bytes(range(1, 21)) + b"PK\x05\x06" + bytes(range(1, 19))
"""What the corpus carries, in each disguise."""


def message(octets: bytes) -> None:
    """A message, or what claims to be one."""
    walked = walk(octets, Describer())
    if len(walked.parts) > MAX_PARTS + _SLACK or len(walked.differences) > MAX_DIFFERENCES:
        raise Finding(f"{len(walked.parts)} parts, {len(walked.differences)} differences")
    if any(len(name) > MAX_NAME_CHARACTERS for part in walked.parts for name in part.names):
        raise Finding("a name without end")
    if walked.problems:
        return
    found = any(ARCHIVE in part.content for part in walked.parts)
    if not found and any(ARCHIVE in content for content in _contents(octets)):
        raise Finding("Python finds an archive that nobody else does")


def _contents(octets: bytes) -> Iterator[bytes]:
    try:
        parts = list(email.message_from_bytes(octets, policy=email.policy.compat32).walk())
    except (ValueError, LookupError, AttributeError, TypeError, AssertionError, email.errors.MessageError):
        return
    for part in parts:
        yield _content(part)


def _content(part: email.message.Message) -> bytes:
    try:
        content = part.get_payload(decode=True)
    except (ValueError, LookupError, AttributeError, TypeError, AssertionError, email.errors.MessageError):
        return b""
    return content if isinstance(content, bytes) else b""
