"""xtext (RFC 3461 s4) and its Unicode relatives (RFC 6533 s3): octets and addresses inside one word of a command.

Contract
    Pure and strict: what is decoded is exactly what its encoder would make, or something else that the grammar
    allows; hexadecimal digits are upper case, code points have no leading zeros, surrogates do not exist.
    Whatever is encoded comes back unchanged; nothing but XtextError is ever raised.
"""

from __future__ import annotations

import re

_XTEXT = re.compile(r"(?:[\x21-\x2a\x2c-\x3c\x3e-\x7e]|\+[0-9A-F]{2})*")
_HEX_CHARACTER = re.compile(r"\+([0-9A-F]{2})")
_NOT_XCHAR = re.compile(rb"[^\x21-\x2a\x2c-\x3c\x3e-\x7e]")

_SPECIALS = frozenset({*range(0x20), 0x20, 0x2B, 0x3D, 0x5C, 0x7F})
"""ASCII that must be written as a code point; all other ASCII must not (RFC 6533 s3, HEXPOINT)."""
_CODE_POINT = re.compile(r"\\x\{([1-9A-F][0-9A-F]{1,5}|0[1-9A-F])\}")
_QCHAR = r"\x21-\x2a\x2c-\x3c\x3e-\x5b\x5d-\x7e"
_UTF8_XTEXT = re.compile(rf"(?:[{_QCHAR}]|{_CODE_POINT.pattern})+")
_UNITEXT = re.compile(rf"(?:[{_QCHAR}\x80-\U0010ffff]|{_CODE_POINT.pattern})+")
_NOT_QCHAR = re.compile(rf"[^{_QCHAR}]")
_NOT_QUCHAR = re.compile(rf"[^{_QCHAR}\x80-\U0010ffff]")


class XtextError(ValueError):
    """The text is not of the form that was expected."""


def encode_xtext(octets: bytes) -> str:
    """Any octets as xtext (RFC 3461 s4): printable ASCII without space, "+" and "=" stays, the rest is "+HH"."""
    return _NOT_XCHAR.sub(lambda found: b"+%02X" % found[0][0], octets).decode("ascii")


def decode_xtext(text: str) -> bytes:
    """The octets of an xtext; "" has none. Raises XtextError."""
    if not _XTEXT.fullmatch(text):
        raise XtextError("expected xtext")
    return _HEX_CHARACTER.sub(lambda found: chr(int(found[1], 16)), text).encode("latin-1")


def encode_utf8_xtext(text: str) -> str:
    """utf-8-addr-xtext (RFC 6533 s3): ASCII only, good in any transport. Raises XtextError (empty, surrogates)."""
    return _encoded(text, _NOT_QCHAR)


def encode_unitext(text: str) -> str:
    """utf-8-addr-unitext (RFC 6533 s3): for SMTPUTF8 only. Raises XtextError (empty, NUL, surrogates)."""
    return _encoded(text, _NOT_QUCHAR)


def decode_utf8_text(text: str, *, utf8: bool) -> str:
    """What a utf-8-addr-xtext, or with `utf8` also a utf-8-addr-unitext, means. Raises XtextError."""
    if not (_UNITEXT if utf8 else _UTF8_XTEXT).fullmatch(text):
        raise XtextError("expected utf-8-addr-unitext" if utf8 else "expected utf-8-addr-xtext")
    return _without_surrogates(_CODE_POINT.sub(lambda found: _character(int(found[1], 16)), text))


def seven_bit_orcpt(orcpt: str) -> str:
    """ORCPT's value for a host without SMTPUTF8; what is no utf-8 address stays as it is."""
    if orcpt.isascii():
        return orcpt
    address_type, semicolon, text = orcpt.partition(";")
    try:
        return address_type + semicolon + encode_utf8_xtext(decode_utf8_text(text, utf8=True))
    except XtextError:
        return orcpt


def _encoded(text: str, unfit: re.Pattern[str]) -> str:
    if not text or "\0" in text:  # HEXPOINT has no form for NUL
        raise XtextError("expected text without NUL")
    return unfit.sub(lambda found: f"\\x{{{ord(found[0]):02X}}}", _without_surrogates(text))


def _character(code_point: int) -> str:
    if code_point > 0x10FFFF or (code_point < 0x80 and code_point not in _SPECIALS):
        raise XtextError(f"expected a code point that needs to be written so, not {code_point:X}")
    return chr(code_point)


def _without_surrogates(text: str) -> str:
    if any(0xD800 <= ord(c) <= 0xDFFF for c in text):
        raise XtextError("surrogates are not characters")
    return text
