"""Does the chain that a server presented match what TLSA records say of it (RFC 6698, RFC 7671, RFC 7672)? Pure.

Contract
    DANE-EE(3): the server's own certificate or key, whatever its names and dates say (RFC 7671 s5.1).
    DANE-TA(2): valid certificates lead from the server's to the one that matches, and the server's has one of `names`.
    All other usages, selectors and matching types are unusable, and so is a digest of the wrong length (RFC 7672 s3.1).
    One record that matches is enough. A chain or a certificate that cannot be understood matches nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import verification

DANE_TA, DANE_EE = 2, 3
_CERTIFICATE, _KEY = 0, 1
_DIGESTS = {1: hashlib.sha256, 2: hashlib.sha512}
_DIGEST_OCTETS = {1: 32, 2: 64}

CHAIN_CERTIFICATES = 10
"""What a server sends beyond that is not looked at."""
ANCHORS = 6
"""Each can cost 12 ms and name, if whoever made the chain wants it to; `cryptography` bounds it there."""

_UNREADABLE = (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion)


@dataclass(frozen=True, slots=True)
class Tlsa:
    """One record, as RFC 6698 s2.1 has it."""

    usage: int
    selector: int
    matching: int
    data: bytes

    def __str__(self) -> str:
        return f"{self.usage} {self.selector} {self.matching} {self.data.hex()}"

    @property
    def is_usable(self) -> bool:
        if self.usage not in {DANE_TA, DANE_EE} or self.selector not in {_CERTIFICATE, _KEY} or not self.data:
            return False
        return self.matching == 0 or len(self.data) == _DIGEST_OCTETS.get(self.matching)

    def is_of(self, certificate: bytes) -> bool:
        octets = certificate if self.selector == _CERTIFICATE else _key_of(certificate)
        digest = _DIGESTS.get(self.matching)
        return octets is not None and (digest(octets).digest() if digest else octets) == self.data


def strongest(records: Iterable[Tlsa]) -> tuple[Tlsa, ...]:
    """The usable records; beside a SHA-512 digest one of SHA-256 for the same use does not count (RFC 7671 s9)."""
    usable = [record for record in records if record.is_usable]
    best: dict[tuple[int, int], int] = {}
    for record in usable:
        use = (record.usage, record.selector)
        best[use] = max(best.get(use, 0), record.matching)
    return tuple(r for r in usable if r.matching in {0, best[r.usage, r.selector]})


def matches(records: Sequence[Tlsa], presented: Sequence[bytes], names: Sequence[str], now: datetime) -> bool:
    """`presented`: DER, the server's own certificate first. `now` has a time zone."""
    chain = presented[:CHAIN_CERTIFICATES]
    if any(record.is_of(chain[0]) for record in records if chain and record.usage == DANE_EE):
        return True
    anchors = _anchors([record for record in records if record.usage == DANE_TA], chain[1:])
    return any(_leads_to(anchor, chain, name, now) for anchor in islice(anchors, ANCHORS) for name in names)


def _anchors(records: Sequence[Tlsa], issuers: Sequence[bytes]) -> Iterator[bytes]:
    """Those of the server's issuers that match; and a whole certificate in a record, which the server may leave out."""
    for record in records:
        yield from (issuer for issuer in issuers if record.is_of(issuer))
        if (record.selector, record.matching) == (_CERTIFICATE, 0):
            yield record.data


def _leads_to(anchor: bytes, chain: Sequence[bytes], name: str, now: datetime) -> bool:
    """No root of the Web counts here, and no rule of its certificate authorities but those of RFC 5280."""
    try:
        end, *issuers = (x509.load_der_x509_certificate(der) for der in chain)
        store = verification.Store([x509.load_der_x509_certificate(anchor)])
        _policy(store, now).build_server_verifier(x509.DNSName(name)).verify(end, issuers)
    except (verification.VerificationError, *_UNREADABLE):
        return False
    return True


def _policy(store: verification.Store, now: datetime) -> verification.PolicyBuilder:
    every = verification.ExtensionPolicy.permit_all()
    agnostic = verification.Criticality.AGNOSTIC
    return (
        verification.PolicyBuilder()
        .store(store)
        .time(now)
        .extension_policies(
            ee_policy=every.require_present(x509.SubjectAlternativeName, agnostic, None),
            ca_policy=every.require_present(x509.BasicConstraints, agnostic, _must_be_ca),
        )
    )


def _must_be_ca(
    _policy: verification.Policy, _certificate: x509.Certificate, constraints: x509.BasicConstraints
) -> None:
    if not constraints.ca:
        raise ValueError("not the certificate of an authority")


def _key_of(certificate: bytes) -> bytes | None:
    try:
        key = x509.load_der_x509_certificate(certificate).public_key()
        return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except _UNREADABLE:
        return None
