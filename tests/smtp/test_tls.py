"""The self-signed pair: made once, private, used again, replaced only when it cannot be used."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from prometheus_client import CollectorRegistry

from egressguard.smtp.server import SmtpServer
from egressguard.smtp.settings import SmtpSettings
from egressguard.smtp.tls import CERTIFICATE, PRIVATE_KEY, VALID_DAYS, ensure_certificate, server_context
from egressguard.store.draft import Draft
from tests.smtp.conftest import Remembering

NOW = datetime(2026, 11, 1, tzinfo=UTC)


def test_the_pair_is_private_names_the_host_and_is_used_again(tmp_path: Path) -> None:
    certificate, key = ensure_certificate(tmp_path / "tls", "gateway.example.org", NOW)
    assert key.stat().st_mode & 0o777 == 0o600
    found = x509.load_pem_x509_certificate(certificate.read_bytes())
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["gateway.example.org"]
    before = certificate.read_bytes(), key.read_bytes()
    ensure_certificate(tmp_path / "tls", "gateway.example.org", NOW)
    assert (certificate.read_bytes(), key.read_bytes()) == before


@pytest.mark.parametrize("lost", [CERTIFICATE, PRIVATE_KEY])
def test_half_a_pair_is_replaced(lost: str, tmp_path: Path) -> None:
    ensure_certificate(tmp_path, "gateway.example.org", NOW)
    (tmp_path / lost).unlink()
    server_context(*ensure_certificate(tmp_path, "gateway.example.org", NOW))


def test_a_crash_between_key_and_certificate_is_healed(tmp_path: Path) -> None:
    other = ensure_certificate(tmp_path / "other", "gateway.example.org", NOW)
    mine = ensure_certificate(tmp_path / "mine", "gateway.example.org", NOW)
    mine[1].write_bytes(other[1].read_bytes())
    server_context(*ensure_certificate(tmp_path / "mine", "gateway.example.org", NOW))


def test_a_certificate_that_is_over_is_replaced(tmp_path: Path) -> None:
    certificate, _ = ensure_certificate(tmp_path, "gateway.example.org", NOW)
    before = certificate.read_bytes()
    ensure_certificate(tmp_path, "gateway.example.org", NOW + timedelta(days=VALID_DAYS + 1))
    assert certificate.read_bytes() != before


def test_tls_older_than_1_2_is_not_offered(tmp_path: Path) -> None:
    context = server_context(*ensure_certificate(tmp_path, "gateway.example.org", NOW))
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2


def test_a_long_hostname_has_a_certificate_too(tmp_path: Path) -> None:
    server_context(*ensure_certificate(tmp_path, ".".join(["a" * 60] * 4), NOW))


def test_a_pair_that_does_not_fit_leaves_the_old_one_in_use(tmp_path: Path) -> None:
    old = ensure_certificate(tmp_path / "old", "old.example.org", NOW)
    new = ensure_certificate(tmp_path / "new", "new.example.org", NOW)
    context = server_context(*old)
    settings = SmtpSettings(hostname="gateway.example.org")
    server = SmtpServer(Remembering(), settings, context, None, CollectorRegistry(), lambda: Draft(tmp_path))
    with pytest.raises(ssl.SSLError):
        server.reload_certificate(new[0], old[1])
    assert presented(context) == "old.example.org"
    server.reload_certificate(*new)
    assert presented(context) == "new.example.org"


def presented(context: ssl.SSLContext) -> str:
    """The name a client sees, over memory instead of a socket."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = context.wrap_bio(to_server, to_client, server_side=True)
    client_context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client_context.check_hostname, client_context.verify_mode = False, ssl.CERT_NONE
    client = client_context.wrap_bio(to_client, to_server)
    for side in (client, server, client, server):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    octets = client.getpeercert(binary_form=True)
    assert octets is not None
    names = x509.load_der_x509_certificate(octets).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return names.value.get_values_for_type(x509.DNSName)[0]
