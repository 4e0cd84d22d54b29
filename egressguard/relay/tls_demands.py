"""What TLS with one MX host must be, from the rule and from what the domain has published. Pure.

Contract
    A host that cannot be given what is demanded of it gets no mail: an outcome says why. Never plaintext instead.
    DANE goes before MTA-STS (RFC 8461 s2). What cannot be known (DNS fails) is transient, and no reason to demand less.
    A message with REQUIRETLS demands a host that is known for certain: by DANE, MTA-STS, DNSSEC or `secure`. Rules can
    demand more than that, never less (RFC 8689 s4.2.1).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from egressguard.mail.outcome import Outcome, permanent, transient
from egressguard.policy.model import TlsRule
from egressguard.policy.tls import LOOKS_FOR_DANE
from egressguard.relay.route import Answer
from egressguard.relay.sts_policy import StsPolicy
from egressguard.smtp.certificates import OwnCertificate
from egressguard.smtp.dane import DANE_TA, Tlsa, strongest
from egressguard.smtp.dial import Peer, TlsTerms


@dataclass(frozen=True, slots=True)
class Known:
    """What was found out of a host. `certain`: DNSSEC or a rule says that it is the domain's.

    `tlsa`: what was said about its TLSA records, `records` those that there are, for the name `base` (RFC 7672 s2.2.3);
    `sts`: the policy of its domain, where one holds; `sts_fault`: what is wrong with it."""

    domain: str
    certain: bool = False
    tlsa: Answer = Answer.NOTHING
    records: tuple[Tlsa, ...] = ()
    base: str = ""
    sts: StsPolicy | None = None
    sts_fault: str = ""
    sts_ca_file: str | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """A host that is not dialled, and why; `trouble` in the words of RFC 8460 s4.3."""

    peer: Peer
    outcome: Outcome
    trouble: str


def demand(host: Peer, rule: TlsRule, known: Known, *, requiretls: bool) -> Peer | Refused:
    """`host` with the demands on its TLS, or why it cannot be dialled."""
    peer = _by_level(host, rule, known)
    if isinstance(peer, Peer) and requiretls:
        peer = _certain(peer, rule, known)
    if isinstance(peer, Peer) and rule.client_certificate is not None and peer.tls != "none":
        peer = dataclasses.replace(peer, ours=OwnCertificate(*rule.client_certificate.files))
    return peer


def _by_level(host: Peer, rule: TlsRule, known: Known) -> Peer | Refused:
    if rule.level in LOOKS_FOR_DANE:
        return _by_dane(host, rule, known)
    if rule.level in {"verify", "secure"}:
        return _by_authority(host, rule, known)
    mode = rule.level
    assert mode in {"none", "opportunistic", "encrypt"}
    return dataclasses.replace(host, tls=mode, terms=TlsTerms(mode, known.domain))


def _by_authority(host: Peer, rule: TlsRule, known: Known) -> Peer:
    names = rule.names or ((known.domain, f".{known.domain}") if rule.level == "secure" else ())
    terms = TlsTerms("verify", known.domain)
    return dataclasses.replace(host, tls="starttls", names=names, ca_file=rule.ca_file, terms=terms)


def _by_dane(host: Peer, rule: TlsRule, known: Known) -> Peer | Refused:
    usable = strongest(known.records)
    terms = TlsTerms("dane", known.domain, tuple(str(record) for record in known.records))
    host = dataclasses.replace(host, terms=terms)
    if known.tlsa is Answer.FAILED:
        return _later(host, f"DNS does not answer for the TLSA records of {host.name}", "dnssec-invalid")
    if usable:
        # RFC 7672 s3.2.3: the host's name, and that of the domain it takes mail for; DANE-EE looks at neither.
        anchored = any(record.usage == DANE_TA for record in usable)
        names = (known.base or host.name, known.domain) if anchored else ()
        server_name = known.base if known.base != host.name else ""  # RFC 7672 s8.1
        return dataclasses.replace(host, tls="dane", tlsa=usable, names=names, server_name=server_name)
    if rule.level == "dane-only":
        return _later(host, f"there are no TLSA records of {host.name} that can be used", "dane-required")
    if rule.level == "published" and (found := _by_sts(host, known)) is not None:
        return found
    if known.records:  # RFC 7672 s2.2: none can be used, but they promise TLS
        return dataclasses.replace(host, tls="encrypt")
    return _nothing_demanded(host, known)


def _later(host: Peer, words: str, trouble: str) -> Refused:
    return Refused(host, transient("4.7.5", words, host.name), trouble)


def _by_sts(host: Peer, known: Known) -> Peer | Refused | None:
    """None = MTA-STS demands nothing."""
    policy = known.sts
    if policy is None or policy.mode != "enforce":
        return None
    host = dataclasses.replace(host, terms=_sts_terms(policy, known))
    if not policy.lists(host.name):
        return _later(host, f"the MTA-STS policy of {known.domain} does not list {host.name}", "validation-failure")
    return dataclasses.replace(host, tls="starttls", ca_file=known.sts_ca_file)


def _sts_terms(policy: StsPolicy, known: Known) -> TlsTerms:
    return TlsTerms("mta-sts", known.domain, policy.lines, policy.mx)


def _nothing_demanded(host: Peer, known: Known) -> Peer:
    """A policy in testing is tried, and told of, and does not count (RFC 8461 s5)."""
    policy, terms = known.sts, TlsTerms("opportunistic", known.domain, fault=known.sts_fault)
    if policy is None or policy.mode != "testing":
        return dataclasses.replace(host, tls="opportunistic", terms=terms)
    fault = "" if policy.lists(host.name) else "validation-failure"
    terms = dataclasses.replace(_sts_terms(policy, known), kind="opportunistic", fault=fault)
    return dataclasses.replace(host, tls="opportunistic", terms=terms, trial=not fault, ca_file=known.sts_ca_file)


def _certain(peer: Peer, rule: TlsRule, known: Known) -> Peer | Refused:
    """For REQUIRETLS: a verified host whose name nobody made up on the way."""
    if peer.tls == "dane" or rule.level == "secure" or (rule.level == "verify" and rule.names):
        return peer
    listed = known.sts is not None and known.sts.mode != "none" and known.sts.lists(peer.name)
    if peer.tls == "none" or not (known.certain or listed):
        words = f"REQUIRETLS: neither DNSSEC nor MTA-STS nor a rule says that {peer.name} is {known.domain}'s"
        return Refused(peer, permanent("5.7.10", words, peer.name), "validation-failure")
    kind = peer.terms.kind if peer.terms and peer.terms.kind == "mta-sts" else "verify"
    terms = dataclasses.replace(peer.terms or TlsTerms(kind), kind=kind)
    ca_file = peer.ca_file or (known.sts_ca_file if listed else None)
    return dataclasses.replace(peer, tls="starttls", ca_file=ca_file, terms=terms, trial=False)
