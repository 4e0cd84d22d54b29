"""Private keys to sign with: made, read, kept, and what DNS has to say of them (RFC 6376 s3.6.1, RFC 8301, RFC 8463).

Contract
    A key file is PEM without a password: RSA of 1024 to 4096 bits, or Ed25519. Anything else is KeyTrouble.
    What was read is kept until `forget`; what could not be read is tried anew for whoever asks next.
    No word that leaves here has anything of a private key in it.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, padding, rsa

FILE_OCTETS = 64 * 1024
RSA_BITS = 2048
"""RFC 8301 s3.2: at least 1024, better 2048; a longer one does not fit one string of a TXT record well."""
BITS_READ = range(1024, 4096 + 1)

Algorithm = Literal["rsa-sha256", "ed25519-sha256"]


class KeyTrouble(OSError):
    """A key cannot be used: the mail that wants it has to wait."""


@dataclass(frozen=True)
class SigningKey:
    private: rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey

    @cached_property
    def algorithm(self) -> Algorithm:
        return "rsa-sha256" if isinstance(self.private, rsa.RSAPrivateKey) else "ed25519-sha256"

    @property
    def bits(self) -> int:
        return self.private.key_size if isinstance(self.private, rsa.RSAPrivateKey) else 256

    def sign(self, octets: bytes) -> bytes:
        if isinstance(self.private, rsa.RSAPrivateKey):
            return self.private.sign(octets, padding.PKCS1v15(), hashes.SHA256())
        return self.private.sign(hashlib.sha256(octets).digest())  # RFC 8463 s3: the hash is what is signed

    @cached_property
    def public(self) -> str:
        """p= of the key record, base64."""
        public = self.private.public_key()
        if isinstance(public, ed25519.Ed25519PublicKey):
            return base64.b64encode(public.public_bytes_raw()).decode()
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        return base64.b64encode(public.public_bytes(serialization.Encoding.DER, form)).decode()

    @property
    def record(self) -> str:
        """The text of the TXT record."""
        return f"v=DKIM1; k={self.algorithm.partition('-')[0]}; p={self.public}"

    @property
    def pem(self) -> bytes:
        form = serialization.PrivateFormat.PKCS8
        return self.private.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())


def make_key(kind: Literal["rsa", "ed25519"], bits: int = RSA_BITS) -> SigningKey:
    if kind == "ed25519":
        return SigningKey(ed25519.Ed25519PrivateKey.generate())
    return SigningKey(rsa.generate_private_key(65537, bits))


def read_key(path: Path) -> SigningKey:
    """Blocks, some milliseconds. Raises KeyTrouble."""
    try:
        with path.open("rb") as file:
            pem = file.read(FILE_OCTETS)
        private = serialization.load_pem_private_key(pem, password=None)
    except OSError as wrong:
        raise KeyTrouble(f"{path}: {wrong.strerror}") from wrong
    except (ValueError, TypeError, UnsupportedAlgorithm) as wrong:
        raise KeyTrouble(f"{path} is no private key in PEM without a password") from wrong
    if isinstance(private, ed25519.Ed25519PrivateKey):
        return SigningKey(private)
    if not isinstance(private, rsa.RSAPrivateKey):
        raise KeyTrouble(f"{path}: neither an RSA nor an Ed25519 key")
    if private.key_size not in BITS_READ:
        raise KeyTrouble(f"{path}: an RSA key of {private.key_size} bits")
    return SigningKey(private)


class KeyRing:
    """The keys below one directory, by their references ("file:NAME")."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._kept: dict[str, SigningKey] = {}

    def forget(self) -> None:
        """Files may have changed: each is read again when it is asked for."""
        self._kept = {}

    async def key(self, reference: str) -> SigningKey:
        """Raises KeyTrouble."""
        found = self._kept.get(reference)
        if found is None:
            kept = self._kept  # of before a `forget` that comes meanwhile
            found = await asyncio.to_thread(read_key, self.path(reference))
            kept[reference] = found
        return found

    def path(self, reference: str) -> Path:
        return self._directory / reference.removeprefix("file:")
