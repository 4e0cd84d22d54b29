"""The server's TLS context, and a self-signed pair for the first start.

Contract
    TLS 1.2 and 1.3 only (RFC 8996). The key is 0600 before it has content, and on disk before the certificate.
    A pair that exists, fits together and is not over is used again, whoever made it; else a new one is made.
"""

from __future__ import annotations

import logging
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from egressguard.store import durable

log = logging.getLogger(__name__)

CERTIFICATE = "certificate.pem"
PRIVATE_KEY = "private-key.pem"
VALID_DAYS = 3650
"""Nobody renews a self-signed pair; clients that trust it have pinned it."""
_COMMON_NAME_CHARACTERS = 64  # X.520's upper bound


def server_context(certificate: Path, private_key: Path) -> ssl.SSLContext:
    """Raises OSError (ssl.SSLError among them) when the pair cannot be read or does not fit together."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.load_cert_chain(certificate, private_key)
    return context


def ensure_certificate(directory: Path, hostname: str, now: datetime) -> tuple[Path, Path]:
    """(certificate, private key) in `directory`, made if need be. `now` has a time zone. Raises OSError."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    certificate, private_key = directory / CERTIFICATE, directory / PRIVATE_KEY
    if not _usable(certificate, private_key, now):
        key = ec.generate_private_key(ec.SECP256R1())
        durable.put(private_key, _key_pem(key), mode=0o600)
        durable.put(certificate, _self_signed(key, hostname, now), mode=0o644)
        log.info("a self-signed certificate was made", extra={"fields": {"hostname": hostname}})
    return certificate, private_key


def _usable(certificate: Path, private_key: Path, now: datetime) -> bool:
    if not (certificate.exists() and private_key.exists()):
        return False
    try:
        server_context(certificate, private_key)
        found = x509.load_pem_x509_certificate(certificate.read_bytes())
    except (ssl.SSLError, ValueError):
        return False
    return found.not_valid_after_utc > now.astimezone(UTC)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _self_signed(key: ec.EllipticCurvePrivateKey, hostname: str, now: datetime) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hostname[:_COMMON_NAME_CHARACTERS])])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))  # clients' clocks
        .not_valid_after(now + timedelta(days=VALID_DAYS))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(hostname)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    )
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
