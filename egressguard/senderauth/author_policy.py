"""DMARC (RFC 7489): does SPF or DKIM speak for the author's domain, and what does that domain ask for if not?

Contract
    The dmarc package reads a record; finding it, the organizational domain and alignment are here: the package takes
    every parent domain for aligned, "com" too, and gives up a record for one tag that it does not understand.
    A failure is only what is known to be one: while an aligned check may still pass it is "temperror", and where it
    could never be made (the message is too large to be held) "permerror".
    At most two questions.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, cast

import dmarc

from egressguard.senderauth.author import Author
from egressguard.senderauth.domains import aligned, ascii_domain, organizational_domain
from egressguard.senderauth.resolver import Questions
from egressguard.senderauth.verdict import Disposition, DomainPolicy, Verdict

RECORD_OCTETS = 4096
MOST_QUESTIONS = 2

_VERSION = re.compile(rb"v[ \t]*=[ \t]*DMARC1[ \t]*(?:;|\Z)")
_TAG = re.compile(r"\s*[^=\s]+\s*=.*")
_DISPOSITIONS = ("none", "quarantine", "reject")


@dataclass(frozen=True, slots=True)
class Published:
    """What the author's domain publishes: a policy, or the verdict where there is none."""

    policy: DomainPolicy | None
    without: Verdict


async def find_policy(author: Author, questions: Questions) -> Published:
    """Policy discovery (s6.6.3): the author's domain, then the organizational domain."""
    if not author.domain:
        return Published(None, Verdict("dmarc", "permerror", author.fault))
    shown = (("header.from", author.domain),)
    for domain in dict.fromkeys((author.domain, organizational_domain(author.domain))):
        found = await questions.ask(f"_dmarc.{domain}", "TXT")
        if found.failed:
            return Published(None, Verdict("dmarc", "temperror", "DNS gave no answer for the policy", shown))
        records = [text for text in found.values if _VERSION.match(text)]
        if len(records) > 1:
            return Published(None, Verdict("dmarc", "none", f"{domain} has several policies", shown))
        if records:
            policy = read_policy(records[0], domain, of_subdomain=domain != author.domain)
            return Published(policy, Verdict("dmarc", "permerror", "the policy is malformed", shown))
    return Published(None, Verdict("dmarc", "none", "no policy is published", shown))


def read_policy(record: bytes, domain: str, *, of_subdomain: bool) -> DomainPolicy | None:
    """The policy in a record of `domain`; None: it says none (s6.3, s6.6.3 step 6)."""
    if len(record) > RECORD_OCTETS:
        return None
    tags = [part for part in record.decode("ascii", "replace").split(";") if _TAG.fullmatch(part)]
    policy = dmarc.Policy("DMARC1", domain)
    try:
        policy.parse_record(";".join(tags), strict=False)
    except dmarc.RecordSyntaxError:
        return _monitoring(policy, domain)
    asked = policy.sp if of_subdomain and policy.sp.value else policy.p
    if asked.value not in _DISPOSITIONS or _bad_subdomain_policy(tags):
        return _monitoring(policy, domain)
    return DomainPolicy(
        domain,
        cast(Disposition, asked.value),
        percent=min(policy.pct, 100),
        strict_dkim=policy.adkim is dmarc.DMARCAlignment.STRICT,
        strict_spf=policy.aspf is dmarc.DMARCAlignment.STRICT,
    )


def _bad_subdomain_policy(tags: list[str]) -> bool:
    pairs = (tag.partition("=") for tag in tags)
    return any(n.strip().lower() == "sp" and v.strip().lower() not in _DISPOSITIONS for n, _, v in pairs)


def _monitoring(policy: Any, domain: str) -> DomainPolicy | None:
    """A domain that wants reports and says nothing understandable about mail that fails asks for nothing."""
    wants_reports = any(address.strip().lower().startswith("mailto:") for address in policy.rua)
    return DomainPolicy(domain, "none") if wants_reports else None


def judge(
    author: Author,
    published: Published,
    spf: Verdict,
    signatures: tuple[Verdict, ...],
    *,
    whole: bool,
    client_known: bool = True,
) -> tuple[Verdict, tuple[str, ...]]:
    """(the verdict, which of "spf" and "dkim" passed for the author). Pure.

    `whole`: the body could be looked at; `client_known`: so could who sent it."""
    policy = published.policy
    if policy is None:
        return published.without, ()
    own = [
        *([spf] if aligned(spf_domain(spf), author.domain, strict=policy.strict_spf) else []),
        *(v for v in signatures if _speaks_for(v, author.domain, strict=policy.strict_dkim)),
    ]
    passed = tuple(dict.fromkeys(verdict.method for verdict in own if verdict.result == "pass"))
    shown = (("header.from", author.domain),)
    if passed:
        return Verdict("dmarc", "pass", "", shown), passed
    if any(verdict.result == "temperror" for verdict in own):
        return Verdict("dmarc", "temperror", "an aligned check could not be made yet", shown), ()
    if not whole and any(verdict.method == "dkim" for verdict in own):
        return Verdict("dmarc", "permerror", "an aligned signature could not be verified", shown), ()
    if not client_known:
        return Verdict("dmarc", "permerror", "who sent it is not known", shown), ()
    return Verdict("dmarc", "fail", f"p={policy.disposition}", shown), ()


def _speaks_for(signature: Verdict, author: str, *, strict: bool) -> bool:
    domain = signature.value("header.d")
    if not domain:  # a deadline that passed before anybody knew whose signatures these are
        return signature.result == "temperror"
    return aligned(ascii_domain(domain) or "", author, strict=strict)


def spf_domain(spf: Verdict) -> str:
    """The domain that an SPF verdict is about; "" = none."""
    name = spf.value("smtp.mailfrom").rpartition("@")[2] or spf.value("smtp.helo")
    return ascii_domain(name) or ""
