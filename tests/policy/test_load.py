"""Rule files -> a Policy, or every fault at once, each in words that say what was expected."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from egressguard.policy.document import Fault
from egressguard.policy.load import MAX_TOTAL_OCTETS, parse_rules, render_faults
from egressguard.policy.model import Policy

PolicyOf = Callable[[str], Policy]
FaultsOf = Callable[[str], Sequence[Fault]]

SITE = b"site:\n  zones:\n    lan: {networks: 10.0.0.0/8}\n"


def test_lists_are_joined_in_the_order_of_file_names() -> None:
    files = {
        "20.yaml": b"flows:\n- {name: second, action: drop}\n",
        "site.yaml": SITE + b"flows:\n- {name: third, action: drop}\n",
        "10.yaml": b"flows:\n- {name: first, action: drop}\n",
        "empty.yaml": b"flows:\nmail: []\n",
    }
    policy = parse_rules(files).policy
    assert policy is not None
    assert [rule.name for rule in policy.flows] == ["first", "second", "third"]


def test_each_rule_knows_its_place(policy_of: PolicyOf) -> None:
    policy = policy_of("flows:\n  - name: a\n    action: drop\nmail:\n  - {name: m, action: reject}\n")
    assert policy.flows[0].at == "rules.yaml:2:5"
    assert policy.mail[0].at == "rules.yaml:5:5"


def test_a_rule_place_names_the_file_below_the_rules_directory() -> None:
    files = {"a.yaml": SITE + b"include: x/b.yaml", "x/b.yaml": b"flows: [{name: a, action: drop}]"}
    policy = parse_rules(files).policy
    assert policy is not None and policy.flows[0].at == "x/b.yaml:1:9"


def test_a_rule_file_cannot_set_its_own_place(faults_of: FaultsOf) -> None:
    (fault,) = faults_of("flows: [{name: a, action: drop, _at: here}]")
    assert "unknown key '_at'" in fault.message


def test_one_value_may_stand_for_a_list_of_one(policy_of: PolicyOf) -> None:
    rule = policy_of("flows: [{name: a, from: lan, port: 25, source: 10.1.2.3, action: drop}]").flows[0]
    assert (rule.from_zone, rule.port, rule.source) == (("lan",), (25,), ("10.1.2.3",))


def test_the_revision_follows_names_and_octets_of_what_is_read() -> None:
    def revision(files: dict[str, bytes]) -> str:
        policy = parse_rules(files).policy
        assert policy is not None
        return policy.revision

    one = revision({"a.yaml": SITE})
    assert one == revision({"a.yaml": SITE, "README.md": b"not read"}) and len(one) == 12
    changed = [{"b.yaml": SITE}, {"a.yaml": SITE + b"\n"}, {"a.yaml": SITE, "b.yaml": b""}]
    assert len({one, *map(revision, changed)}) == 4


def test_yara_rules_are_part_of_the_revision() -> None:
    site = b"site:\n  zones: {}\n  scan: {yara: {folder: yara}}\n"
    files = {"site.yaml": site, "yara/a.yar": b"rule a { condition: true }"}
    first = parse_rules(files).policy
    assert first is not None
    for name, changes in (("yara/a.yar", True), ("yara/deeper/b.yar", False), ("yara/readme.txt", False)):
        other = parse_rules({**files, name: b"rule b { condition: true }"}).policy
        assert other is not None
        assert (other.revision != first.revision) == changes, name


def test_every_fault_is_told_at_once_and_in_order() -> None:
    loaded = parse_rules(
        {
            "b.yaml": b"flows:\n- {name: a, prot: 25, action: rejekt}\n- {name: b, action: drop, from: lna}\n",
            "a.yaml": SITE + b"mail:\n- {name: m, action: accept, match: {recipient: nobody}}\nroutes:\n- {name: r}\n",
        }
    )
    assert loaded.policy is None
    assert [f"{f.file}:{f.line}:{f.column}" for f in loaded.faults] == [
        "a.yaml:5:48",
        "a.yaml:7:3",
        "b.yaml:2:13",
        "b.yaml:2:31",
        "b.yaml:3:33",
    ]


@pytest.mark.parametrize(
    ("text", "column", "message"),
    [
        ("{name: a, prot: 25, action: drop}", 11, "unknown key 'prot', did you mean 'port'?"),
        ("{name: a, from_zone: lan, action: drop}", 11, "unknown key 'from_zone'"),
        ('{name: a, port: "25", action: drop}', 17, "found the text '25', expected a whole number"),
        ("{name: a, port: [25, x], action: drop}", 22, "found the text 'x', expected a whole number"),
        ("{name: a, port: true, action: drop}", 17, "found 'true', expected a whole number"),
        ("{name: a, port: 0, action: drop}", 17, "found the number 0, expected a number of at least 1"),
        ("{name: a, port: 65536, action: drop}", 17, "expected a number of at most 65535"),
        ("{name: a, port: {x: 1}, action: drop}", 17, "found a mapping, expected a whole number"),
        ("{name: a, action: drop, log: no}", 30, "found the text 'no', expected true or false"),
        ("{name: a, action: drop, log: 1}", 30, "found the number 1, expected true or false"),
        ("{name: a, action: blok}", 19, "expected one of allow, reject, drop, redirect"),
        ("{name: a, action: }", 19, "found nothing; expected one of"),
        ("{name: 7, action: drop}", 8, "found the number 7, expected text"),
        ("{name: A B, action: drop}", 8, "expected a name: lower-case letters"),
        ("{name: a}", 1, "the key 'action' is missing"),
        ("{action: drop}", 1, "the key 'name' is missing"),
        ("drop", 1, "found the text 'drop', expected a mapping"),
        ("[a]", 1, "found a list, expected a mapping"),
    ],
)
def test_what_is_not_well_formed_is_explained_in_place(
    text: str, column: int, message: str, faults_of: FaultsOf
) -> None:
    faults = faults_of(f"flows:\n- {text}\n")
    fault = next(f for f in faults if message in f.message)
    assert (fault.file, fault.line, fault.column) == ("rules.yaml", 2, column + 2)


@pytest.mark.parametrize(
    ("site", "place", "message"),
    [
        ("zones: {lan: {}}", (2, 16), "a zone needs interfaces, networks or both"),
        ("zones: {LAN: {networks: 10.0.0.0/8}}", (2, 11), "'LAN' is no name"),
        ("zones: {lan: {networks: 10.0.0.1/8}}", (2, 27), "expected 10.0.0.0/8"),
        ("zones: {lan: {networks: [10.0.0.0/8, 300.0.0.0/8]}}", (2, 40), "expected an address or a prefix"),
        ("zones: {lan: {networks: 25}}", (2, 27), "expected an address or a prefix"),
        ('zones: {lan: {networks: "fe80::%eth0/64"}}', (2, 27), "expected no interface in a prefix"),
        ('zones: {lan: {networks: "::ffff:10.0.0.0/104"}}', (2, 27), "expected an IPv4 prefix"),
        ("zones: {}\n  metrics: {address: nowhere}", (3, 22), "expected an address such as"),
        ("zones: {}\n  relay: {max_recipients: 10}", (3, 27), "expected a number of at least 100"),
        ("zones: {}\n  relay: {tls: {certificate: a.pem}}", (3, 16), "certificate and private_key go together"),
        ("zones: {}\n  smart_hosts: {s: {host: h, auth: {user: u, secret: hunter2}}}", (3, 54), "never the secret"),
        ("zones: {}\n  domains: [ok.example, 'no domain']", (3, 25), "expected a domain such as"),
        ("zones: []", (2, 10), "found a list, expected a mapping of names to values"),
        ("zones: {}\n  zones: {}", (3, 3), "stands twice"),
        ("zone: {}", (2, 3), "unknown key 'zone', did you mean 'zones'?"),
        ("relay: {}", (2, 3), "the key 'zones' is missing"),
    ],
)
def test_what_is_wrong_in_the_site_is_explained_in_place(site: str, place: tuple[int, int], message: str) -> None:
    faults = parse_rules({"f.yaml": f"site:\n  {site}\n".encode()}).faults
    assert place in [(f.line, f.column) for f in faults if message in f.message], [str(f) for f in faults]


def test_the_site_stands_exactly_once() -> None:
    none = parse_rules({"a.yaml": b"flows: []\n"}).faults
    two = parse_rules({"a.yaml": SITE, "b.yaml": SITE}).faults
    assert [str(f) for f in none] == ["a.yaml:1:1: no `site:` section in any file; expected exactly one"]
    assert [str(f) for f in two] == ["b.yaml:1:1: a second `site:` section; the first is at a.yaml:1:1, expected one"]
    assert "no `site:`" in parse_rules({}).faults[0].message


def test_faults_are_told_even_where_the_site_is_missing() -> None:
    faults = parse_rules({"a.yaml": b"flows:\n- {name: a, from: lan, action: blok}\n"}).faults
    assert any("found the text 'blok'" in f.message for f in faults)
    assert not any("unknown zone" in f.message for f in faults)  # nobody knows which zones there would be


@pytest.mark.parametrize("broken", [b"devices: [", b"devices: 5", b"devces: []", b"devices: [{}]", b"a: \xff"])
def test_a_broken_file_does_not_make_its_names_unknown(broken: bytes) -> None:
    rule = b"mail: [{name: m, match: {device: printer}, action: accept}]\n"
    faults = parse_rules({"site.yaml": SITE, "mail.yaml": rule, "devices.yaml": broken}).faults
    assert faults and {f.file for f in faults} == {"devices.yaml"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("flow: []", "unknown section 'flow', did you mean 'flows'?"),
        ("<<: {a: 1}", "unknown section '<<'"),
        ("flows: {name: a}", "expected a list of flows"),
        ("mail: 5", "expected a list of mail"),
    ],
)
def test_a_section_that_is_none_is_a_fault(text: str, message: str, faults_of: FaultsOf) -> None:
    (fault,) = faults_of(text)
    assert message in fault.message and fault.line == 1


def test_too_much_of_everything_is_one_fault() -> None:
    files = {f"{i}.yaml": b"#" * (MAX_TOTAL_OCTETS // 8) for i in range(9)}
    (fault,) = parse_rules(files).faults
    assert f"at most {MAX_TOTAL_OCTETS}" in fault.message


def test_many_faults_stay_readable_and_cheap() -> None:
    rules = b"flows:\n" + b"".join(b"- {name: a, from: nowhere, prot: 1}\n" for _ in range(5000))
    faults = parse_rules({"site.yaml": SITE, "f.yaml": rules}).faults
    assert 500 <= len(faults) <= 1000


def test_a_long_value_is_cut_in_messages(faults_of: FaultsOf) -> None:
    for text in (f"{{name: {'x' * 9000}, action: drop}}", f"{{name: a, action: drop, {'k' * 900}: 1}}"):
        faults = faults_of(f"flows:\n- {text}\n")
        assert faults and all(len(f.message) < 400 for f in faults)


def test_faults_are_shown_with_their_line_and_a_caret() -> None:
    files = {"f.yaml": SITE + "# ü\nflows: [{name: a, aktion: drop}]\n".encode()}
    shown = render_faults(parse_rules(files).faults, files).splitlines()
    assert shown[0].startswith("f.yaml:5:9: the key 'action' is missing")
    assert shown[3].startswith("f.yaml:5:19: unknown key 'aktion', did you mean 'action'?")
    assert shown[4] == "    flows: [{name: a, aktion: drop}]"
    assert shown[5] == " " * 22 + "^"


def test_showing_a_fault_sends_no_control_character_to_the_terminal() -> None:
    files = {"f.yaml": b"site: \x1b]0;owned\x07\n"}
    assert "\x1b" not in render_faults(parse_rules(files).faults, files)


def test_a_caret_stands_right_behind_a_byte_order_mark() -> None:
    files = {"f.yaml": b"\xef\xbb\xbfsite: 5\n"}
    shown = render_faults(parse_rules(files).faults, files).splitlines()
    assert shown[1:3] == ["    site: 5", "    " + " " * 6 + "^"]


def test_a_fault_of_no_file_is_shown_without_a_line() -> None:
    assert render_faults([Fault("(rules)", 1, 1, "nothing")], {}) == "(rules):1:1: nothing"
