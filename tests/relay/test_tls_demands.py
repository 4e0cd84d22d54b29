"""What is demanded of a host: each level of the rules against each thing that a domain may have published."""

from __future__ import annotations

from typing import Any

import pytest

from egressguard.policy.model import TlsRule
from egressguard.policy.smart_host import ClientCertificate
from egressguard.relay.route import Answer
from egressguard.relay.sts_policy import StsPolicy
from egressguard.relay.tls_demands import Known, Refused, demand
from egressguard.smtp.certificates import OwnCertificate
from egressguard.smtp.dane import Tlsa
from egressguard.smtp.dial import Peer

HOST = Peer("mx.example.net", ("192.0.2.1",), 25)
EE, TA, PKIX = Tlsa(3, 1, 1, bytes(32)), Tlsa(2, 0, 1, bytes(32)), Tlsa(1, 1, 1, bytes(32))
ENFORCE = StsPolicy("enforce", 86400, ("mx.example.net",))
ELSEWHERE = StsPolicy("enforce", 86400, ("mx.elsewhere.example",))
TESTING = StsPolicy("testing", 86400, ("mx.example.net",))
NONE = StsPolicy("none", 86400)

NOTHING: dict[str, Any] = {}
HAS_EE = {"certain": True, "tlsa": Answer.FOUND, "records": (EE,), "base": "mx.example.net"}
HAS_TA = HAS_EE | {"records": (TA,)}
UNUSABLE = HAS_EE | {"records": (PKIX,)}
FAILED = {"certain": True, "tlsa": Answer.FAILED}


def demanded(level: str, known: dict[str, Any], *, requiretls: bool = False, **rule: Any) -> Peer | Refused:
    made = TlsRule(name="r", level=level, **rule)  # type: ignore[arg-type]
    return demand(HOST, made, Known("example.net", **known), requiretls=requiretls)


def words(found: Peer | Refused) -> str:
    return found.tls if isinstance(found, Peer) else f"{found.outcome.status} {found.trouble}"


@pytest.mark.parametrize(
    ("level", "known", "wanted"),
    [
        ("none", HAS_EE | {"sts": ENFORCE}, "none"),
        ("opportunistic", HAS_EE | {"sts": ENFORCE}, "opportunistic"),
        ("encrypt", HAS_EE, "encrypt"),
        ("verify", NOTHING, "starttls"),
        ("secure", NOTHING, "starttls"),
        ("dane", NOTHING, "opportunistic"),
        ("dane", HAS_EE, "dane"),
        ("dane", HAS_TA, "dane"),
        ("dane", UNUSABLE, "encrypt"),
        ("dane", FAILED, "4.7.5 dnssec-invalid"),
        ("dane", {"sts": ENFORCE}, "opportunistic"),
        ("dane-only", HAS_EE, "dane"),
        ("dane-only", NOTHING, "4.7.5 dane-required"),
        ("dane-only", UNUSABLE, "4.7.5 dane-required"),
        ("dane-only", FAILED, "4.7.5 dnssec-invalid"),
        ("published", NOTHING, "opportunistic"),
        ("published", HAS_EE, "dane"),
        ("published", UNUSABLE, "encrypt"),
        ("published", FAILED, "4.7.5 dnssec-invalid"),
        ("published", {"sts": ENFORCE}, "starttls"),
        ("published", {"sts": ELSEWHERE}, "4.7.5 validation-failure"),
        ("published", {"sts": TESTING}, "opportunistic"),
        ("published", {"sts": NONE}, "opportunistic"),
        ("published", HAS_EE | {"sts": ENFORCE}, "dane"),
        ("published", HAS_EE | {"sts": ELSEWHERE}, "dane"),
        ("published", FAILED | {"sts": ENFORCE}, "4.7.5 dnssec-invalid"),
        ("published", UNUSABLE | {"sts": ENFORCE}, "starttls"),
        ("published", UNUSABLE | {"sts": TESTING}, "encrypt"),
    ],
)
def test_what_a_level_demands(level: str, known: dict[str, Any], wanted: str) -> None:
    assert words(demanded(level, known)) == wanted


@pytest.mark.parametrize(
    ("level", "known", "wanted"),
    [
        ("published", NOTHING, "5.7.10 validation-failure"),
        ("opportunistic", NOTHING, "5.7.10 validation-failure"),
        ("encrypt", NOTHING, "5.7.10 validation-failure"),
        ("verify", NOTHING, "5.7.10 validation-failure"),
        ("none", {"certain": True}, "5.7.10 validation-failure"),
        ("secure", NOTHING, "starttls"),
        ("published", HAS_EE, "dane"),
        ("published", {"certain": True}, "starttls"),
        ("opportunistic", {"certain": True}, "starttls"),
        ("encrypt", {"certain": True}, "starttls"),
        ("verify", {"certain": True}, "starttls"),
        ("published", UNUSABLE, "starttls"),
        ("published", {"sts": ENFORCE}, "starttls"),
        ("published", {"sts": TESTING}, "starttls"),
        ("published", {"sts": NONE}, "5.7.10 validation-failure"),
        ("published", FAILED, "4.7.5 dnssec-invalid"),
        ("dane-only", {"certain": True}, "4.7.5 dane-required"),
    ],
)
def test_requiretls_demands_a_host_that_is_certain(level: str, known: dict[str, Any], wanted: str) -> None:
    assert words(demanded(level, known, requiretls=True)) == wanted


@pytest.mark.parametrize(
    ("level", "known", "more", "names"),
    [
        ("verify", NOTHING, {}, ()),
        ("verify", NOTHING, {"names": ("a.example",)}, ("a.example",)),
        ("secure", NOTHING, {}, ("example.net", ".example.net")),
        ("secure", NOTHING, {"names": ("a.example",)}, ("a.example",)),
        ("published", {"sts": ENFORCE}, {}, ()),
        ("published", HAS_EE, {}, ()),
        ("published", HAS_TA, {}, ("mx.example.net", "example.net")),
        ("published", HAS_TA | {"base": "real.example.net"}, {}, ("real.example.net", "example.net")),
    ],
)
def test_the_names_that_a_certificate_must_carry(
    level: str, known: dict[str, Any], more: dict[str, Any], names: tuple[str, ...]
) -> None:
    found = demanded(level, known, **more)
    assert isinstance(found, Peer) and found.names == names


def test_a_host_is_called_by_the_name_that_has_the_records() -> None:
    found = demanded("published", HAS_EE | {"base": "real.example.net"})
    assert isinstance(found, Peer) and (found.name, found.server_name) == ("mx.example.net", "real.example.net")


def test_files_of_a_rule_reach_the_peer() -> None:
    files = ClientCertificate(certificate="/c", private_key="/k")
    found = demanded("verify", NOTHING, ca_file="/ca", client_certificate=files)
    assert isinstance(found, Peer) and (found.ca_file, found.ours) == ("/ca", OwnCertificate("/c", "/k"))


@pytest.mark.parametrize(
    ("policy", "trial", "fault"),
    [(TESTING, True, ""), (StsPolicy("testing", 1, ("a.example",)), False, "validation-failure"), (NONE, False, "")],
)
def test_a_policy_in_testing_is_tried_and_told_of(policy: StsPolicy, trial: bool, fault: str) -> None:
    found = demanded("published", {"sts": policy})
    assert isinstance(found, Peer) and found.terms is not None
    assert (found.trial, found.terms.fault) == (trial, fault)
