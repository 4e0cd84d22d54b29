"""Names in certificates, contexts that are kept, and what goes wrong in the words of reports."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

import pytest

from egressguard.smtp.certificates import Asked, OwnCertificate, carries_name, client_context, trouble_of
from tests.tls.certificates import Certificate, issue


@pytest.mark.parametrize(
    ("carried", "wanted", "is_so"),
    [
        ("mx.example.org", "mx.example.org", True),
        ("MX.Example.ORG", "mx.example.org.", True),
        ("mx.example.org", "example.org", False),
        ("mx.example.org", ".example.org", True),
        ("example.org", ".example.org", False),
        ("mx.notexample.org", ".example.org", False),
        ("*.example.org", "mx.example.org", True),
        ("*.example.org", "a.mx.example.org", False),
        ("*.example.org", "example.org", False),
        ("*.example.org", ".example.org", True),
        ("*.org", ".example.org", False),
        ("*.mx.example.org", ".example.org", True),
        ("m*.example.org", "mx.example.org", False),
        ("*", "example", False),
    ],
)
def test_names(carried: str, wanted: str, is_so: bool) -> None:
    assert carries_name({"subjectAltName": (("DNS", carried),)}, [wanted]) == is_so


def test_a_certificate_without_names_has_none() -> None:
    assert not carries_name({"subject": ((("commonName", "mx.example.org"),),)}, ["mx.example.org"])


def test_there_is_no_tls_before_1_2() -> None:
    assert client_context(Asked()).minimum_version == ssl.TLSVersion.TLSv1_2


@pytest.mark.parametrize("verify", [False, True])
def test_what_is_asked_is_what_the_context_does(tmp_path: Path, verify: bool) -> None:
    context = client_context(Asked(verify, verify, str(_file(tmp_path / "ca", issue(["ca"], ca=True)))))
    assert context.verify_mode == (ssl.CERT_REQUIRED if verify else ssl.CERT_NONE)
    assert context.check_hostname == verify


def test_a_context_is_kept_until_its_file_changes(tmp_path: Path) -> None:
    ca = _file(tmp_path / "ca", issue(["ca"], ca=True))
    asked = Asked(verify=True, check_name=True, ca_file=str(ca))
    first = client_context(asked)
    assert client_context(asked) is first
    _file(tmp_path / "new", issue(["other"], ca=True)).replace(ca)
    assert client_context(asked) is not first


@pytest.mark.parametrize("content", [None, b"rubbish"])
def test_a_file_that_cannot_be_used_is_an_error(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "ca"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(OSError, match=r"."):
        client_context(Asked(verify=True, ca_file=str(path)))
    with pytest.raises(OSError, match=r"."):
        client_context(Asked(ours=OwnCertificate(str(path), str(path))))


def test_a_key_with_a_pass_phrase_does_not_ask_the_terminal(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization

    certificate = issue(["gw.example.org"])
    pem, key = _file(tmp_path / "pem", certificate), tmp_path / "key"
    secret = serialization.BestAvailableEncryption(b"secret")
    key.write_bytes(
        certificate.key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, secret)
    )
    with pytest.raises(OSError, match=r"."):
        client_context(Asked(ours=OwnCertificate(os.fspath(pem), os.fspath(key))))


@pytest.mark.parametrize(
    ("code", "word"),
    [
        (10, "certificate-expired"),
        (9, "certificate-expired"),
        (62, "certificate-host-mismatch"),
        (18, "certificate-not-trusted"),
        (20, "certificate-not-trusted"),
    ],
)
def test_troubles_have_the_words_of_reports(code: int, word: str) -> None:
    wrong = ssl.SSLCertVerificationError("no")
    wrong.verify_code = code
    around = ValueError("around it")
    around.__cause__ = wrong
    assert trouble_of(wrong) == trouble_of(around) == word
    assert trouble_of(ConnectionResetError()) == "validation-failure"


def _file(path: Path, certificate: Certificate) -> Path:
    path.write_bytes(certificate.pem)
    return path
