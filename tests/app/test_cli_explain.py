"""`egressguard explain`: short, with places, for people and for programs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from egressguard.app.cli.main import main

RULES = Path(__file__).parents[2] / "rules"
MESSAGES = RULES / "expect" / "messages"


def explain(*words: str, given: bytes | None = None) -> Result:
    return CliRunner().invoke(main, ["explain", *words, "--rules", str(RULES)], input=given)


def place(text: str, file: str) -> str:
    line = next(n for n, line in enumerate((RULES / file).read_text().splitlines(), 1) if text in line)
    return f"{file}:{line}:5"


def test_a_flow() -> None:
    result = explain("flow", "--from", "192.168.1.50", "--to", "198.51.100.7", "--zone", "lan")
    lines = result.output.splitlines()
    block, own = place("name: block-direct-smtp", "flows.yaml"), place("name: own-mail-servers", "flows.yaml")
    assert result.exit_code == 0 and lines[0] == "reject: 192.168.1.50 -> 198.51.100.7 port 25/tcp"
    assert lines[1] == f"  by block-direct-smtp at {block} (reject)"
    assert lines[2] == f"  not own-mail-servers at {own}: source: 192.168.1.50 is not in @mail-servers"
    assert any(line.startswith("  nft:") and f'comment "block-direct-smtp {block}"' in line for line in lines)


def test_a_flow_that_no_rule_names() -> None:
    result = explain("flow", "--from", "192.168.1.50", "--to", "198.51.100.7", "--port", "443", "--json")
    told = json.loads(result.output)
    assert (told["action"], told["rule"], told["nft"]) == ("allow", "", [])
    assert [step["outcome"] for step in told["steps"]] == ["failed"] * 4


def test_a_zone_by_its_interface() -> None:
    words = ("flow", "--from", "203.0.113.50", "--to", "198.51.100.7")
    assert explain(*words).output.startswith("allow:")
    assert explain(*words, "--zone", "lan").output.startswith("reject:")


def test_a_message_from_a_file_and_from_standard_input() -> None:
    for name, given in (("eicar.eml", None), ("-", (MESSAGES / "eicar.eml").read_bytes())):
        file = str(MESSAGES / name) if given is None else name
        result = explain("message", file, "--from", "192.168.1.50", given=given)
        assert result.exit_code == 0, result.output
        lines = result.output.splitlines()
        assert lines[0] == "quarantine: anna@example.org -> bert@example.net"
        assert lines[1].startswith("  by malware at mail.yaml:") and "EICAR" in lines[-1]


def test_a_message_for_each_recipient() -> None:
    recipients = ("--recipient", "a@x.example", "--recipient", "b@x.example")
    result = explain("message", str(MESSAGES / "plain.eml"), "--from", "192.168.1.50", *recipients, "--json")
    rows = [json.loads(line) for line in result.output.splitlines()]
    assert [(row["recipient"], row["action"]) for row in rows] == [("a@x.example", "reject"), ("b@x.example", "reject")]
    assert [step["rule"] for step in rows[0]["steps"]] == [
        "malware",
        "denied-attachments",
        "ambiguous",
        "active-content",
        "users",
        "disowned",
        "doubtful",
        "own-domains",
        "devices",
    ]


def test_a_message_that_is_taken_leaves_by_a_route(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(
        """
site:
  zones: {lan: {networks: 192.168.0.0/16}}
  domains: example.org
  relay: {listeners: {lan: {kind: smtp, port: 25}}}
mail: [{name: all, action: accept}]
routes:
  - {name: large, match: {larger_than_octets: 10000000}, via: mx}
  - {name: soon, staged: true, via: mx}
  - {name: partner, match: {recipient_domain: x.example}, via: ["[mx.x.example]:2525", "[192.0.2.1]"]}
"""
    )
    recipients = [word for path in ("a@x.example", "b@y.example", "c@example.org") for word in ("--recipient", path)]
    words = ["explain", "message", "-", "--from", "192.168.1.50", *recipients, "--rules", str(tmp_path)]
    lines = CliRunner().invoke(main, words, input=b"Subject: x\n\n").output.splitlines()
    assert [line for line in lines if "route" in line or "leaves" in line] == [
        "  not route large at a.yaml:8:5: larger_than_octets: not 10000000",
        "  route soon at a.yaml:9:5: staged: would go via mx",
        "  leaves via smtp:[mx.x.example]:2525, smtp:[192.0.2.1]:25, route partner at a.yaml:10:5",
        "  not route large at a.yaml:8:5: larger_than_octets: not 10000000",
        "  route soon at a.yaml:9:5: staged: would go via mx",
        "  not route partner at a.yaml:10:5: recipient_domain: not x.example",
        "  leaves by the MX of y.example",
        "  leaves into the local mailbox",
    ]
    told = CliRunner().invoke(main, [*words, "--json"], input=b"Subject: x\n\n").output.splitlines()
    ways = [(json.loads(line)["via"], json.loads(line)["route"]) for line in told]
    assert ways == [(["smtp:[mx.x.example]:2525", "smtp:[192.0.2.1]:25"], "partner"), (["mx"], ""), (["local"], "")]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("flow", "--from", "here", "--to", "198.51.100.7"), 2, "expected one such as 192.0.2.7"),
        (("flow", "--from", "192.0.2.1", "--to", "198.51.100.7", "--zone", "moon"), 2, "no zone 'moon'"),
        (("message", "/nowhere.eml", "--from", "192.0.2.1"), 5, "no such file"),
        (("message", "-", "--from", "192.0.2.1"), 2, "names no recipient"),
        (("message", "-", "--from", "192.0.2.1", "--at", "noon"), 2, 'such as "mon 09:30"'),
    ],
)
def test_what_is_wrong_is_said(words: tuple[str, ...], code: int, said: str) -> None:
    result = explain(*words, given=b"Subject: x\n\n")
    assert (result.exit_code, said in result.output) == (code, True), result.output


def test_faults_in_the_rules(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("site: 5\n")
    words = ["explain", "flow", "--from", "192.0.2.1", "--to", "192.0.2.2", "--rules", str(tmp_path)]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 1 and "a.yaml:1:7" in result.output
