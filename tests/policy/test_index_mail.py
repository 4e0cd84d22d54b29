"""The index changes no decision on a message: the same as a plain walk over all rules, for any policy and any facts.

What a matcher means is asked of policy.matchers, but for what an address belongs to: that is said again, plainly.
EGRESSGUARD_COMPARISONS is how many policies each matcher is tried with (make system).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address, ip_address
from typing import Any, get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from egressguard.net.flow import IPAddress
from egressguard.policy.decision import Effects, MailAction, MailDecision, Would
from egressguard.policy.facts import Attachment, Authentication, Excess, MailFacts, Moment, ScanReport
from egressguard.policy.fields import AuthResult
from egressguard.policy.index import REMEMBERED_ENTRIES, prepared
from egressguard.policy.index_columns import COLUMNS
from egressguard.policy.index_mail import MailIndex
from egressguard.policy.mail import NO_RULE, decide_envelope, decide_mail, limit_of
from egressguard.policy.matchers import MATCHERS, answers, device_of
from egressguard.policy.model import Device, Limit, MailRule, Policy
from egressguard.policy.patterns import path_matches
from egressguard.policy.verdict import Verdict
from tests.policy.test_index_flows import ADDRESSES, PREFIXES, SITES, contains, listed, policy_from, some, sometimes

COMPARISONS = int(os.environ.get("EGRESSGUARD_COMPARISONS", "10"))
PATHS = [
    *("anna@x.example", "Anna@X.EXAMPLE", '"anna"@x.example', '"an\\na"@x.example', "bob@sub.x.example", "postmaster"),
    *(
        "",
        "POSTMASTER",
        "p@a.b.x.example",
        "p@x.example.evil.example",
        "*@x.example",
        "a@[192.0.2.1]",
        '"a@b"@own.example',
    ),
    *("someone@Own.Example", "p@.x.example", "p@x.example.", "ß@straße.example"),
]
PATH_WORDS = ["anna@x.example", "Anna@X.Example", '"anna"@x.example', "*@x.example", "*@Sub.X.example", "*@[192.0.2.1]"]
PATH_WORDS += ["postmaster", "p@x.example.", "*@own.example", "SS@strasse.example", "*@straße.example"]
DOMAIN_WORDS = [
    "x.example",
    "X.example",
    ".x.example",
    ".example",
    ".B.x.example",
    "@local",
    "own.example",
    "[192.0.2.1]",
]
TEXTS = ["mx.x.example", "MX.X.Example", "ylmf-pc", "", "localhost", "[192.0.2.1]", "straße", "a*b", "[x]"]
TEXT_WORDS = [
    "*",
    "mx.*",
    "*.x.example",
    "MX.x.example",
    "ylmf-??",
    "*x*",
    "[x]",
    "stra*e",
    "STRASSE",
    "?*",
    "",
    "a[*]b",
]
NAMES = [
    "run.EXE",
    "a.zip",
    "a.zip.",
    "invoice 1.pdf",
    "run.e\u200bxe",
    "run.\uff45xe",
    "",
    "exe",
    "ends in a space. .",
    "x\n",
]
NAME_WORDS = ["*.exe", "*.ZIP", "invoice*", "a.zip", "*", "*.e?e", "[ar]*", "*voice*", "", "*E", "x*"]
TYPES = ["application/x-dosexec", "Text/Plain", "image/jpeg"]
TYPE_WORDS = ["application/*", "text/plain", "*/jpeg", "IMAGE/*", "*x-*", "image/jp?g"]
USERS, LIMITS, LISTENERS = ["anna", "Anna", "bob"], ["per-host", "per-user", "tried"], ["lan", "submission"]
FIELDS = ["Subject", "X-Mailer", "list-id"]
RESULTS = list(get_args(AuthResult))
POLICIES, BLOCK_LISTS = ["none", "quarantine", "reject"], ["zen", "spam"]

CLIENTS = some([*PREFIXES, "@one", "@two", "@none", "lan", "dmz"])
MATCHES: dict[str, st.SearchStrategy[Any]] = {
    "client": CLIENTS,
    "device": some(["@any", "printer", "nas", "camera"]),
    "listener": some(LISTENERS),
    "redirected": st.booleans(),
    "authenticated": st.booleans(),
    "user": some(USERS),
    "tls": st.booleans(),
    "helo": some(TEXT_WORDS),
    "sender": some([*PATH_WORDS, "<>"]),
    "sender_domain": some(DOMAIN_WORDS),
    "recipient": some(PATH_WORDS),
    "recipient_domain": some(DOMAIN_WORDS),
    "weekdays": some(["mon", "tue-thu", "sat-mon"]),
    "hours": some(["08:00-18:00", "22:00-06:00", "00:00-24:00", "06:00-06:01"]),
    "over_limit": some(LIMITS),
    "spf": some(RESULTS),
    "dkim": some(RESULTS),
    "dmarc": some(RESULTS),
    "dmarc_policy": some(POLICIES),
    "arc": some(RESULTS),
    "block_list": some(BLOCK_LISTS),
    "more_than_recipients": st.sampled_from([1, 2, 50]),
    "larger_than_octets": st.sampled_from([0, 999, 1000]),
    "header": st.dictionaries(st.sampled_from(FIELDS), some(TEXT_WORDS), min_size=1),
    "attachment_name": some(NAME_WORDS),
    "attachment_type": some(TYPE_WORDS),
    "attachment_encrypted": st.booleans(),
    "attachment_macro": st.booleans(),
    "attachment_active": st.booleans(),
    "attachment_deeper_than": st.sampled_from([1, 2]),
    "verdict": some([verdict.value for verdict in Verdict]),
    "score_at_least": st.sampled_from(["-1", "0", "6.5"]),
}
EFFECTS = {
    "limit": some(LIMITS),
    "tag": some(["bulk", "seen"]),
    "route": st.just(["provider"]),
    "notify": some(["a@x.example", "b@x.example"]),
    "add_header": st.dictionaries(st.sampled_from(["X-A", "X-B"]), st.just("yes"), min_size=1),
}


ACTIONS = st.sampled_from(["accept", "reject", "defer", "quarantine", "hold", "continue", "continue", "continue"])


def rules(match: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[list[dict[str, Any]]]:
    does = st.fixed_dictionaries({"match": match, "action": ACTIONS})
    return st.lists(st.builds(dict.__or__, does, sometimes(staged=st.booleans(), **EFFECTS)), min_size=1, max_size=8)


SOME_MATCHERS = st.lists(st.sampled_from(sorted(MATCHES)), max_size=3, unique=True).flatmap(
    lambda keys: st.fixed_dictionaries({key: MATCHES[key] for key in keys})
)
LIMIT = st.fixed_dictionaries(
    {"per": st.just("host"), "messages_per_hour": st.just(9)},
    optional={
        "staged": st.booleans(),
        "above": st.sampled_from(["defer", "reject", "quarantine", "contain"]),
        "text": st.sampled_from(["", "slow down"]),
    },
)
DEVICE = st.fixed_dictionaries(
    {"addresses": some(PREFIXES), "senders": some([*PATH_WORDS, "<>"])}, optional={"recipients": some(PATH_WORDS)}
)
DEVICES = st.fixed_dictionaries({}, optional={name: DEVICE for name in ("printer", "nas", "camera")})

ATTACHMENTS = st.builds(
    Attachment,
    path=st.lists(st.sampled_from(NAMES), min_size=1, max_size=4).map(tuple),
    media_type=st.sampled_from(TYPES),
    size_octets=st.just(1),
    encrypted=st.booleans(),
    macro=st.booleans(),
    active=st.booleans(),
)
SCANS = st.builds(
    ScanReport,
    verdict=st.none() | st.sampled_from(Verdict),
    findings=st.sampled_from([(), ("eicar", "clamd does not answer")]),
    attachments=st.none() | st.lists(ATTACHMENTS, max_size=3).map(tuple),
    score=st.none() | st.sampled_from([-1.0, 0.0, 6.4, 6.5, 9.0, float("nan"), float("inf")]),
)
FACTS = st.builds(
    MailFacts,
    client=ADDRESSES,
    listener=st.sampled_from(LISTENERS),
    helo=st.sampled_from(TEXTS),
    tls=st.booleans(),
    user=st.none() | st.sampled_from(USERS),
    redirected=st.booleans(),
    reverse_path=st.just("") | st.sampled_from(PATHS),
    forward_path=st.just("postmaster") | st.sampled_from(PATHS),
    moment=st.none()
    | st.builds(Moment, st.integers(0, 6), st.sampled_from([0, 359, 360, 361, 480, 1079, 1080, 1320, 1439])),
    authentication=st.none() | st.builds(Authentication, *[st.sampled_from(RESULTS)] * 4, st.sampled_from(POLICIES)),
    listed=st.none() | st.frozensets(st.sampled_from(BLOCK_LISTS)),
    exceeded=st.dictionaries(st.sampled_from(LIMITS), st.just(Excess("host 192.0.2.1", "messages_per_hour", 9, 10))),
    recipient_count=st.none() | st.sampled_from([0, 1, 2, 3, 51]),
    size_octets=st.none() | st.sampled_from([0, 1, 999, 1000, 1001]),
    headers=st.none()
    | st.dictionaries(st.sampled_from([f.lower() for f in FIELDS]), st.lists(st.sampled_from(TEXTS)).map(tuple)),
    scan=st.none() | SCANS,
)


def mail_policy(
    site: dict[str, Any], mail: list[dict[str, Any]], devices: dict[str, Any], limits: list[dict[str, Any]]
) -> Policy:
    named = zip(LIMITS, limits, strict=False)
    return policy_from(
        site
        | {
            "domains": ["Own.example", "strasse.example"],
            "block_lists": {n: {"zone": "b.example"} for n in BLOCK_LISTS},
        },
        [],
        mail=[{"name": f"m{number}", **rule} for number, rule in enumerate(mail)],
        devices=[{"name": name, **device} for name, device in devices.items()],
        limits=[{"name": name, **limit} for name, limit in named],
    )


def walked_device(policy: Policy, device: Device, wanted: tuple[str, ...], facts: MailFacts) -> bool:
    return (
        ("@any" in wanted or device.name in wanted)
        and contains(device.addresses, facts.client)
        and path_matches(device.senders, facts.reverse_path)
        and (not device.recipients or path_matches(device.recipients, facts.forward_path))
    )


def walked_client(policy: Policy, wanted: tuple[str, ...], client: IPAddress) -> bool:
    zones = policy.site.zones
    lists = tuple(text for text in wanted if text not in zones)
    return contains(listed(policy, lists), client) or any(
        contains(zones[text].networks, client) for text in wanted if text in zones
    )


def walked_answer(policy: Policy, rule: MailRule, facts: MailFacts) -> bool | None:
    """A certain no beats "cannot tell"."""
    found = dict(answers(policy, rule.match, facts))
    if "client" in found:
        assert found["client"] == walked_client(policy, rule.match.client, facts.client)
    if "device" in found:
        wanted = rule.match.device
        assert found["device"] == any(walked_device(policy, device, wanted, facts) for device in policy.devices)
    return False if False in found.values() else None if None in found.values() else True


def once(*groups: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(item for group in groups for item in group))


def added(have: Effects, rule: MailRule) -> Effects:
    return Effects(
        headers=(*have.headers, *rule.add_header.items()),
        tags=once(have.tags, rule.tag),
        via=have.via or rule.route,
        notify=(*have.notify, *((rule.name, address) for address in rule.notify)),
        limits=once(have.limits, rule.limit),
    )


def by_limit(limit: Limit, rule: MailRule, excess: Excess) -> MailDecision:
    contain = limit.above == "contain"
    return MailDecision(
        MailAction.DEFER if contain else MailAction(limit.above),
        rule.name,
        f"above limit {limit.name} ({limit.at}): {excess}",
        folder=limit.folder if limit.above == "quarantine" else "",
        text=limit.text or f"above the limit {limit.name}: {excess}",
        limit=limit.name,
        contain_seconds=limit.contain_seconds if contain else 0,
    )


def walk(policy: Policy, facts: MailFacts) -> Iterator[tuple[MailRule, bool | None, MailDecision | None, list[Would]]]:
    """Each rule with its answer, the decision that it takes when the answer is yes, and what was tried so far."""
    effects, would = Effects(), list[Would]()
    for rule in policy.mail:
        answer = walked_answer(policy, rule, facts)
        decision = None
        if answer and rule.staged:
            would.append(Would(rule.name, rule.action))
        elif answer:
            effects = added(effects, rule)
            for limit in policy.limits:
                assert limit_of(policy, limit.name) is limit
            for name in rule.limit:
                limits = [limit for limit in policy.limits if limit.name == name and name in facts.exceeded]
                if limits and limits[0].staged:
                    would.append(Would(f"limit {name}", limits[0].above))
                elif limits:
                    decision = by_limit(limits[0], rule, facts.exceeded[name])
                    break
            if decision is None and rule.action != "continue":
                folder = rule.folder if rule.action == "quarantine" else ""
                decision = MailDecision(
                    MailAction(rule.action), rule.name, f"matched at {rule.at}", folder, rule.text, effects
                )
        yield rule, answer, decision and replace(decision, effects=effects, would=tuple(would)), would
    yield MailRule(name="end", action="reject"), True, replace(NO_RULE, effects=effects, would=tuple(would)), would


def walked_mail(policy: Policy, facts: MailFacts) -> MailDecision:
    """decide_mail, one rule after the other."""
    effects = Effects()
    for rule, answer, decision, would in walk(policy, facts):
        if answer is None and not rule.staged:
            reason = "; ".join(facts.scan.findings) if facts.scan else ""
            text = "cannot be judged now, try again later"
            blind = MailDecision(MailAction.DEFER, rule.name, reason or "a matcher cannot answer now", text=text)
            return replace(blind, effects=effects, would=tuple(would))
        if decision is not None:
            return decision
        effects = added(effects, rule) if answer and not rule.staged else effects
    raise AssertionError("the walk ends in a decision")


def walked_envelope(policy: Policy, facts: MailFacts) -> MailDecision | None:
    """decide_envelope, one rule after the other."""
    in_force = policy.replace(mail=tuple(rule for rule in policy.mail if not rule.staged))
    for rule, answer, decision, _would in walk(in_force, facts):
        if answer is None and rule.action == "accept":
            return None
        if decision is not None:
            return decision if decision.action in {MailAction.REJECT, MailAction.DEFER} else None
    raise AssertionError("the walk ends in a decision")


def assert_the_same(policy: Policy, facts: MailFacts) -> None:
    index = prepared(policy, MailIndex)
    found = {policy.mail[number].name: answer for number, answer in index.answers(policy, facts, *index.sift(facts))}
    expected = {rule.name: walked_answer(policy, rule, facts) for rule in policy.mail}
    assert found == {name: answer for name, answer in expected.items() if answer is not False}
    assert decide_mail(policy, facts) == walked_mail(policy, facts)
    assert decide_envelope(policy, facts) == walked_envelope(policy, facts)
    device = next((device for device in policy.devices if contains(device.addresses, facts.client)), None)
    assert device_of(policy, facts.client) is device


@given(SITES, rules(SOME_MATCHERS), DEVICES, st.lists(LIMIT, max_size=3), st.lists(FACTS, min_size=4, max_size=8))
def test_a_message_is_decided_as_a_walk_over_all_rules_decides_it(
    site: dict[str, Any],
    mail: list[dict[str, Any]],
    devices: dict[str, Any],
    limits: list[dict[str, Any]],
    messages: list[MailFacts],
) -> None:
    policy = mail_policy(site, mail, devices, limits)
    for facts in messages:
        assert_the_same(policy, facts)


@pytest.mark.parametrize("key", sorted(MATCHES))
@settings(max_examples=COMPARISONS, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(SITES, st.data(), DEVICES, st.lists(FACTS, min_size=8, max_size=12))
def test_each_matcher_says_in_the_index_what_it_says_by_itself(
    key: str, site: dict[str, Any], data: st.DataObject, devices: dict[str, Any], messages: list[MailFacts]
) -> None:
    mail = data.draw(rules(st.fixed_dictionaries({key: MATCHES[key]})))
    policy = mail_policy(site, mail, devices, [])
    for facts in messages:
        assert_the_same(policy, facts)


def test_every_matcher_has_its_column() -> None:
    assert list(COLUMNS) == list(MATCHERS) == list(MATCHES)


SITE = {"zones": {"lan": {"networks": "10.0.0.0/8"}}}
FROM_LAN = MailFacts(
    client=ip_address("10.0.3.232"),
    listener="lan",
    reverse_path="a@x.example",
    forward_path="b@y7.example",
    user="u1000",
)
CLEAN = ScanReport(Verdict.CLEAN, attachments=(Attachment(("a.e77",), "image/jpeg", 1),))


@pytest.mark.parametrize(
    "match_of",
    [
        lambda n: {"client": f"10.0.{n // 256}.{n % 256}"},
        lambda n: {"user": f"u{n}"},
        lambda n: {"sender": f"*@x{n}.example"},
        lambda n: {"recipient": f"b@y{n}.example"},
        lambda n: {"recipient_domain": f".y{n}.example"},
        lambda n: {"client": "lan", "attachment_name": f"*.e{n}"},
        lambda n: {"attachment_type": f"x-{n}/*", "verdict": "clean"},
        lambda n: {"attachment_name": f"*.q{n}*", "user": f"u{n}"},
        lambda n: {"header": {f"X-{n}": "*"}},
        lambda n: {"helo": f"*.h{n}.example"},
        lambda n: {"score_at_least": n + 1},
    ],
)
def test_rules_that_cannot_match_are_not_looked_at(match_of: Any) -> None:
    mail = [{"match": match_of(n), "action": "reject"} for n in range(2000)]
    policy = mail_policy(SITE, mail, {}, [])
    facts = replace(FROM_LAN, headers={"x-5": ("",)}, scan=CLEAN, helo="m.h5.example")
    left, _unsure = prepared(policy, MailIndex).sift(facts)
    assert left.bit_count() <= 1


def test_rules_that_need_the_content_are_not_looked_at_before_it_is_there() -> None:
    mail = [{"match": {"attachment_name": f"*.e{n}", "verdict": "infected"}, "action": "reject"} for n in range(2000)]
    policy = mail_policy(SITE, [*mail, {"match": {"client": "lan"}, "action": "accept"}], {}, [])
    index = prepared(policy, MailIndex)
    assert index.sift(FROM_LAN) == ((1 << 2001) - 1, (1 << 2000) - 1)
    assert decide_envelope(policy, FROM_LAN) is None
    assert index.in_force & index.accepting == 1 << 2000


def test_what_is_remembered_of_clients_is_bounded() -> None:
    count = REMEMBERED_ENTRIES + 10
    mail = [{"match": {"client": str(IPv4Address((10 << 24) + 2 * n))}, "action": "accept"} for n in range(count)]
    policy = mail_policy(SITE, mail, {}, [])
    for n in range(count):
        facts = replace(FROM_LAN, client=IPv4Address((10 << 24) + 2 * n))
        assert decide_mail(policy, facts).rule == f"m{n}"
    index = prepared(policy, MailIndex)
    assert len(index.decisions) <= REMEMBERED_ENTRIES and len(index.effects) <= REMEMBERED_ENTRIES


def test_a_policy_with_other_parts_is_decided_by_these() -> None:
    policy = mail_policy(SITE, [{"match": {"device": "nas"}, "action": "accept", "limit": "per-host"}], {}, [])
    assert decide_mail(policy, FROM_LAN).rule == "(none)"
    nas = Device.model_validate({"name": "nas", "addresses": "10.0.3.232", "senders": "a@x.example"})
    limit = Limit.model_validate({"name": "per-host", "per": "host", "messages_per_hour": 1})
    exceeded = replace(FROM_LAN, exceeded={"per-host": Excess("host 10.0.3.232", "messages_per_hour", 1, 2)})
    for other in (policy.replace(devices=(nas,)), policy.model_copy(update={"devices": (nas,)})):
        assert decide_mail(other, FROM_LAN).rule == "m0"
        assert decide_mail(other, exceeded).action is MailAction.ACCEPT
        limited = other.model_copy(update={"limits": (limit,)})
        assert decide_mail(limited, exceeded).limit == "per-host"
        assert limit_of(limited, "per-host") is limit and limit_of(other, "per-host") is None
    assert decide_mail(policy, FROM_LAN).rule == "(none)"
