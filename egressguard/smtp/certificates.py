"""Contexts for TLS with other hosts, and what the certificate they presented says.

Contract
    TLS 1.2 and 1.3 only (RFC 8996), with the library's ciphers: there is no key to weaken them.
    A context is kept until the files that it was made from change: to read the system's authorities takes 30 ms.
"""

from __future__ import annotations

import functools
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CONTEXTS = 64


@dataclass(frozen=True, slots=True)
class OwnCertificate:
    """PEM files that show a host who we are."""

    certificate: str
    private_key: str


@dataclass(frozen=True, slots=True)
class Asked:
    """What a context is for. `verify`: the chain leads to an authority of `ca_file` (None = the system's).

    `check_name`: OpenSSL compares the names; else whoever asked does."""

    verify: bool = False
    check_name: bool = False
    ca_file: str | None = None
    ours: OwnCertificate | None = None

    @property
    def files(self) -> tuple[str, ...]:
        ours = (self.ours.certificate, self.ours.private_key) if self.ours else ()
        return (*_authorities(self), *ours)


def client_context(asked: Asked) -> ssl.SSLContext:
    """Raises OSError (ssl.SSLError among them) when a file cannot be used."""
    return _made(asked, tuple(_stamp(name) for name in asked.files))


def _authorities(asked: Asked) -> tuple[str, ...]:
    if not asked.verify:
        return ()
    system = ssl.get_default_verify_paths()
    return (asked.ca_file,) if asked.ca_file else tuple(path for path in (system.cafile, system.capath) if path)


def _stamp(name: str) -> tuple[int, int, int]:
    status = Path(name).stat()
    return status.st_mtime_ns, status.st_size, status.st_ino


@functools.lru_cache(CONTEXTS)
def _made(asked: Asked, _stamps: tuple[tuple[int, int, int], ...]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = asked.check_name
    context.verify_mode = ssl.CERT_REQUIRED if asked.verify else ssl.CERT_NONE
    if asked.verify and asked.ca_file:
        context.load_verify_locations(cafile=asked.ca_file)
    elif asked.verify:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    if asked.ours:
        # Never a prompt for a pass phrase on the gateway's terminal.
        context.load_cert_chain(asked.ours.certificate, asked.ours.private_key, password=lambda: b"")
    return context


def presented(connection: Any) -> list[bytes]:
    """The chain as the server sent it (DER), its own certificate first. `connection` is an ssl.SSLObject."""
    if hasattr(connection, "get_unverified_chain"):  # Python 3.13
        return list(connection.get_unverified_chain())
    from _ssl import ENCODING_DER  # noqa: PLC0415 -- only the older Pythons need it

    return [each.public_bytes(ENCODING_DER) for each in connection._sslobj.get_unverified_chain() or ()]


def carries_name(certificate: dict[str, Any], wanted: Sequence[str]) -> bool:
    """Whether a verified certificate has one of the names: "mx.example.org", or ".example.org" for all below it."""
    carried = [value.lower() for kind, value in certificate.get("subjectAltName", ()) if kind == "DNS"]
    return any(_is_named(name.lower().rstrip("."), each) for name in wanted for each in carried)


def _is_named(wanted: str, carried: str) -> bool:
    if wanted.startswith("."):
        return carried.removeprefix("*").endswith(wanted) if carried.startswith("*.") else carried.endswith(wanted)
    if carried.startswith("*."):  # RFC 6125 s6.4.3: the asterisk is one whole label, and the leftmost
        return wanted.partition(".")[2] == carried[2:]
    return wanted == carried


def trouble_of(wrong: BaseException) -> str:
    """What went wrong with TLS, in the words of RFC 8460 s4.3."""
    code = getattr(_verification(wrong), "verify_code", None)
    if code is None:
        return "validation-failure"
    return _TROUBLES.get(code, "certificate-not-trusted")


_TROUBLES = {9: "certificate-expired", 10: "certificate-expired", 62: "certificate-host-mismatch"}
"""X.509 verification errors of OpenSSL; the others are about authorities and signatures."""


def _verification(wrong: BaseException | None) -> ssl.SSLCertVerificationError | None:
    while wrong is not None and not isinstance(wrong, ssl.SSLCertVerificationError):
        wrong = wrong.__cause__ or wrong.__context__
    return wrong
