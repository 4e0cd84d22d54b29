"""The cells of the TLS matrix: what a domain has published, how its mail host behaves, what must come of it.

Domains of `signed.example` stand in a zone with DNSSEC, those of `open.example` in one without, those of
`bogus.example` in one that is signed wrongly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Certified = Literal["good", "expired", "mismatched", "self-signed", "next-hop", "no-anchor", "target"]
Starttls = Literal["offered", "stripped", "broken", "tls-1.0"]
Saw = Literal["tls", "plain", "nothing"]


@dataclass(frozen=True, eq=False)
class Cell:
    """`zone` is where the domain and its mail host are; `tlsa` the records of the host, by words of `records_of`.

    `sts` is the policy's mode; `listed`: it lists the host. `result` and `status` are what becomes of the recipient,
    `saw` what the mail host was sent: a message over TLS, one in plaintext, or none."""

    name: str
    result: str
    status: str
    saw: Saw
    zone: str = "signed.example"
    tlsa: Sequence[str] = ()
    certificate: Certified = "good"
    starttls: Starttls = "offered"
    sts: Literal["", "enforce", "testing", "none"] = ""
    listed: bool = True
    web: Literal["good", "mismatched", "redirect", "gone"] = "good"
    rule: Mapping[str, Any] = field(default_factory=dict)
    requiretls: bool = False
    offers_requiretls: bool = True
    mx_zone: str = ""
    alias: Literal["", "target", "original"] = ""
    second: bool = False
    broken_before: bool = False
    asks_for_certificate: bool = False

    @property
    def domain(self) -> str:
        return f"{self.name}.{self.zone}"

    @property
    def host(self) -> str:
        return f"mx.{self.name}.{self.mx_zone or self.zone}"


def delivered(name: str, saw: Saw = "tls", **more: Any) -> Cell:
    return Cell(name, "delivered", "2.0.0", saw, **more)


def later(name: str, status: str = "4.7.5", **more: Any) -> Cell:
    return Cell(name, "transient", status, "nothing", **more)


def bounced(name: str, status: str, **more: Any) -> Cell:
    return Cell(name, "permanent", status, "nothing", requiretls=True, **more)


CUT_OFF = "4.7.0"
"""A host that hangs up in the handshake says nothing of why."""
RULE_VERIFY = {"level": "verify", "ca_file": "CA"}
RULE_SECURE = {"level": "secure", "ca_file": "CA"}

DANE = (
    delivered("ee-key", tlsa=["own 3 1 1"], certificate="self-signed"),
    delivered("ee-certificate", tlsa=["own 3 0 2"], certificate="self-signed"),
    delivered("ee-whole", tlsa=["own 3 0 0"], certificate="self-signed"),
    delivered("ee-looks-at-no-name-or-date", tlsa=["own 3 1 1"], certificate="expired"),
    delivered("ee-rollover", tlsa=["other 3 1 1", "own 3 1 1"], certificate="self-signed"),
    delivered("ta", tlsa=["authority 2 0 1"]),
    delivered("ta-key", tlsa=["authority 2 1 1"]),
    delivered("ta-names-the-domain", tlsa=["authority 2 1 1"], certificate="next-hop"),
    later("ta-other-name", tlsa=["authority 2 0 1"], certificate="mismatched"),
    later("ta-expired", tlsa=["authority 2 0 1"], certificate="expired"),
    later("ta-not-sent", tlsa=["authority 2 1 1"], certificate="no-anchor"),
    delivered("ta-whole-in-dns", tlsa=["authority 2 0 0"], certificate="no-anchor"),
    later("ta-other", tlsa=["other-authority 2 0 1"]),
    later("wrong-tlsa", tlsa=["other 3 1 1"]),
    delivered("unusable", tlsa=["own 1 1 1"], certificate="self-signed"),
    later("unusable-stripped", "4.7.4", tlsa=["own 1 1 1"], starttls="stripped"),
    later("dane-stripped", "4.7.4", tlsa=["own 3 1 1"], starttls="stripped"),
    later("dane-broken", tlsa=["own 3 1 1"], starttls="broken"),
    later("dane-tls-1-0", CUT_OFF, tlsa=["own 3 1 1"], starttls="tls-1.0"),
    later("dane-broken-before", CUT_OFF, tlsa=["own 3 1 1"], starttls="tls-1.0", broken_before=True),
    later("bogus", "4.4.3", zone="bogus.example", tlsa=["own 3 1 1"]),
    later("tlsa-servfail", tlsa=["bogus"]),
    delivered("tlsa-servfail-of-the-first", tlsa=["bogus"], second=True),
    delivered("insecure-mx", zone="open.example", mx_zone="signed.example", tlsa=["other 3 1 1"]),
    delivered("insecure-host", mx_zone="open.example", tlsa=["other 3 1 1"]),
    delivered("alias", alias="target", tlsa=["own 3 1 1"], certificate="self-signed"),
    delivered("alias-by-its-own-name", alias="original", tlsa=["own 3 1 1"], certificate="self-signed"),
    later("alias-wrong-tlsa", alias="target", tlsa=["other 3 1 1"]),
    later("dane-only-without", rule={"level": "dane-only"}),
    delivered("dane-without", "plain", rule={"level": "dane"}, starttls="stripped"),
)

MTA_STS = (
    delivered("sts", sts="enforce"),
    later("sts-expired", sts="enforce", certificate="expired"),
    later("sts-mismatched", sts="enforce", certificate="mismatched"),
    later("sts-self-signed", sts="enforce", certificate="self-signed"),
    later("sts-stripped", "4.7.4", sts="enforce", starttls="stripped"),
    later("sts-broken", sts="enforce", starttls="broken"),
    later("sts-tls-1-0", CUT_OFF, sts="enforce", starttls="tls-1.0"),
    later("sts-not-listed", sts="enforce", listed=False),
    later("sts-insecure-zone", "4.7.4", zone="open.example", sts="enforce", starttls="stripped"),
    later("sts-does-not-save-dane", sts="enforce", tlsa=["other 3 1 1"]),
    delivered("sts-is-not-asked-of-dane", sts="enforce", tlsa=["own 3 1 1"], certificate="self-signed"),
    delivered("testing-expired", sts="testing", certificate="expired"),
    delivered("testing-stripped", "plain", sts="testing", starttls="stripped"),
    delivered("testing-not-listed", "plain", sts="testing", listed=False, starttls="stripped"),
    delivered("sts-none", "plain", sts="none", starttls="stripped"),
    delivered("sts-other-web-server", "plain", sts="enforce", web="mismatched", starttls="stripped"),
    delivered("sts-redirected", "plain", sts="enforce", web="redirect", starttls="stripped"),
    delivered("sts-gone", "plain", sts="enforce", web="gone", starttls="stripped"),
)

OPPORTUNISTIC = (
    delivered("nothing"),
    delivered("nothing-expired", certificate="expired"),
    delivered("nothing-stripped", "plain", starttls="stripped"),
    delivered("nothing-broken", "plain", starttls="broken"),
    delivered("nothing-tls-1-0", "plain", starttls="tls-1.0"),
    delivered("rule-none", "plain", rule={"level": "none"}),
)

BY_RULE = (
    delivered("encrypt", rule={"level": "encrypt"}, certificate="self-signed"),
    later("encrypt-stripped", "4.7.4", rule={"level": "encrypt"}, starttls="stripped"),
    later("encrypt-tls-1-0", CUT_OFF, rule={"level": "encrypt"}, starttls="tls-1.0"),
    later("encrypt-broken-before", CUT_OFF, rule={"level": "encrypt"}, starttls="tls-1.0", broken_before=True),
    delivered("verify", rule=RULE_VERIFY),
    later("verify-expired", rule=RULE_VERIFY, certificate="expired"),
    later("verify-mismatched", rule=RULE_VERIFY, certificate="mismatched"),
    later("verify-stripped", "4.7.4", rule=RULE_VERIFY, starttls="stripped"),
    delivered("secure", rule=RULE_SECURE, certificate="next-hop"),
    delivered("secure-below", rule=RULE_SECURE),
    later("secure-mismatched", rule=RULE_SECURE, certificate="mismatched"),
    delivered("secure-names", rule=RULE_SECURE | {"names": ["elsewhere.example"]}, certificate="mismatched"),
    delivered("client-certificate", rule={"level": "encrypt", "client_certificate": "OURS"}, asks_for_certificate=True),
    later("no-client-certificate", CUT_OFF, rule={"level": "encrypt"}, asks_for_certificate=True),
)

REQUIRETLS = (
    delivered("require-dane", tlsa=["own 3 1 1"], certificate="self-signed", requiretls=True),
    delivered("require-sts", zone="open.example", sts="enforce", requiretls=True),
    delivered("require-dnssec", rule=RULE_VERIFY, requiretls=True),
    delivered("require-second", rule=RULE_VERIFY, requiretls=True, offers_requiretls=False, second=True),
    bounced("require-not-offered", "5.7.30", tlsa=["own 3 1 1"], offers_requiretls=False),
    bounced("require-stripped", "5.7.10", tlsa=["own 3 1 1"], starttls="stripped"),
    bounced("require-uncertain", "5.7.10", zone="open.example"),
    bounced("require-wrong-tlsa", "5.7.10", tlsa=["other 3 1 1"]),
    bounced("require-expired", "5.7.10", rule=RULE_VERIFY, certificate="expired"),
    bounced("require-broken", "5.7.10", tlsa=["own 3 1 1"], starttls="broken"),
    later("require-servfail", tlsa=["bogus"], requiretls=True),
    delivered("require-not-wanted", tlsa=["own 3 1 1"], offers_requiretls=False),
)

CELLS = (*DANE, *MTA_STS, *OPPORTUNISTIC, *BY_RULE, *REQUIRETLS)
