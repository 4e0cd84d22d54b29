"""`egressguard test`: what is red is told with its place, mutants are noticed or named, a red one stops a reload."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner, Result

from egressguard.app.cli.main import main
from egressguard.app.expectations import red_expectations
from egressguard.app.rules import read_rules
from tests.scan.test_office import message

SITE = """
site:
  zones: {lan: {interfaces: eth1, networks: 10.0.0.0/8}}
  domains: [example.org]
  relay: {listeners: {lan: {kind: smtp, port: 25}}, redirect_to: lan}
  smart_hosts: {provider: {host: smtp.provider.example}}
  pipes: {uucp: {command: [/usr/bin/uux, "-"]}}
  scan: {denied_names: ["*.exe"]}
"""
RULES = """
flows:
  - {name: partner, port: 25, destination_host: mx.example.net, decide: queue, action: allow}
  - {name: soon, from: lan, port: 587, action: reject, staged: true}
  - {name: block, from: lan, port: 25, action: reject}
limits:
  - {name: few, per: host, messages_per_hour: 9, above: quarantine, folder: Limited}
mail:
  - name: marks
    match: {client: lan}
    action: continue
    add_header: {X-Zone: lan}
    tag: inside
    limit: few
    notify: root@example.org
  - {name: denied, match: {verdict: denied}, action: quarantine, folder: Denied}
  - {name: night, match: {hours: "22:00-06:00"}, action: hold}
  - {name: spam, match: {score_at_least: 7.5}, action: reject, text: Too much like spam}
  - {name: loud, match: {header: {Subject: "*!!!*"}}, action: defer}
  - {name: users, match: {user: [anna, bert]}, action: accept, source_routes: [provider, "pipe:uucp"]}
  - {name: lan, match: {client: lan}, action: accept}
routes:
  - {name: partner, match: {recipient_domain: partner.example}, via: provider}
  - {name: anna, match: {user: anna, listener: lan, client: lan, larger_than_octets: 9}, via: "[Mx.example]:2525"}
"""
GIVEN = "given: {client: 10.0.0.1, recipient: b@example.net"


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    (tmp_path / "expect" / "messages").mkdir(parents=True)
    (tmp_path / "site.yaml").write_text(SITE)
    (tmp_path / "rules.yaml").write_text(RULES)
    (tmp_path / "expect" / "messages" / "exe.eml").write_bytes(b"Subject: hi\r\n" + message("a.exe", b"MZ"))
    return tmp_path


def run(rules: Path, expectations: str, *options: str) -> Result:
    (rules / "expect" / "a.yaml").write_text(expectations)
    return CliRunner().invoke(main, ["test", str(rules), *options])


@pytest.mark.parametrize(
    "case",
    [
        "flows: [{name: a, given: {from: 10.0.0.1, to: 198.51.100.1}, expect: {action: undecided, rule: partner}}]",
        "flows: [{name: a, given: {from: 10.0.0.1, to: 198.51.100.1, dns: {mx.example.net: 198.51.100.1}},"
        " expect: {action: allow, rule: partner}}]",
        "flows: [{name: a, given: {from: 192.0.2.1, interface: eth1, to: 198.51.100.1, dns: {mx.example.net: []}},"
        " expect: {action: reject, rule: block}}]",
        'flows: [{name: a, given: {from: 10.0.0.1, to: 198.51.100.1, port: 587}, expect: {rule: "", would: [soon]}}]',
        f"mail: [{{name: a, {GIVEN}}}, expect: {{action: accept, rule: lan, headers: {{X-Zone: lan}}, tags: inside,"
        " notify: root@example.org, limits: few, limit: '', via: mx, route: ''}}]",
        f"mail: [{{name: a, {GIVEN}, message: messages/exe.eml}}, expect: {{action: quarantine, folder: Denied}}}}]",
        f"mail: [{{name: a, {GIVEN}, verdict: unknown}}, expect: {{action: defer, rule: denied}}}}]",
        f"mail: [{{name: a, {GIVEN}, when: 'sat 23:15'}}, expect: {{action: hold, rule: night}}}}]",
        f"mail: [{{name: a, {GIVEN}, score: 7.5}}, expect: {{rule: spam, text: Too much like spam}}}}]",
        f"mail: [{{name: a, {GIVEN}, header: {{SUBJECT: Now!!!}}}}, expect: {{action: defer, rule: loud}}}}]",
        f"mail: [{{name: a, {GIVEN}, over_limit: few}}, expect: {{action: quarantine, folder: Limited, limit: few}}}}]",
        f"mail: [{{name: a, {GIVEN}, stage: rcpt}}, expect: {{action: go-on}}}}]",
        "mail: [{name: a, given: {client: 192.0.2.1, recipient: b@x.example, stage: rcpt}, expect: {action: reject}}]",
        "mail: [{name: a, given: {client: 10.0.0.1, recipient: b@partner.example},"
        " expect: {via: provider, route: partner}}]",
        f'mail: [{{name: a, {GIVEN}, user: anna}}, expect: {{via: "[mx.example]:2525", route: anna}}}}]',
        f"mail: [{{name: a, {GIVEN}, user: anna, size_octets: 9}}, expect: {{via: mx, route: ''}}}}]",
        f"mail: [{{name: a, {GIVEN}, user: bert, header: {{X-EgressGuard-Route: provider}}}},"
        " expect: {via: provider}}]",
        f"mail: [{{name: a, {GIVEN}, user: bert, header: {{X-EgressGuard-Route: 'pipe:uucp'}}}},"
        " expect: {via: 'pipe:uucp', rule: users, route: ''}}]",
        f"mail: [{{name: a, {GIVEN}, user: bert, header: {{X-EgressGuard-Route: mx}}}}, expect: {{action: reject}}}}]",
        f"mail: [{{name: a, {GIVEN}, header: {{X-EgressGuard-Route: provider}}}}, expect: {{via: mx}}}}]",
        "mail: [{name: a, given: {client: 10.0.0.1, recipient: b@example.org}, expect: {via: local, route: ''}}]",
    ],
)
def test_an_expectation_that_holds_is_green(rules: Path, case: str) -> None:
    result = run(rules, case)
    assert (result.exit_code, result.output) == (0, f"{rules}: ok: 1 expectations\n")


RED = f"""mail:
  - name: lan mail passes
    {GIVEN}}}
    expect: {{action: accept, rule: lan}}
  - name: so does this
    {GIVEN}, verdict: denied}}
    expect: {{action: accept, folder: ""}}
"""


def test_a_red_one_is_told_with_place_and_difference(rules: Path) -> None:
    result = run(rules, RED)
    assert result.exit_code == 1
    assert result.output.splitlines() == [
        f"{rules}/expect/a.yaml:5:5: so does this",
        "    action: expected accept, found quarantine",
        '    folder: expected "", found Denied',
        "    decided by: denied (matched at rules.yaml:16:5)",
        "1 of 2 expectations are red",
    ]


def test_json_and_junit(rules: Path, tmp_path: Path) -> None:
    result = run(rules, RED, "--json", "--junit", str(tmp_path / "junit.xml"))
    told = json.loads(result.output)
    assert (told["ok"], told["cases"], told["red"][0]["found"]["action"]) == (False, 2, "quarantine")
    suite = ElementTree.parse(tmp_path / "junit.xml").getroot()[0]
    assert (suite.get("tests"), suite.get("failures")) == ("2", "1")
    assert "expected accept, found quarantine" in (suite[1][0].get("message") or "")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (
            "mail: [{name: a, given: {client: x, recipient: b@x.example}, expect: {}}]",
            "a.yaml:1:34: found the text 'x'",
        ),
        (
            f"mail: [{{name: a, {GIVEN}, verdikt: clean}}, expect: {{}}}}]",
            "unknown key 'verdikt', did you mean 'verdict'?",
        ),
        (
            f"mail: [{{name: a, {GIVEN}, message: messages/no.eml}}, expect: {{}}}}]",
            "no message file 'messages/no.eml'",
        ),
        ("mail: [{name: a, given: {client: 10.0.0.1, recipient: []}, expect: {}}]", "at least one recipient"),
        (f"mail: [{{name: a, {GIVEN}, when: noon}}, expect: {{}}}}]", "found the text 'noon'"),
        ("rules: []", "unknown key 'rules'"),
        ("- a", "expected a mapping"),
    ],
)
def test_faults_are_located(rules: Path, text: str, fault: str) -> None:
    result = run(rules, text)
    assert result.exit_code == 1 and f"{rules}/expect/a.yaml:1:" in result.output and fault in result.output


def test_mutants_that_nobody_notices_are_named_until_somebody_does(rules: Path) -> None:
    given = "given: {from: 10.0.0.1, to: 198.51.100.1, dns: {mx.example.net: []}}"
    case = f"flows:\n- {{name: a, {given}, expect: {{rule: block}}}}\n"
    result = run(rules, case, "--mutate")
    assert result.exit_code == 1
    assert "rules.yaml:5:5: nobody notices: flows 'block' turned to action: allow" in result.output
    assert "'block' taken away" not in result.output and "mutation score" in result.output

    result = run(rules, case.replace("rule: block", "rule: block, action: reject"), "--mutate")
    assert "flows 'block'" not in result.output
    assert run(rules, case, "--mutate", "--min-score", "3").exit_code == 0


def test_without_expectations_nothing_was_promised(rules: Path) -> None:
    result = run(rules, "")
    assert result.exit_code == 0 and "no expectations" in result.output


def test_a_site_has_expectations_of_its_own(rules: Path) -> None:
    overlay = rules / "sites" / "branch"
    (overlay / "expect").mkdir(parents=True)
    (overlay / "site.yaml").write_text("site: {zones: {lan: {networks: 172.16.0.0/12}}}\n")
    given = "given: {client: 172.16.0.1, recipient: b@example.net}"
    (overlay / "expect" / "a.yaml").write_text(f"mail: [{{name: branch, {given}, expect: {{action: accept}}}}]\n")
    assert run(rules, "").exit_code == 0
    result = run(rules, "", "--site", "branch")
    assert (result.exit_code, result.output) == (0, f"{rules}: ok: 1 expectations\n")


def test_what_stands_in_is_seen_by_its_own_file_only(rules: Path) -> None:
    case = "mail: [{name: a, given: {client: 192.0.2.1, recipient: b@example.com, user: u}, expect: {action: reject}}]"
    (rules / "mail.yaml").write_text("mail: [{name: own, match: {recipient_domain: '@local'}, action: accept}]\n")
    (rules / "expect" / "b.yaml").write_text(
        f"with: {{domains: example.com}}\n{case.replace('action: reject', 'action: accept, rule: own')}\n"
    )
    result = run(rules, case)
    assert (result.exit_code, result.output) == (0, f"{rules}: ok: 2 expectations\n")


def test_red_expectations_are_what_a_reload_says(rules: Path) -> None:
    run(rules, RED)
    policy = read_rules(rules)[0].policy
    assert policy is not None
    assert red_expectations(rules, policy)[0] == f"{rules}/expect/a.yaml:5:5: so does this"
