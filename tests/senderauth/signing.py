"""Keys and signed messages: dkimpy signs what the tests verify; ARC sets are put together field by field."""

from __future__ import annotations

import base64
import hashlib
import secrets
from functools import cache

import dkim
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from nacl.signing import SigningKey

MESSAGE = (
    b"From: Anna <anna@sender.example>\r\nTo: bert@site.example\r\nSubject: Hello  there\r\n"
    b"Date: Mon, 23 Nov 2026 12:00:00 +0000\r\nMessage-ID: <1@sender.example>\r\n\r\n"
    b"Hello Bert,\r\n\r\nthis  is all. \r\n\r\nAnna\r\n"
)


@cache
def rsa_key(bits: int = 2048, exponent: int = 65537) -> tuple[bytes, str]:
    """(PEM as dkimpy takes it, key record)."""
    key = rsa.generate_private_key(exponent, bits) if bits >= 1024 else _short_key(bits)
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return pem, f"v=DKIM1; k=rsa; p={base64.b64encode(public).decode()}"


def _short_key(bits: int) -> rsa.RSAPrivateKey:
    """A key that nobody makes any more, so that it has to be put together."""
    p, q = _prime(bits // 2), _prime(bits // 2)
    d = pow(65537, -1, (p - 1) * (q - 1))
    public = rsa.RSAPublicNumbers(65537, p * q)
    return rsa.RSAPrivateNumbers(p, q, d, d % (p - 1), d % (q - 1), pow(q, -1, p), public).private_key()


def _prime(bits: int) -> int:
    while True:
        number = secrets.randbits(bits) | 3 << (bits - 2) | 1
        if number % 65537 != 1 and all(pow(base, number - 1, number) == 1 for base in (2, 3, 5, 7, 11)):
            return number


@cache
def ed25519_key() -> tuple[bytes, str]:
    key = SigningKey.generate()
    public = base64.b64encode(bytes(key.verify_key)).decode()
    return base64.b64encode(bytes(key)), f"v=DKIM1; k=ed25519; p={public}"


def txt(name: str, text: str) -> str:
    """A line of a zone file: strings of at most 255 octets."""
    pieces = [text[at : at + 255] for at in range(0, len(text), 255)] or [""]
    quoted = " ".join('"' + piece.replace("\\", "\\\\").replace('"', '\\"') + '"' for piece in pieces)
    return f"{name}. 300 TXT {quoted}\n"


def signed(
    content: bytes = MESSAGE,
    *,
    domain: str = "sender.example",
    selector: str = "s1",
    pem: bytes | None = None,
    algorithm: str = "rsa-sha256",
    canonical: str = "relaxed/relaxed",
    length: bool = False,
    **options: object,
) -> bytes:
    """`content` with a DKIM-Signature on top."""
    if pem is None:
        pem = ed25519_key()[0] if algorithm.startswith("ed25519") else rsa_key()[0]
    signer = dkim.DKIM(content, signature_algorithm=algorithm.encode(), minkey=1)
    header, body = canonical.encode().split(b"/")
    field = signer.sign(selector.encode(), domain.encode(), pem, canonicalize=(header, body), length=length, **options)
    return bytes(field) + content


def retagged(content: bytes, **tags: str) -> bytes:
    """The topmost DKIM-Signature signed anew with other tags (None = the signer's own): as a hostile signer might."""
    signer = dkim.DKIM(content)
    fields = {
        b"v": b"1", b"a": b"rsa-sha256", b"c": b"relaxed/relaxed", b"d": b"sender.example", b"s": b"s1",
        b"h": b"from:to:subject:date",
        b"bh": base64.b64encode(_body_hash(content)),
        **{name.encode(): value.encode() for name, value in tags.items()},
    }  # fmt: skip
    fields = {name: value for name, value in fields.items() if value}
    names = [name.strip().lower() for name in fields.get(b"h", b"from").split(b":")]
    return _sealed(signer, b"DKIM-Signature", fields, names) + content


def arc_set(content: bytes, instance: int, *, domain: str, cv: str | None = None, results: str = "spf=pass") -> bytes:
    """`content` with one more ARC set on top (RFC 8617 s5.1), made by `domain` with selector "arc"."""
    number = str(instance).encode()
    aar = b"ARC-Authentication-Results: i=%d; %s; %s\r\n" % (instance, domain.encode(), results.encode())
    common = {b"i": number, b"a": b"rsa-sha256", b"d": domain.encode(), b"s": b"arc"}
    signer = dkim.ARC(aar + content)
    ams = _sealed(
        signer,
        b"ARC-Message-Signature",
        {**common, b"c": b"relaxed/relaxed", b"h": b"from:to:subject", b"bh": base64.b64encode(_body_hash(content))},
        [b"from", b"to", b"subject"],
    )
    whole = ams + aar + content
    verdict = cv or ("none" if instance == 1 else "pass")
    sealer = dkim.ARC(whole)
    names = [b"arc-authentication-results", b"arc-message-signature", b"arc-seal"] * instance
    return _sealed(sealer, b"ARC-Seal", {**common, b"cv": verdict.encode()}, names[:-1]) + whole


def _sealed(signer: dkim.DKIM, name: bytes, fields: dict[bytes, bytes], names: list[bytes]) -> bytes:
    signer.hasher = hashlib.sha256
    policy = dkim.CanonicalizationPolicy.from_c_value(b"relaxed/relaxed")
    pairs = [*fields.items(), (b"b", b"0" * 60)]
    value = signer.gen_header(pairs, names, policy, name, dkim.parse_pem_private_key(rsa_key()[0]))
    return name + b": " + bytes(value)


def _body_hash(content: bytes) -> bytes:
    body = dkim.RelaxedCanonicalization.canonicalize_body(content.partition(b"\r\n\r\n")[2])
    return hashlib.sha256(body).digest()
