"""Keys: what is made can be read and verified with, what cannot be used says so, and nothing tells a private key."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Literal

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from egressguard.senderauth.key_record import parse_key
from egressguard.senderauth.sign_keys import KeyRing, KeyTrouble, SigningKey, make_key, read_key
from tests.senderauth.signing import rsa_key


@pytest.mark.parametrize(("kind", "bits"), [("rsa", 2048), ("ed25519", 256)])
def test_a_key_that_is_made_is_read_and_published(tmp_path: Path, kind: Literal["rsa", "ed25519"], bits: int) -> None:
    key, path = make_key(kind), tmp_path / "key"
    path.write_bytes(key.pem)
    again = read_key(path)
    assert (again.record, again.algorithm, again.bits) == (key.record, f"{kind}-sha256", bits)
    assert parse_key((key.record.encode(),), again.algorithm.encode()).bits == bits


def test_a_key_of_other_programs_is_read(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(rsa_key()[0])  # PKCS #1, as opendkim-genkey writes it
    assert read_key(tmp_path / "key").record == rsa_key()[1]


def _pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, password: bytes = b"") -> bytes:
    how = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, how)


@pytest.mark.parametrize(
    ("octets", "why"),
    [
        (None, "No such file"),
        (b"", "no private key"),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "no private key"),
        (rsa_key()[1].encode(), "no private key"),
        (_pem(ec.generate_private_key(ec.SECP256R1())), "neither"),
        (_pem(rsa.generate_private_key(65537, 2048), b"secret"), "without a password"),
        (rsa_key(768)[0], "768 bits"),
    ],
    ids=["missing", "empty", "rubbish", "public", "another kind", "with a password", "short"],
)
def test_what_is_no_key_is_trouble(tmp_path: Path, octets: bytes | None, why: str) -> None:
    if octets is not None:
        (tmp_path / "key").write_bytes(octets)
    with pytest.raises(KeyTrouble, match=why):
        read_key(tmp_path / "key")


def test_the_ring_keeps_what_it_read_and_tries_again_what_it_could_not(tmp_path: Path) -> None:
    async def story() -> None:
        ring, one, other = KeyRing(tmp_path), make_key("ed25519"), make_key("ed25519")
        with pytest.raises(KeyTrouble):
            await ring.key("file:key")
        (tmp_path / "key").write_bytes(one.pem)
        assert (await ring.key("file:key")).record == one.record
        (tmp_path / "key").write_bytes(other.pem)
        assert (await ring.key("file:key")).record == one.record
        ring.forget()
        assert (await ring.key("file:key")).record == other.record

    asyncio.run(story())


def test_words_about_a_key_have_nothing_of_it() -> None:
    key = make_key("ed25519")
    secret = key.private.private_bytes_raw().hex()  # type: ignore[union-attr]
    assert isinstance(key, SigningKey) and secret not in repr(key) and secret not in key.record
