"""What no single mapping can know: each row is a slip, where it is told, and in which words."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from egressguard.policy.document import Fault
from egressguard.policy.endpoint import parse_endpoint
from egressguard.policy.load import parse_rules
from egressguard.policy.model import Policy

FaultsOf = Callable[[str], Sequence[Fault]]
PolicyOf = Callable[[str], Policy]

FLOWS = [
    ("from: [lan, lna]", "lna", "unknown zone 'lna', did you mean 'lan'?; expected one of dmz, lan, wire"),
    ('source: "@mail-server"', '"@mail', "unknown set 'mail-server', did you mean 'mail-servers'?"),
    ('destination: [10.0.0.0/8, "@x"]', '"@x"', "unknown set 'x'; expected one of mail-servers, nobody"),
    ("source: example.org", "example", "'example.org' is neither a prefix nor a set"),
    ("source: 10.0.0.1/8", "10.0", "expected 10.0.0.0/8"),
    ('source: "::ffff:10.0.0.1"', '"::f', "expected an IPv4 prefix"),
    ("destination_host: mx.example", "mx.", "expected `decide: queue`"),
    ("destination_host: [a.example, 10.0.0.1], decide: queue", "10.0", "is no host name"),
    ("destination_host: -x, decide: queue", "-x", "is no host name"),
    ("port: 25, protocol: gre", "25", "gre has no ports"),
    ("fail: open", "open", "expected `decide: queue`"),
    ("speaks: smtp, protocol: udp", "smtp", "expected `protocol: tcp`"),
    ("speaks: smtp, decide: queue", "queue", "expected `decide: kernel`"),
    ("source_mac: [00-53-00-00-00-01]", "00-53", "expected a MAC address such as 00:53:00:12:34:56, or @NAME"),
    ("source_mac: '@cards'", "'@cards'", "unknown MAC set 'cards'"),
    ("source: 192.0.2.9-192.0.2.3", "192.0.2.9", "the lower address first"),
    ("source: 192.0.2.9-2001:db8::1", "192.0.2.9", "a range of one family"),
]


@pytest.mark.parametrize(("keys", "mark", "message"), FLOWS)
def test_a_flow_rule_that_fits_nothing_is_a_fault(keys: str, mark: str, message: str, faults_of: FaultsOf) -> None:
    expect_at(f"flows:\n- {{name: a, action: drop, {keys}}}\n", mark, message, faults_of)


REDIRECTS = [
    ("action: redirect, port: 25, decide: queue", "queue", "expected `decide: kernel`"),
    ("action: redirect, port: 25, protocol: udp", "udp", "expected `protocol: tcp`"),
    ("action: redirect", "redirect", "every TCP port would end here"),
    ("action: tarpit, port: 25", "tarpit", "expected `tarpit_port: 2599` in site.relay"),
    ("action: redirect, port: 25, speaks: smtp", "redirect", "expected reject or drop"),
]


@pytest.mark.parametrize(("keys", "mark", "message"), REDIRECTS)
def test_a_redirect_that_cannot_work_is_a_fault(keys: str, mark: str, message: str, faults_of: FaultsOf) -> None:
    expect_at(f"flows:\n- {{name: a, {keys}}}\n", mark, message, faults_of)


MAIL = [
    ("match: {client: lna}, action: accept", "lna", "unknown zone 'lna', did you mean 'lan'?"),
    ("match: {client: wire}, action: accept", "wire", "expected `networks` in zone 'wire'"),
    ('match: {client: "@x"}, action: accept', '"@x', "unknown set 'x'"),
    ("match: {}, action: quarantine, folder: Delete", "Delete", "is an order"),
    ("match: {client: 300.1.1.1}, action: accept", "300", "expected a zone, @SET or a prefix"),
    ("match: {device: printr}, action: accept", "printr", "unknown device 'printr', did you mean 'printer'?"),
    ("match: {listener: [lan, smtp]}, action: accept", "smtp", "unknown listener 'smtp'; expected one of lan, subm"),
    ("match: {sender: anna}, action: accept", "anna", "expected anna@example.org or *@example.org or <>"),
    ("match: {sender: '*'}, action: accept", "'*'", "is no address"),
    ("match: {sender: anna@}, action: accept", "anna@", "is no address"),
    ("match: {sender: '@local'}, action: accept", "'@local", "is no address"),
    ("match: {recipient: '<>'}, action: accept", "'<>'", "'<>' is no address"),
    ("match: {sender_domain: '@locl'}, action: accept", "'@locl", "did you mean '@local'?"),
    ("match: {recipient_domain: anna@x.example}, action: accept", "anna", "is no domain"),
    ("match: {recipient_domain: ''}, action: accept", "''", "is no domain"),
    ("match: {recipient_domain: '*.x.example'}, action: accept", "'*", "expected example.org, .example.org"),
    ("match: {user: anna, authenticated: false}, action: accept", "anna", "has no user"),
    ("action: accept, folder: Held", "Held", "expected `action: quarantine`"),
    ("action: quarantine, text: no", "no}", "nobody is told a text"),
]


@pytest.mark.parametrize(("keys", "mark", "message"), MAIL)
def test_a_mail_rule_that_fits_nothing_is_a_fault(keys: str, mark: str, message: str, faults_of: FaultsOf) -> None:
    device = "devices: [{name: printer, addresses: 192.168.1.70, senders: p@x.example}]"
    expect_at(f"mail:\n- {{name: a, {keys}}}\n{device}\n", mark, message, faults_of)


ROUTES = [
    ("via: [provider, bakup]", "bakup", "unknown smart host 'bakup', did you mean 'backup'?"),
    ("via: [mx, provider]", "[mx", "mx stands beside smart hosts"),
    ("via: []", "[]", "leads nowhere"),
    ('via: [provider, "[192.0.2.1]"]', "[provider", "next hops stand beside names"),
    ('via: [mx, "[192.0.2.1]"]', "[mx", "mx stands beside"),
    ('via: ["[192.0.2.1]", "smtp:x.example"]', '["[192', "smtp:x.example stands beside others"),
    ("via: 'mx.example:25'", "'mx.example:25'", "expected mx, the name of a smart host, or a next hop"),
    ("via: '[mx.example]:0'", "'[mx.example]:0'", "not a port"),
    ("via: 'pipe:uucp:b'", "'pipe", "unknown pipe 'uucp'"),
    ("via: ['pipe:uucp', '[192.0.2.1]']", "['pipe", "pipe:uucp stands beside others"),
    ("via: Provider", "Provider", "expected mx, the name of a smart host, or a next hop"),
    ("via: mx, match: {client: '@servers'}", "'@servers'", "unknown set 'servers'"),
    ("via: mx, match: {client: wire}", "wire", "expected `networks` in zone"),
    ("via: mx, match: {listener: lann}", "lann", "unknown listener 'lann', did you mean 'lan'?"),
    ("via: mx, match: {recipient: x}", "x}", "is no address"),
    ("via: mx, match: {larger_than_octets: 9, smaller_than_octets: 10}", "10", "no message is larger"),
    ("via: mx, match: {sender: x}", "x}", "is no address"),
    ("via: mx, match: {recipient_domain: '@x'}", "'@x", "is no domain"),
    ("via: mx, match: {sender_domain: '@x'}", "'@x", "is no domain"),
]


@pytest.mark.parametrize(("keys", "mark", "message"), ROUTES)
def test_a_route_that_leads_nowhere_is_a_fault(keys: str, mark: str, message: str, faults_of: FaultsOf) -> None:
    expect_at(f"routes:\n- {{name: a, {keys}}}\n", mark, message, faults_of)


DEVICES = [
    ("addresses: [], senders: p@x.example", "[]", "a device without addresses"),
    ("addresses: 10.0.0.1, senders: []", "[]", "a device without senders"),
    ("addresses: 10.0.0.1, senders: printer", "printer", "is no address"),
    ("addresses: 10.0.0.1, senders: p@x.example, recipients: '@local'", "'@l", "is no address"),
]


@pytest.mark.parametrize(("keys", "mark", "message"), DEVICES)
def test_a_device_that_may_send_nothing_is_a_fault(keys: str, mark: str, message: str, faults_of: FaultsOf) -> None:
    expect_at(f"devices:\n- {{name: a, {keys}}}\n", mark, message, faults_of)


def expect_at(text: str, mark: str, message: str, faults_of: FaultsOf) -> None:
    """One fault: in the second line, where `mark` stands last."""
    faults = faults_of(text)
    assert len(faults) == 1, [str(f) for f in faults]
    assert message in faults[0].message
    assert (faults[0].line, faults[0].column) == (2, text.splitlines()[1].rindex(mark) + 1)


@pytest.mark.parametrize(
    ("section", "item"),
    [
        ("flows", "{name: a, action: drop}"),
        ("mail", "{name: a, action: reject}"),
        ("routes", "{name: a, via: mx}"),
        ("devices", "{name: a, addresses: 10.0.0.1, senders: p@x.example}"),
    ],
)
def test_a_name_used_twice_is_told_at_the_second_and_names_the_first(
    section: str, item: str, faults_of: FaultsOf
) -> None:
    (fault,) = faults_of(f"{section}:\n- {item}\n- {item}\n")
    assert (fault.line, fault.column) == (3, 10)
    assert f"the name 'a' stands twice in {section}; the first is at rules.yaml:2:3" in fault.message


def test_the_same_name_may_stand_in_different_sections(policy_of: PolicyOf) -> None:
    policy_of("flows: [{name: a, action: drop}]\nmail: [{name: a, action: reject}]\nroutes: [{name: a, via: mx}]\n")


def test_what_fits_together_is_no_fault(policy_of: PolicyOf) -> None:
    policy_of(
        """
flows:
  - {name: a, from: [lan, dmz], source: ["@mail-servers", 10.0.0.0/8, "fd00::1"], destination: 192.0.2.1, action: allow}
  - {name: b, destination_host: [mx.x.example, a.example], decide: queue, action: allow}
  - {name: c, port: [25, 2525], action: redirect}
mail:
  - {name: a, match: {client: [lan, "@nobody", 10.0.0.0/8], device: ["@any", printer]}, action: accept}
  - {name: b, match: {sender: ["<>", "*@x.example", "a@[192.0.2.1]"], recipient: "*@y.example"}, action: reject}
  - {name: c, match: {sender_domain: ["@local", .x.example]}, action: quarantine, folder: Odd}
routes:
  - {name: a, match: {recipient_domain: "@local", sender: "<>"}, via: [provider, backup]}
  - {name: b, via: mx}
devices:
  - {name: printer, addresses: [192.168.1.70, "fd00::70"], senders: ["p@x.example", "<>"], recipients: "*@x.example"}
"""
    )


SITES = [
    ("relay: {redirect_to: lam, listeners: {lan: {kind: smtp, port: 25}}}", "redirect_to: ", "did you mean 'lan'?"),
    ("relay: {redirect_to: s, listeners: {s: {kind: submission, port: 587}}}", "redirect_to: ", "expected kind smtp"),
    ("relay: {hostname: 192.0.2.1}", "hostname: ", "is no host name"),
    ("relay: {retry: {first_seconds: 600, longest_seconds: 60}}", "longest_seconds: ", "less than first_seconds"),
    ("relay: {retry: {warn_after_seconds: 432000}}", "warn_after_seconds: ", "is not before give_up_after_seconds"),
    ("relay: {concurrency: {rest_first_seconds: 1000}}", "concurrency: ", "is less than rest_first_seconds (1000)"),
    ("destinations: {x: {domain: a b}}", "domain: ", "is no domain"),
    ("destinations: {x: {domain: a.example, retry: {first_seconds: 20000}}}", "retry: ", "less than first_seconds"),
    (
        "smart_hosts: {x: {host: a.example, breaker: {rest_longest_seconds: 1}}}",
        "rest_longest_seconds: ",
        "is less than rest_first_seconds (30)",
    ),
    ("relay: {retry: {give_up_after_seconds: 60}}", "give_up_after_seconds: ", "less than first_seconds (300)"),
    ("relay: {listeners: {a: {kind: smtp, port: 25}, b: {kind: smtp, port: 25}}}", "b: {kind: smtp, port: ", "used by"),
    ("relay: {listeners: {a: {kind: smtp, port: 993}}}\n  access: {imaps_port: 993}", "imaps_port: ", "used by site"),
    ("access: {imap_port: 143, pop3_port: 143}", "pop3_port: ", "port 143 is used by site.access.imap_port"),
    ("access: {imap_port: 9125}", "imap_port: 9125", "is used by"),
    ("access: {zones: lna}", "zones: ", "unknown zone 'lna'"),
    ("access: {quarantine_admins: [anna, Bert]}", "quarantine_admins: [anna, ", "is no account's name"),
    ("access: {own_quarantine: {folders: [Held, Release]}}", "folders: [Held, ", "Release is an order"),
    ("domains: [x.example, 192.0.2.1]", "domains: [x.example, ", "is no domain"),
    ("domains: x..example", "domains: ", "is no domain"),
    ("resolvers: [192.0.2.53, dns.example]", "resolvers: [192.0.2.53, ", "is no resolver"),
    ("scan: {clamd: {address: clamd}}", "address: ", "expected unix:/path or host:port"),
    ("scan: {clamd: {address: 'clamd:'}}", "address: ", "expected unix:/path or host:port"),
    ("scan: {rspamd: {address: '/run/s'}}", "address: ", "expected unix:/path or host:port"),
    ("scan: {spamd: {address: ':783'}}", "address: ", "expected unix:/path or host:port"),
    ("scan: {yara: {folder: yara}}", "folder: ", "expected *.yar or *.yara files there"),
    ("smart_hosts: {mx: {host: h.example}}", "smart_hosts: {mx: ", "cannot be named mx"),
    ("smart_hosts: {s: {host: 'h example'}}", "host: ", "is no host"),
    (
        "smart_hosts: {s: {host: h.example, tls: opportunistic, auth: {user: u, secret: 'file:s'}}}",
        "tls: ",
        "can be read on the way",
    ),
]


@pytest.mark.parametrize(("text", "mark", "message"), SITES)
def test_a_site_that_does_not_fit_together_is_a_fault(text: str, mark: str, message: str) -> None:
    faults = parse_rules({"f.yaml": f"site:\n  zones: {{}}\n  {text}\n".encode()}).faults
    fault = next((f for f in faults if message in f.message), None)
    assert fault is not None, [str(f) for f in faults]
    if mark.endswith(" "):
        line = f"  {text}".splitlines()[fault.line - 3]
        assert fault.column == line.index(mark) + len(mark) + 1


@pytest.mark.parametrize(
    ("zone", "message"),
    [
        ("any: {networks: 10.0.0.0/8}", "'any' is taken by EgressGuard itself"),
        ("gateway: {networks: 10.0.0.0/8}", "'gateway' is taken by EgressGuard itself"),
        ("lan: {interfaces: '@insde'}", "did you mean '@inside'?"),
        ("lan: {interfaces: [eth0, 'eth*']}", "no patterns"),
        ("lan: {interfaces: a-name-that-is-too-long}", "is no interface"),
        ("lan: {interfaces: 'a\"b'}", "is no interface"),
        ("lan: {interfaces: ''}", "is no interface"),
    ],
)
def test_a_zone_that_no_packet_can_be_in_is_a_fault(zone: str, message: str) -> None:
    (fault,) = parse_rules({"f.yaml": f"site:\n  zones:\n    {zone}\n".encode()}).faults
    assert message in fault.message and fault.line == 3


def test_a_redirect_without_a_listener_is_a_fault() -> None:
    text = b"site: {zones: {}}\nflows: [{name: r, port: 25, action: redirect}]\n"
    (fault,) = parse_rules({"f.yaml": text}).faults
    assert "expected `redirect_to: LISTENER` in site.relay" in fault.message and fault.line == 2


@pytest.mark.parametrize(
    "listeners",
    [
        "{a: {kind: smtp, port: 25, addresses: 192.0.2.1}, b: {kind: smtp, port: 25, addresses: 192.0.2.2}}",
        '{a: {kind: smtp, port: 25, addresses: 192.0.2.1}, b: {kind: smtp, port: 25, addresses: "::"}}',
        "{a: {kind: smtp, port: 0}, b: {kind: smtp, port: 0}}",
        "{a: {kind: smtp, port: 9125, addresses: 192.0.2.1}}",
    ],
)
def test_servers_on_one_port_may_have_addresses_of_their_own(listeners: str) -> None:
    assert parse_rules({"f.yaml": f"site:\n  zones: {{}}\n  relay: {{listeners: {listeners}}}\n".encode()}).policy


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("192.0.2.53", ("192.0.2.53", 53)),
        ("192.0.2.53:5353", ("192.0.2.53", 5353)),
        ("2001:db8::53", ("2001:db8::53", 53)),
        ("2001:db8::", ("2001:db8::", 53)),
        ("[2001:db8::53]", ("2001:db8::53", 53)),
        ("[2001:db8::53]:5353", ("2001:db8::53", 5353)),
    ],
)
def test_an_endpoint_has_an_address_and_perhaps_a_port(text: str, endpoint: tuple[str, int]) -> None:
    assert parse_endpoint(text, 53) == endpoint


@pytest.mark.parametrize(
    "text",
    ["", "x", "192.0.2.53:", "192.0.2.53:0", "192.0.2.53:65536", "192.0.2.53:+5", "192.0.2.53:5_3", "192.0.2.53:٥٣",
     "[192.0.2.53]:53", "[2001:db8::53", "[2001:db8::53]53", "[2001:db8::53]:", "192.0.2.53: 53"],
)  # fmt: skip
def test_what_is_no_endpoint_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_endpoint(text, 53)
