"""The shipped rules as truth tables: what a site gets that changes nothing."""

from __future__ import annotations

import re
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from egressguard.net.flow import Flow, Protocol
from egressguard.policy.decision import FlowAction, MailAction
from egressguard.policy.facts import Attachment, MailFacts, ScanReport
from egressguard.policy.flows import Surroundings, decide_flow
from egressguard.policy.load import parse_rules
from egressguard.policy.mail import decide_envelope, decide_mail
from egressguard.policy.model import Policy
from egressguard.policy.patterns import name_matches
from egressguard.policy.verdict import Verdict

RULES = Path(__file__).parents[2] / "rules"
FILES = {path.name: path.read_bytes() for path in sorted(RULES.glob("*.yaml"))}
YARA = {"yara/example.yar": b"rule nothing { condition: false }\n"}  # for the commented example
ROUTER, ONE_ARMED = Surroundings(frozenset({"lan0"})), Surroundings()
CLEAN = ScanReport(Verdict.CLEAN, (), ())


def load(**changed: str) -> Policy:
    """The shipped rules; `changed` replaces whole files."""
    files = {**FILES, **YARA, **{f"{name}.yaml": text.encode() for name, text in changed.items()}}
    loaded = parse_rules(files)
    assert loaded.policy is not None, [str(fault) for fault in loaded.faults]
    return loaded.policy


def uncommented(name: str) -> str:
    """A file with its commented examples switched on: comment lines that are YAML by their look."""
    text = (RULES / f"{name}.yaml").read_text()
    yaml = r"(- |  +[a-z_]+: |    |[a-z_]+: [\[{]|smart_hosts:|block_lists:|signing:|  [a-z]+:$)"
    return "".join(re.sub(rf"^( *)# (?={yaml})", r"\1", line) for line in text.splitlines(keepends=True))


@pytest.mark.parametrize("surroundings", [ROUTER, ONE_ARMED], ids=["router", "one interface"])
@pytest.mark.parametrize(
    ("source", "destination"),
    [
        ("192.168.1.7", "203.0.113.9"),
        ("10.9.8.7", "203.0.113.9"),
        ("172.16.0.1", "203.0.113.9"),
        ("100.64.3.3", "203.0.113.9"),
        ("fd12::1", "2001:db8::25"),
        ("fe80::1", "2001:db8::25"),
        ("::ffff:192.168.1.7", "203.0.113.9"),
    ],
)
def test_direct_smtp_from_the_lan_is_rejected_and_nothing_else_is(
    surroundings: Surroundings, source: str, destination: str
) -> None:
    policy = load()
    flow = Flow(ip_address(source), ip_address(destination), 25, "lan0")
    assert decide_flow(policy, flow, surroundings).action is FlowAction.REJECT
    for port in (22, 53, 80, 443, 465, 587, 993):
        assert decide_flow(policy, replace(flow, destination_port=port), surroundings).action is FlowAction.ALLOW
    assert decide_flow(policy, replace(flow, protocol=Protocol.UDP), surroundings).action is FlowAction.ALLOW


def test_a_global_or_forged_source_on_the_lan_side_of_a_router_is_rejected() -> None:
    for source in ("2001:db8:1::7", "203.0.113.77"):
        flow = Flow(ip_address(source), ip_address("2001:db8::25"), 25, "lan0")
        assert decide_flow(load(), flow, ROUTER).action is FlowAction.REJECT


def test_mail_from_outside_to_port_25_is_none_of_our_business() -> None:
    flow = Flow(ip_address("203.0.113.9"), ip_address("198.51.100.1"), 25, "wan0")
    assert decide_flow(load(), flow, ROUTER).rule == ""


def test_own_mail_servers_are_exempt_once_they_are_listed() -> None:
    flow = Flow(ip_address("192.168.1.25"), ip_address("203.0.113.9"), 25, "lan0")
    assert decide_flow(load(), flow, ROUTER).rule == "block-direct-smtp"
    site = FILES["site.yaml"].decode().replace("mail-servers: []", "mail-servers: 192.168.1.25")
    exempt = load(site=site)
    assert decide_flow(exempt, flow, ROUTER).rule == "own-mail-servers"
    other = replace(flow, source=ip_address("192.168.1.26"))
    assert decide_flow(exempt, other, ROUTER).rule == "block-direct-smtp"
    outside = replace(flow, source=ip_address("192.168.1.25"), interface="wan0")
    assert decide_flow(exempt, outside, ROUTER).action is FlowAction.ALLOW


STRANGER = MailFacts(
    client=ip_address("192.168.1.7"),
    listener="lan",
    reverse_path="bot@spam.example",
    forward_path="victim@far.example",
    size_octets=1000,
    scan=CLEAN,
)
USER = replace(STRANGER, listener="submission", user="anna", reverse_path="anna@example.org", tls=True)


@pytest.mark.parametrize(
    "facts",
    [
        STRANGER,
        replace(STRANGER, redirected=True),
        replace(STRANGER, listener="submission", tls=True),
        replace(STRANGER, reverse_path=""),
        replace(STRANGER, reverse_path="anna@example.org"),
        replace(STRANGER, client=ip_address("203.0.113.9")),
        replace(STRANGER, client=ip_address("::1")),
        replace(STRANGER, forward_path="victim%far.example@192.0.2.1"),
    ],
)
def test_nobody_relays_by_being_on_the_lan(facts: MailFacts) -> None:
    policy = load()
    early = decide_envelope(policy, replace(facts, size_octets=None, scan=None))
    assert early is not None and early.action is MailAction.REJECT and early.text == "relaying denied"
    assert decide_mail(policy, facts).action is MailAction.REJECT


@pytest.mark.parametrize(
    ("scan", "action", "folder"),
    [
        (CLEAN, MailAction.ACCEPT, ""),
        (ScanReport(Verdict.INFECTED, ("eicar",), ()), MailAction.QUARANTINE, "Infected"),
        (ScanReport(Verdict.DENIED, (), (Attachment(("a.exe",), "x/y", 1),)), MailAction.QUARANTINE, "Denied"),
        (ScanReport(Verdict.AMBIGUOUS, ("hidden",), ()), MailAction.QUARANTINE, "Ambiguous"),
        (ScanReport(None, ("clamd does not answer",)), MailAction.DEFER, ""),
        (None, MailAction.DEFER, ""),
    ],
)
def test_a_user_may_write_to_anybody_what_is_clean(scan: ScanReport | None, action: MailAction, folder: str) -> None:
    policy = load()
    assert decide_envelope(policy, replace(USER, size_octets=None, scan=None)) is None
    decision = decide_mail(policy, replace(USER, scan=scan))
    assert (decision.action, decision.folder) == (action, folder)


def test_mail_for_own_domains_is_taken_once_they_are_named() -> None:
    incoming = replace(STRANGER, forward_path="anna@example.org")
    assert decide_mail(load(), incoming).action is MailAction.REJECT
    named = load(site=FILES["site.yaml"].decode().replace("# domains: [example.org]", "domains: [example.org]"))
    assert decide_mail(named, incoming).rule == "own-domains"
    assert decide_mail(named, replace(incoming, scan=None)).action is MailAction.DEFER
    assert decide_mail(named, STRANGER).action is MailAction.REJECT


def test_a_device_may_send_as_itself_once_it_is_listed() -> None:
    listed = load(devices=uncommented("devices").replace("devices: []", "devices:"))
    scan = replace(
        STRANGER,
        client=ip_address("192.168.1.70"),
        reverse_path="printer@example.org",
        forward_path="boss@example.org",
    )
    assert decide_mail(listed, scan).rule == "devices"
    assert decide_envelope(listed, replace(scan, size_octets=None, scan=None)) is None
    for forged in (
        replace(scan, client=ip_address("192.168.1.71")),
        replace(scan, reverse_path="boss@example.org"),
        replace(scan, forward_path="victim@far.example"),
    ):
        assert decide_mail(listed, forged).action is MailAction.REJECT


def test_the_commented_examples_are_good_rules() -> None:
    site, mail = uncommented("site"), uncommented("mail").replace("routes: []", "routes:")
    flows, devices = uncommented("flows"), uncommented("devices").replace("devices: []", "devices:")
    policy = load(site=site, mail=mail, flows=flows, devices=devices)
    assert [rule.name for rule in policy.flows] == [
        "own-mail-servers",
        "redirect-old-devices",
        "partner-mx",
        "block-direct-smtp",
        "submission",
        "disguised-smtp",
    ]
    assert {"redirected", "devices"} <= {rule.name for rule in policy.mail}
    assert policy.routes[0].via == ("provider",) and "provider" in policy.site.smart_hosts
    assert policy.site.signing["own"].domains == ("example.org",)
    assert policy.devices and policy.site.domains and policy.site.resolvers and policy.site.scan.clamd
    redirected = replace(STRANGER, redirected=True, reverse_path="old@example.org")
    assert decide_mail(policy, redirected).rule == "redirected"
    assert decide_mail(policy, replace(redirected, reverse_path="x@spam.example")).action is MailAction.REJECT


def test_the_ports_are_those_that_mail_programs_expect() -> None:
    site = load().site
    ports = {listener.kind: listener.port for listener in site.relay.listeners.values()}
    assert ports == {"smtp": 25, "submission": 587, "submissions": 465}
    access = site.access
    assert (access.imap_port, access.imaps_port, access.pop3_port, access.pop3s_port) == (143, 993, 110, 995)
    assert (str(site.metrics.address), site.metrics.port) == ("127.0.0.1", 9125)


@pytest.mark.parametrize("name", ["a.exe", "A.SCR", "x.js", "x.vbs", "x.lnk", "x.iso", "invoice.pdf.exe", "x.exe. "])
def test_programs_are_denied_by_name(name: str) -> None:
    assert name_matches(load().site.scan.denied_names, name)


@pytest.mark.parametrize("name", ["a.pdf", "a.docx", "photo.jpg", "exe.txt", "a.json", "notes.md"])
def test_documents_are_not_denied_by_name(name: str) -> None:
    assert not name_matches(load().site.scan.denied_names, name)


def test_no_secret_stands_in_the_rules() -> None:
    assert not re.search(rb"(?i)password:|secret: (?!\"file:)", b"".join(FILES.values()))


def test_the_readme_names_every_file_and_the_reference_every_key() -> None:
    from egressguard.policy.page import keys_of
    from egressguard.policy.reference import json_schema

    readme, reference = (RULES / "README.md").read_text(), (RULES.parent / "docs/rules.md").read_text()
    assert [name for name in FILES if f"`{name}`" not in readme] == []
    assert "docs/rules.md" in readme
    assert [key for key in sorted(set(keys_of(json_schema()))) if f"`{key}`" not in reference] == []


def test_each_file_names_its_schema_for_editors() -> None:
    for name, content in FILES.items():
        assert content.startswith(b"# yaml-language-server: $schema=schema.json\n"), name
