"""One signature over header fields and body: DKIM-Signature, ARC-Message-Signature, ARC-Seal (RFC 6376 s6.1, RFC 8617).

Contract
    dkimpy canonicalises header fields and does the arithmetic. What it lets pass and RFC 6376 does not is checked here:
    From must be signed, x= is a date and not ten hours more, a key is for its algorithm, SHA-1 is not accepted.
    A field is refused before any pattern of dkimpy sees it if it is long or full of blanks.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import dkim
import nacl.exceptions
from dkim.util import InvalidTagValueList, parse_tag_value

from egressguard.senderauth.domains import ascii_domain
from egressguard.senderauth.key_record import Key
from egressguard.senderauth.message import Fields, Message
from egressguard.senderauth.verdict import Refused, plain

FIELD_OCTETS = 8192
BLANKS_IN_A_ROW = 100
"""dkimpy's patterns take quadratic time in these."""
SIGNED_NAMES = 200
SIGNATURE_OCTETS = 1024  # of an RSA key of 8192 bits
EXPIRY_SLACK_SECONDS = 300

_BLANKS = re.compile(rb"\s{%d}" % BLANKS_IN_A_ROW)
_SELECTOR = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,200}[A-Za-z0-9_])?")
_DIGITS = re.compile(rb"[0-9]{1,15}")
_FAULTS = (
    dkim.DKIMException,
    ArithmeticError,
    AssertionError,
    LookupError,
    TypeError,
    ValueError,
    nacl.exceptions.CryptoError,
)


@dataclass(frozen=True, slots=True)
class Signature:
    """`field` as it stands in the message. `domain` and `selector` say where its key is."""

    field: tuple[bytes, bytes]
    tags: Mapping[bytes, bytes]
    domain: str
    selector: str

    @property
    def key_name(self) -> str:
        return f"{self.selector}._domainkey.{self.domain}"

    @property
    def algorithm(self) -> bytes:
        return self.tags[b"a"]


def read_tags(value: bytes) -> Mapping[bytes, bytes]:
    """The tags of a field. Raises Refused."""
    if len(value) > FIELD_OCTETS or _BLANKS.search(value):
        raise Refused("policy", "the signature field is too long")
    try:
        return dict(parse_tag_value(value))
    except InvalidTagValueList as wrong:
        raise Refused("permerror", "the signature field is malformed") from wrong


def parse_signature(
    field: tuple[bytes, bytes], tags: Mapping[bytes, bytes], *, required: Sequence[bytes], arc: bool, now: float
) -> Signature:
    """A signature that may be verified once its key is there. Raises Refused."""
    if tags.get(b"a") == b"rsa-sha1":
        raise Refused("policy", "rsa-sha1 is not accepted")
    _not_expired(tags, now)
    try:
        dkim.validate_signature_fields(dict(tags), list(required), arc)
    except _FAULTS as wrong:
        raise Refused("permerror", f"the signature field is malformed: {plain(str(wrong))}") from wrong
    if b"h" in required:
        _signs_author(tags[b"h"])
    domain, selector = _text(tags[b"d"]), _text(tags[b"s"])
    name = ascii_domain(domain)
    if name is None or not _SELECTOR.fullmatch(selector):
        raise Refused("permerror", "d= or s= is malformed")
    if len(_decoded(tags[b"b"])) > SIGNATURE_OCTETS:
        raise Refused("permerror", "b= is too long")
    return Signature(field, tags, name, selector)


def _not_expired(tags: Mapping[bytes, bytes], now: float) -> None:
    if b"x" in tags and (not _DIGITS.fullmatch(tags[b"x"]) or int(tags[b"x"]) + EXPIRY_SLACK_SECONDS < now):
        raise Refused("fail", "the signature has expired")


def _signs_author(names: bytes) -> None:
    signed = [name.strip().lower() for name in names.split(b":")]
    if b"from" not in signed:
        raise Refused("permerror", "From is not signed")
    if len(signed) > SIGNED_NAMES:
        raise Refused("policy", f"more than {SIGNED_NAMES} names in h=")


def _text(octets: bytes) -> str:
    return octets.decode("utf-8", "surrogateescape")


def _decoded(octets: bytes) -> bytes:
    try:
        return base64.b64decode(b"".join(octets.split()), validate=True)
    except binascii.Error as wrong:
        raise Refused("permerror", "a value is not base64") from wrong


def check_body(signature: Signature, message: Message) -> int:
    """How many octets of the body the signature leaves unsigned (l=). Raises Refused: the body is another."""
    relaxed = _canonicalization(signature.tags)[1] == b"relaxed"
    limit = int(signature.tags[b"l"]) if b"l" in signature.tags else None
    digest, octets = message.digest(relaxed=relaxed, limit=limit)
    if limit is not None and limit > octets:
        raise Refused("fail", "l= says more octets than the body has")
    if digest != _decoded(signature.tags[b"bh"]):
        raise Refused("fail", "the body is not what was signed")
    return 0 if limit is None else octets - limit


def _canonicalization(tags: Mapping[bytes, bytes]) -> tuple[bytes, bytes]:
    header, _, body = tags.get(b"c", b"simple/simple").partition(b"/")
    body = body or b"simple"
    if not {header, body} <= {b"simple", b"relaxed"}:
        raise Refused("permerror", "c= is malformed")
    return header, body


def check_fields(signature: Signature, names: Sequence[bytes], fields: Fields, key: Key) -> None:
    """Verify the signature over the fields called `names`, each name the lowest one left. Raises Refused."""
    verifier = dkim.DKIM()
    verifier.headers = fields
    verifier.pk, verifier.keysize, verifier.ktag = key.material, key.bits, key.kind
    # The body is ours: without bh= dkimpy looks at fields alone.
    tags = {name: value for name, value in signature.tags.items() if name not in (b"bh", b"l")}
    try:
        valid = verifier.verify_sig_process(tags, list(names), signature.field, None)
    except _FAULTS as wrong:
        raise Refused("fail", f"the signature does not fit its key: {plain(str(wrong))}") from wrong
    if not valid:
        raise Refused("fail", "the signed header fields were changed, or the key is another")


def signed_names(signature: Signature) -> list[bytes]:
    return [name.strip().lower() for name in signature.tags[b"h"].split(b":")]
