"""Certificates as hosts have them: from an authority of the tests' own, self-signed, expired, for another name."""

from __future__ import annotations

import datetime
import functools
import hashlib
import ssl
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

DAY = datetime.timedelta(days=1)
_DER, _PEM = serialization.Encoding.DER, serialization.Encoding.PEM
Key = ec.EllipticCurvePrivateKey


@dataclass(frozen=True)
class Certificate:
    """`chain` is what a server sends behind it."""

    own: x509.Certificate
    key: Key
    chain: tuple[x509.Certificate, ...] = ()

    @property
    def der(self) -> bytes:
        return self.own.public_bytes(_DER)

    @property
    def presented(self) -> list[bytes]:
        return [each.public_bytes(_DER) for each in (self.own, *self.chain)]

    @property
    def pem(self) -> bytes:
        return b"".join(each.public_bytes(_PEM) for each in (self.own, *self.chain))

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())

    def tlsa(self, usage: int, selector: int, matching: int) -> str:
        """The record that matches it, as a zone file has it."""
        spki = self.own.public_key().public_bytes(_DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        octets = spki if selector else self.der
        digest = {1: hashlib.sha256, 2: hashlib.sha512}.get(matching)
        data = digest(octets).digest() if digest else octets
        return f"{usage} {selector} {matching} {data.hex()}"

    def server_context(self, *, tls_1_0: bool = False, asks: Path | None = None) -> ssl.SSLContext:
        """`asks`: the authority that clients' certificates must be of."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        with tempfile.TemporaryDirectory() as name:
            pem, key = Path(name) / "pem", Path(name) / "key"
            pem.write_bytes(self.pem)
            key.write_bytes(self.key_pem)
            context.load_cert_chain(pem, key)
        if tls_1_0:
            context.set_ciphers("ALL:@SECLEVEL=0")
            context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1
        if asks is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(asks)
        return context


def issue(
    names: Sequence[str] = (), by: Certificate | None = None, *, ca: bool = False, days: tuple[float, float] = (-1, 30)
) -> Certificate:
    """A certificate for `names`, by an authority or (None) self-signed, valid from one day to another from now on."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, (names[0] if names else "authority")[:64])])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(by.own.subject if by else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + days[0] * DAY)
        .not_valid_after(now + days[1] * DAY)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(n) for n in names]), critical=False)
    own = builder.sign(by.key if by else key, hashes.SHA256())
    return Certificate(own, key, (by.own, *by.chain) if by else ())


def reissue(of: Certificate, subject: str, issuer: str) -> Certificate:
    """An authority's certificate with the same key under other names, signed by that key."""
    subject_name, issuer_name = (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, n)]) for n in (subject, issuer))
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject_name)
        .issuer_name(issuer_name)
        .public_key(of.key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - DAY)
        .not_valid_after(now + DAY)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    )
    return Certificate(builder.sign(of.key, hashes.SHA256()), of.key)


@functools.cache
def authority(name: str = "authority") -> Certificate:
    return issue([name], ca=True)
