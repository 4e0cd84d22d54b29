"""The ESMTP parameters of MAIL and RCPT (RFC 5321 s4.1.2): words in, values or a refusal out.

Contract
    Pure. A keyword that was not offered in this session is refused (555), a value that its RFC does not allow too
    (501); nothing is repaired, and a keyword comes once. Keywords ignore case, and so do the values that are words.
    Values of free text are bounded, and what they mean has no control characters: they end up in reports and logs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from egressguard.mail.envelope import NEVER, NOTIFY_EVENTS, RecipientOptions
from egressguard.mail.reply import Reply
from egressguard.mail.xtext import XtextError, decode_utf8_text, decode_xtext
from egressguard.smtp.replies import Refusal
from egressguard.values import value

ENVID_CHARACTERS = 100  # RFC 3461 s4.4
ORCPT_OCTETS = 500  # RFC 3461 s4.2
AUTH_OCTETS = 500  # RFC 4954 s3

_PARAMETER = re.compile(r"([A-Za-z0-9][A-Za-z0-9-]*)(?:=([\x21-\x3c\x3e-\x7e\x80-\U0010ffff]+))?")
_SIZE = re.compile(r"[0-9]{1,20}")
_ADDRESS_TYPE = re.compile(r"[A-Za-z0-9!#$%&'*+/?^_`{|}~-]+")  # an atom, less the "=" that no value may have
_GRAPHIC = re.compile(rb"[\x20-\x7e]+")

UNKNOWN_PARAMETER = Reply(555, "5.5.4", "Parameter not recognised")


@value(frozen=True, slots=True)
class Offers:
    """What the session's EHLO reply offered, beyond SIZE, 8BITMIME and SMTPUTF8. `extended`: EHLO it was, not HELO."""

    extended: bool = True
    auth: bool = False
    dsn: bool = False
    requiretls: bool = False  # RFC 8689 s2: only where TLS is active
    binarymime: bool = False


@dataclass(slots=True)
class Parameters:
    """The words behind a path, to be taken one by one. `refusal` is the reply to a value that is none."""

    values: dict[str, str]
    refusal: Reply

    def word(self, keyword: str, allowed: tuple[str, ...]) -> str | None:
        """One of `allowed`, in upper case; None: not said. Raises Refusal."""
        value = self.values.pop(keyword, None)
        if value is not None and value.upper() not in allowed:
            raise Refusal(self.refusal)
        return value and value.upper()

    def flag(self, keyword: str) -> bool:
        """Whether a keyword that takes no value was said. Raises Refusal."""
        value = self.values.pop(keyword, None)
        if value:
            raise Refusal(self.refusal)
        return value is not None

    def finish(self) -> None:
        """Raises Refusal when something is left that nobody offered."""
        if self.values:
            raise Refusal(UNKNOWN_PARAMETER)


def parse_parameters(text: str, refusal: Reply, offers: Offers) -> Parameters:
    """What stands behind a path. Raises Refusal."""
    values: dict[str, str] = {}
    for word in filter(None, text.split(" ")):
        match = _PARAMETER.fullmatch(word)
        if match is None or match[1].upper() in values:
            raise Refusal(refusal)
        values[match[1].upper()] = match[2] or ""
    if values and not offers.extended:
        raise Refusal(UNKNOWN_PARAMETER)
    return Parameters(values, refusal)


def take_size(parameters: Parameters) -> int | None:
    """RFC 1870 s3: what the client says the message has, in octets. Raises Refusal."""
    value = parameters.values.pop("SIZE", None)
    if value is None:
        return None
    if not _SIZE.fullmatch(value):
        raise Refusal(parameters.refusal)
    return int(value)


def take_body(parameters: Parameters, *, binarymime: bool) -> str:
    """RFC 6152 s2, RFC 3030 s3: "7BIT", "8BITMIME" or, where it is offered, "BINARYMIME". Raises Refusal."""
    allowed = ("7BIT", "8BITMIME", "BINARYMIME") if binarymime else ("7BIT", "8BITMIME")
    return parameters.word("BODY", allowed) or "7BIT"


def take_auth(parameters: Parameters) -> None:
    """RFC 4954 s5: must be taken; whom the client vouches for is nothing to us. Raises Refusal: not xtext."""
    value = parameters.values.pop("AUTH", None)
    if value is None:
        return
    if not value or len(value.encode()) > AUTH_OCTETS:
        raise Refusal(parameters.refusal)
    try:
        decode_xtext(value)
    except XtextError:
        raise Refusal(parameters.refusal) from None


def take_envid(parameters: Parameters) -> str | None:
    """RFC 3461 s4.4: the xtext as it came; it stands for printable ASCII. Raises Refusal."""
    value = parameters.values.pop("ENVID", None)
    if value is not None and (len(value) > ENVID_CHARACTERS or not _is_graphic_xtext(value)):
        raise Refusal(parameters.refusal)
    return value


def take_recipient_options(parameters: Parameters, *, smtputf8: bool) -> RecipientOptions:
    """NOTIFY and ORCPT (RFC 3461 s4.1 and s4.2). Raises Refusal."""
    return RecipientOptions(_notify(parameters), _orcpt(parameters, smtputf8=smtputf8))


def _notify(parameters: Parameters) -> tuple[str, ...] | None:
    value = parameters.values.pop("NOTIFY", None)
    if value is None:
        return None
    words = value.upper().split(",")
    if words == [NEVER]:
        return (NEVER,)
    if len(set(words)) != len(words) or not set(words) <= set(NOTIFY_EVENTS):
        raise Refusal(parameters.refusal)
    return tuple(event for event in NOTIFY_EVENTS if event in words)


def _orcpt(parameters: Parameters, *, smtputf8: bool) -> str | None:
    value = parameters.values.pop("ORCPT", None)
    if value is None:
        return None
    address_type, semicolon, address = value.partition(";")
    fits = semicolon and len(value.encode()) <= ORCPT_OCTETS and _ADDRESS_TYPE.fullmatch(address_type)
    if not fits or not _is_original_address(address_type, address, smtputf8=smtputf8):
        raise Refusal(parameters.refusal)
    return value


def _is_original_address(address_type: str, address: str, *, smtputf8: bool) -> bool:
    if address_type.lower() != "utf-8":
        return _is_printable_xtext(address)
    try:
        return decode_utf8_text(address, utf8=smtputf8).isprintable()
    except XtextError:
        return False


def _is_graphic_xtext(text: str) -> bool:
    """Whether it stands for at least one printable ASCII character, and nothing else (RFC 3461 s4.4)."""
    try:
        return _GRAPHIC.fullmatch(decode_xtext(text)) is not None
    except XtextError:
        return False


def _is_printable_xtext(text: str) -> bool:
    """The same of UTF-8: Postfix and its kin write rfc822 addresses beyond ASCII so, where RFC 6533 has utf-8."""
    try:
        meant = decode_xtext(text).decode("utf-8")
    except (XtextError, UnicodeDecodeError):
        return False
    return meant != "" and meant.isprintable()
