"""The parts of a message as a mail program could offer them: names and octets. Pure, bounded, never raises.

Contract
    Every leaf of the MIME tree comes out, named or not; attached messages are walked too.
    What cannot be read is a problem in words, never an exception: the caller holds such a message.
"""

from __future__ import annotations

import email
import email.errors
import email.message
import email.policy
import email.utils
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from egressguard.mail.header import decode_words

MAX_PARTS = 2000
MAX_DEPTH = 50
MAX_NAME_CHARACTERS = 255
_UUENCODE_BEGIN = re.compile(rb"^begin [0-7]{3,4} [^\r\n]{1,255}\r?$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Part:
    """`names` are all the names the part gives itself (they may differ); `is_text` for inline text bodies."""

    names: tuple[str, ...]
    content: bytes
    is_text: bool


@dataclass(slots=True)
class Walked:
    parts: list[Part] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def walk(content: bytes) -> Walked:
    """All parts of the message, and what was wrong with it."""
    walked = Walked()
    try:
        message = email.message_from_bytes(content, policy=email.policy.compat32)
        _walk(message, 0, walked)
    except RecursionError:
        walked.problems.append("nested too deep to be read")
    except (ValueError, LookupError, AttributeError, TypeError, AssertionError, email.errors.MessageError) as wrong:
        # The parser of the standard library has raised each of these on some malformed message.
        walked.problems.append(f"cannot be read: {type(wrong).__name__}")
    return walked


def _walk(message: email.message.Message, depth: int, walked: Walked) -> None:
    if depth > MAX_DEPTH or len(walked.parts) >= MAX_PARTS:
        if len(walked.problems) < 10:
            walked.problems.append("too many parts" if len(walked.parts) >= MAX_PARTS else "nested too deep")
        return
    payload = message.get_payload()
    if isinstance(payload, list):
        for child in payload:
            if isinstance(child, email.message.Message):
                _walk(child, depth + 1, walked)
        if message.is_multipart() and message.get_content_maintype() != "message":
            return
        if message.get_content_type() == "message/rfc822":
            return
    walked.parts.append(_leaf(message))


def _leaf(message: email.message.Message) -> Part:
    decoded = message.get_payload(decode=True)
    content = decoded if isinstance(decoded, bytes) else _raw(message)
    names = tuple(dict.fromkeys(_names(message)))
    is_text = message.get_content_maintype() == "text" and not names
    return Part(names, content, is_text)


def _raw(message: email.message.Message) -> bytes:
    payload = message.get_payload()
    return payload.encode("utf-8", "surrogateescape") if isinstance(payload, str) else b""


def _names(message: email.message.Message) -> Iterator[str]:
    """filename= and name=, RFC 2231 and RFC 2047 decoded; a mail program may use any of them."""
    for header, parameter in (("content-disposition", "filename"), ("content-type", "name")):
        value = message.get_param(parameter, header=header)
        if value is None:
            continue
        name = decode_words(email.utils.collapse_rfc2231_value(value))
        if name:
            yield name[:MAX_NAME_CHARACTERS]


def has_uuencode(content: bytes) -> bool:
    """Whether a text carries a uuencoded file: old mail programs offer it as an attachment."""
    return _UUENCODE_BEGIN.search(content) is not None
