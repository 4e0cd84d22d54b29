"""TLSA records against chains: every usage, selector and matching type, and what proves nothing."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from egressguard.smtp.dane import Tlsa, matches, strongest
from tests.tls.certificates import Certificate, authority, issue, reissue

NOW = datetime.now(UTC)
HOST = "mx.example.org"
ROOT = authority()
MIDDLE = issue(["middle"], ROOT, ca=True)
HOSTS = issue([HOST], MIDDLE)
OTHER = issue([HOST])


def tlsa(text: str) -> Tlsa:
    usage, selector, matching, data = text.split()
    return Tlsa(int(usage), int(selector), int(matching), bytes.fromhex(data))


def matched(
    record: str, certificate: Certificate = HOSTS, names: tuple[str, ...] = (HOST,), now: datetime = NOW
) -> bool:
    return matches(strongest([tlsa(record)]), certificate.presented, names, now)


ALL_FORMS = [(selector, matching) for selector in (0, 1) for matching in (0, 1, 2)]


@pytest.mark.parametrize(("selector", "matching"), ALL_FORMS)
def test_dane_ee_is_the_servers_own_certificate(selector: int, matching: int) -> None:
    assert matched(HOSTS.tlsa(3, selector, matching))
    assert not matched(OTHER.tlsa(3, selector, matching))
    assert not matched(MIDDLE.tlsa(3, selector, matching)), "an issuer is not the server"


@pytest.mark.parametrize("whose", [ROOT, MIDDLE], ids=["root", "intermediate"])
@pytest.mark.parametrize(("selector", "matching"), ALL_FORMS)
def test_dane_ta_is_an_issuer(whose: Certificate, selector: int, matching: int) -> None:
    assert matched(whose.tlsa(2, selector, matching))
    assert not matched(OTHER.tlsa(2, selector, matching))


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        ((HOST,), True),
        (("other.example",), False),
        (("other.example", HOST), True),
        ((), False),
    ],
)
def test_dane_ta_looks_at_names(names: tuple[str, ...], wanted: bool) -> None:
    assert matched(ROOT.tlsa(2, 0, 1), names=names) == wanted


def test_dane_ta_takes_a_wildcard() -> None:
    assert matched(ROOT.tlsa(2, 0, 1), issue(["*.example.org"], ROOT))


@pytest.mark.parametrize(("usage", "wanted"), [(3, True), (2, False)])
def test_dates_are_looked_at_by_dane_ta_only(usage: int, wanted: bool) -> None:
    record = (HOSTS if usage == 3 else ROOT).tlsa(usage, 1, 1)
    assert matched(record, now=NOW + timedelta(days=60)) == wanted


def test_an_expired_issuer_leads_nowhere() -> None:
    old = issue(["old"], ROOT, ca=True, days=(-30, -1))
    assert not matched(ROOT.tlsa(2, 0, 1), issue([HOST], old))


def test_who_is_no_authority_leads_nowhere() -> None:
    assert not matched(ROOT.tlsa(2, 0, 1), issue([HOST], issue(["no authority"], ROOT)))


def test_an_issuer_that_did_not_sign_proves_nothing() -> None:
    """Anybody can send the certificate of somebody else's authority along."""
    forged = Certificate(OTHER.own, OTHER.key, (ROOT.own,))
    assert not matched(ROOT.tlsa(2, 0, 1), forged)
    assert not matched(ROOT.tlsa(2, 1, 1), forged)


def test_an_anchor_that_is_not_sent_counts_only_if_it_stands_in_dns() -> None:
    alone = Certificate(HOSTS.own, HOSTS.key, (MIDDLE.own,))
    assert matched(ROOT.tlsa(2, 0, 0), alone)
    assert not matched(ROOT.tlsa(2, 0, 1), alone)


@pytest.mark.parametrize(
    "record",
    ["0 0 1 {}", "1 1 1 {}", "4 1 1 {}", "255 1 1 {}", "3 2 1 {}", "3 1 3 {}", "3 1 2 {}", "3 1 1 {}00", "3 1 1 00"],
)
def test_what_is_unusable(record: str) -> None:
    digest = HOSTS.tlsa(3, 1, 1).split()[3]
    assert strongest([tlsa(record.format(digest))]) == ()


def test_an_empty_record_matches_nothing() -> None:
    assert strongest([Tlsa(3, 1, 0, b"")]) == ()


def test_beside_a_stronger_digest_a_weaker_one_does_not_count() -> None:
    stale, weak = tlsa(OTHER.tlsa(3, 1, 2)), tlsa(HOSTS.tlsa(3, 1, 1))
    assert strongest([stale, weak]) == (stale,)
    whole = tlsa(HOSTS.tlsa(3, 0, 1))
    assert strongest([stale, weak, whole]) == (stale, whole), "another selector is another use"


@pytest.mark.parametrize("presented", [[], [b""], [b"\x30\x03\x02\x01\x01"], [b"rubbish" * 100]])
def test_rubbish_matches_nothing(presented: list[bytes]) -> None:
    records = strongest([tlsa(HOSTS.tlsa(3, 1, 1)), tlsa(ROOT.tlsa(2, 0, 1))])
    assert not matches(records, presented, (HOST,), NOW)


def test_rubbish_behind_it_says_nothing_of_the_servers_own_certificate() -> None:
    assert matches(strongest([tlsa(HOSTS.tlsa(3, 1, 1))]), [HOSTS.der, b"rubbish"], (HOST,), NOW)


@given(st.lists(st.binary(max_size=300), max_size=4), st.tuples(*[st.integers(0, 4)] * 3), st.binary(max_size=80))
@settings(max_examples=150, deadline=None)
def test_octets_never_raise(presented: list[bytes], numbers: tuple[int, int, int], data: bytes) -> None:
    damaged = HOSTS.der[:100] + data + HOSTS.der[100 + len(data) :]
    for chain in (presented, [damaged, ROOT.der], [HOSTS.der, damaged]):
        matches([Tlsa(*numbers, data), tlsa(ROOT.tlsa(2, 1, 1))], chain, (HOST, "a_b..example", ""), NOW)


def test_a_name_that_is_none_spoils_no_other() -> None:
    assert matched(ROOT.tlsa(2, 0, 1), names=("", "a..b", HOST))


def test_rubbish_behind_the_servers_own_certificate_is_no_chain() -> None:
    assert not matches(strongest([tlsa(ROOT.tlsa(2, 0, 1))]), [HOSTS.der, b"rubbish"], (HOST,), NOW)


def test_a_whole_anchor_that_is_rubbish_matches_nothing() -> None:
    assert not matched("2 0 0 deadbeef")


def test_a_chain_that_leads_round_in_circles_ends() -> None:
    """Each of its issuers signs each other's, so that there are millions of ways, and none leads to the anchor."""
    one = issue(["one"], ca=True)
    names = ("one", "two")
    round_about = [Certificate(c.own, c.key) for c in (reissue(one, a, b) for a in names for b in names for _ in "12")]
    host = issue([HOST], one)
    hostile = Certificate(host.own, host.key, tuple(each.own for each in round_about))
    anchors = [tlsa(issue([f"a{n}"], ca=True).tlsa(2, 0, 0)) for n in range(50)]
    started = time.process_time()
    assert not matches(anchors, hostile.presented, (HOST, "example.org"), NOW)
    assert time.process_time() - started < 10  # it takes some tenths; all ways would take hours


def test_a_record_is_shown_as_a_zone_has_it() -> None:
    assert str(tlsa(HOSTS.tlsa(3, 1, 1))) == HOSTS.tlsa(3, 1, 1)
