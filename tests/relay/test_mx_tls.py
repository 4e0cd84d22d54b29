"""Which questions the demands on TLS cost, and which hosts are left when they are answered."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from egressguard.mail.outcome import Outcome
from egressguard.policy.model import Policy
from egressguard.relay.dns import TextAnswer, TlsaAnswer
from egressguard.relay.mta_sts import MtaSts
from egressguard.relay.mx_tls import Judge
from egressguard.relay.route import AddressAnswer, Answer
from egressguard.smtp.dane import Tlsa
from egressguard.smtp.dial import Peer

EE = Tlsa(3, 1, 1, bytes(32))
SAFE = AddressAnswer(Answer.FOUND, ("192.0.2.1",), secure=True)
UNSAFE = AddressAnswer(Answer.FOUND, ("192.0.2.1",))
FOUND, FAILED = TlsaAnswer(Answer.FOUND, (EE,)), TlsaAnswer(Answer.FAILED)


@dataclass
class Dns:
    """TLSA answers by host; what is missing has none."""

    tlsa: Mapping[str, TlsaAnswer] = field(default_factory=dict)
    secure_aliases: Sequence[str] = ()
    texts: Mapping[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    async def resolve_tlsa(self, host: str, port: int) -> TlsaAnswer:
        self.asked.append(f"_{port}._tcp.{host}")
        return self.tlsa.get(host, TlsaAnswer(Answer.NOTHING))

    async def is_secure_alias(self, host: str) -> bool:
        self.asked.append(f"CNAME {host}")
        return host in self.secure_aliases

    async def resolve_text(self, name: str) -> TextAnswer:
        self.asked.append(name)
        return TextAnswer(Answer.FOUND, (self.texts[name],)) if name in self.texts else TextAnswer(Answer.NOTHING)

    async def resolve_addresses(self, host: str) -> AddressAnswer:
        raise AssertionError("nothing is fetched here")


def policy_of(*rules: Mapping[str, Any], dnssec: bool = True, **relay: Any) -> Policy:
    tls = [{"name": f"r{n}", **rule} for n, rule in enumerate(rules)]
    return Policy.model_validate({"site": {"zones": {}, "dnssec": dnssec, "relay": relay}, "tls": tls})


def judged(
    dns: Dns,
    policy: Policy,
    answers: Mapping[str, AddressAnswer] | None = None,
    *,
    domain: str = "example.net",
    certain: bool = True,
    requiretls: bool = False,
    told: list[tuple[str, str]] | None = None,
) -> Sequence[Peer] | Outcome:
    answers = answers or {"mx.example.net": SAFE}
    hosts = [Peer(name, answer.addresses, 25) for name, answer in answers.items()]
    heard = [] if told is None else told
    judge = Judge(dns, MtaSts(dns), lambda peer, trouble: heard.append((peer.name, trouble)))
    found = judge.demands(domain, hosts, policy, certain=certain, answers=answers, requiretls=requiretls)
    return asyncio.run(found)  # type: ignore[arg-type]


def modes(found: Sequence[Peer] | Outcome) -> str:
    return found.status if isinstance(found, Outcome) else " ".join(peer.tls for peer in found)


def test_nothing_is_asked_where_nothing_can_be_demanded() -> None:
    dns = Dns({"mx.example.net": FOUND})
    assert modes(judged(dns, policy_of(dnssec=False))) == "opportunistic"
    assert dns.asked == []


@pytest.mark.parametrize(
    ("certain", "answer", "rule", "asked"),
    [
        (True, SAFE, {}, True),
        (False, SAFE, {}, False),
        (True, UNSAFE, {}, False),
        (True, SAFE, {"level": "dane-only"}, True),
        (True, SAFE, {"level": "encrypt"}, False),
        (True, SAFE, {"level": "none"}, False),
        (True, SAFE, {"level": "encrypt", "match": {"recipient_domain": "other.example"}}, True),
    ],
)
def test_tlsa_is_asked_for_only_where_it_can_be_believed(
    certain: bool, answer: AddressAnswer, rule: Mapping[str, Any], asked: bool
) -> None:
    dns = Dns()
    judged(dns, policy_of(*([rule] if rule else [])), {"mx.example.net": answer}, certain=certain)
    assert dns.asked == (["_25._tcp.mx.example.net"] if asked else [])


ALIAS = AddressAnswer(Answer.FOUND, ("192.0.2.1",), secure=True, alias_of="real.example.org")
UNSAFE_ALIAS = AddressAnswer(Answer.FOUND, ("192.0.2.1",), alias_of="real.example.org")


@pytest.mark.parametrize(
    ("dns", "answer", "wanted", "asked"),
    [
        (Dns({"real.example.org": FOUND}), ALIAS, "dane", ["_25._tcp.real.example.org"]),
        (
            Dns({"mx.example.net": FOUND}),
            ALIAS,
            "dane",
            ["_25._tcp.real.example.org", "_25._tcp.mx.example.net"],
        ),
        (Dns({"real.example.org": FAILED, "mx.example.net": FOUND}), ALIAS, "4.7.5", ["_25._tcp.real.example.org"]),
        (Dns(), ALIAS, "opportunistic", ["_25._tcp.real.example.org", "_25._tcp.mx.example.net"]),
        (
            Dns({"mx.example.net": FOUND}, ["mx.example.net"]),
            UNSAFE_ALIAS,
            "dane",
            ["CNAME mx.example.net", "_25._tcp.mx.example.net"],
        ),
        (Dns({"mx.example.net": FOUND}), UNSAFE_ALIAS, "opportunistic", ["CNAME mx.example.net"]),
    ],
)
def test_an_alias_is_looked_up_by_both_names(dns: Dns, answer: AddressAnswer, wanted: str, asked: list[str]) -> None:
    assert modes(judged(dns, policy_of(), {"mx.example.net": answer})) == wanted
    assert dns.asked == asked


def test_a_host_whose_records_cannot_be_had_is_left_out_and_told_of() -> None:
    told: list[tuple[str, str]] = []
    dns = Dns({"a.example.net": FAILED, "b.example.net": FOUND})
    found = judged(dns, policy_of(), {"a.example.net": SAFE, "b.example.net": SAFE}, told=told)
    assert modes(found) == "dane" and not isinstance(found, Outcome) and found[0].name == "b.example.net"
    assert told == [("a.example.net", "dnssec-invalid")]


def test_one_host_that_may_be_better_later_makes_all_of_it_later() -> None:
    dns = Dns({"a.example.net": FAILED})
    hosts = {"b.example.net": UNSAFE, "a.example.net": SAFE}
    rule = {"level": "none", "match": {"next_hop": "b.example.net"}}
    assert modes(judged(dns, policy_of(rule), hosts, requiretls=True)) == "4.7.5"
    assert modes(judged(dns, policy_of(rule), {"b.example.net": UNSAFE}, requiretls=True)) == "5.7.10"


@pytest.mark.parametrize(
    ("relay", "domain", "rule", "asked"),
    [
        ({"mta_sts": True}, "example.net", None, ["_mta-sts.example.net"]),
        ({"mta_sts": True}, "Bücher.example", None, ["_mta-sts.xn--bcher-kva.example"]),
        ({}, "example.net", None, []),
        ({"mta_sts": True}, "[192.0.2.1]", None, []),
        ({"mta_sts": True}, "", None, []),
        ({"mta_sts": True}, "example.net", {"level": "encrypt"}, []),
    ],
)
def test_mta_sts_is_asked_for_only_where_it_counts(
    relay: Mapping[str, Any], domain: str, rule: Mapping[str, Any] | None, asked: list[str]
) -> None:
    dns = Dns()
    judged(dns, policy_of(*([rule] if rule else []), dnssec=False, **relay), domain=domain)
    assert dns.asked == asked


def test_a_next_hop_of_a_rule_is_certain_and_nobodys_business() -> None:
    dns = Dns({"mx.example.net": FOUND})
    next_hop = judged(dns, policy_of(), domain="")
    assert modes(next_hop) == "dane" and not isinstance(next_hop, Outcome)
    assert next_hop[0].terms is not None and next_hop[0].terms.domain == ""
    found = judged(Dns(), policy_of({"level": "secure"}), domain="")
    assert not isinstance(found, Outcome) and found[0].names == ("mx.example.net", ".mx.example.net")


def test_a_policy_of_before_is_obeyed_though_dns_is_silent(tmp_path: Path) -> None:
    """The real cache between the real decisions."""
    policy = b"version: STSv1\nmode: enforce\nmx: other.example\nmax_age: 86400\n"

    async def fetch(_domain: str, _lookups: object, _ca_file: str | None) -> bytes:
        return policy

    async def walk() -> None:
        dns = Dns(texts={"_mta-sts.example.net": b"v=STSv1; id=1"})
        sts = MtaSts(dns, tmp_path / "sts", fetch=fetch)
        sts.load()
        await sts.policy_for("example.net")
        hosts, answers = [Peer("mx.example.net", ("192.0.2.1",), 25)], {"mx.example.net": UNSAFE}
        found = await Judge(Dns(), sts).demands(
            "example.net", hosts, policy_of(mta_sts=True), certain=False, answers=answers, requiretls=False
        )
        assert isinstance(found, Outcome) and found.status == "4.7.5"

    asyncio.run(walk())


@pytest.mark.parametrize(
    ("dns", "answer", "wanted"),
    [
        (Dns({"smtp.isp.example": FOUND}), SAFE, "dane"),
        (Dns(), SAFE, "4.7.5"),
        (Dns({"smtp.isp.example": FAILED}), SAFE, "4.7.5"),
        (Dns({"smtp.isp.example": FOUND}), UNSAFE, "4.7.5"),
    ],
)
def test_a_smart_host_with_dane_has_to_match_its_records(dns: Dns, answer: AddressAnswer, wanted: str) -> None:
    told: list[str] = []
    judge = Judge(dns, told=lambda peer, trouble: told.append(f"{peer.terms and peer.terms.domain}{trouble}"))
    host = Peer("smtp.isp.example", answer.addresses, 587, "dane", user="u", password="p")
    found = asyncio.run(judge.by_tlsa(host, answer))
    assert (found.status if isinstance(found, Outcome) else found.tls) == wanted
    if isinstance(found, Peer):
        assert (found.user, found.tlsa, dns.asked) == ("u", (EE,), ["_587._tcp.smtp.isp.example"])
    else:
        assert told in (["dane-required"], ["dnssec-invalid"])
