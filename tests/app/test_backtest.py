"""`egressguard backtest`: the journal, the quarantine, captures and mailboxes under other rules."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from egressguard.app import backtest as module
from egressguard.app.backtest import backtest
from egressguard.app.cli.backtest import markdown_table
from egressguard.app.cli.main import main
from egressguard.app.places import Places
from egressguard.store.decisions import Row, find_span, read_decisions
from egressguard.store.journal import FLOW, Journal
from tests.relay.past_day import MORNING, RULES, first, play, policy_of, rules, set_rule, without

FLOWS = [
    {"name": "own", "from": "lan", "source": "@servers", "port": 25, "action": "allow"},
    {"name": "block", "from": "lan", "port": 25, "action": "reject"},
    {"name": "night", "from": "lan", "port": 587, "hours": "00:00-06:00", "action": "reject"},
]


def decided(source: str, port: int, action: str, rule: str = "", count: int = 1, **more: Any) -> dict[str, Any]:
    to = {"destination": "203.0.113.25", "port": port, "protocol": "tcp"}
    return {
        "source": source,
        **to,
        "action": action,
        "rule": rule,
        "count": count,
        "first": MORNING,
        "last": MORNING,
    } | more


SEEN = [
    decided("192.0.2.30", 25, "reject", "block", 40),
    decided("192.0.2.25", 25, "allow", "own", 7),
    decided("192.0.2.10", 587, "allow", count=3),
    decided("192.0.2.30", 26, "reject", "own-processes", 2),
    {"nonsense": True},
]


@pytest.fixture(scope="module")
def past(tmp_path_factory: pytest.TempPathFactory) -> Places:
    """A gateway's files after the day."""
    folder = tmp_path_factory.mktemp("gateway")
    places = Places(folder / "rules", folder / "state", folder / "run")
    play(rules(), places.state, places.journal("smtpd"))
    journal = Journal(places.journal("gate"), max_rows=1000)
    for fields in SEEN:
        journal.record(MORNING, FLOW, fields)
    journal.close()
    return places


def with_flows(*changes: Callable[[dict[str, Any]], object]) -> list[Callable[[dict[str, Any]], object]]:
    return [lambda given: given.update(flows=[dict(each) for each in FLOWS]), *changes]


def write(folder: Path, *changes: Callable[[dict[str, Any]], object]) -> Path:
    given = yaml.safe_load(yaml.safe_dump(RULES))
    for change in changes:
        change(given)
    folder.mkdir()
    (folder / "rules.yaml").write_text(yaml.safe_dump(given))
    return folder


def run(places: Places, *words: str) -> Result:
    where = ("--rules", str(places.rules), "--state", str(places.state), "--runtime", str(places.runtime))
    return CliRunner().invoke(main, ["backtest", *words, *where])


def test_the_same_rules_change_nothing(past: Places) -> None:
    tally = backtest(rules(*with_flows()), past, since=0.0)
    assert tally.is_same
    assert tally.judged["flow"] == 52 and tally.judged["message"] > 30
    assert (tally.beside, tally.odd) == (2, 1)


def test_who_would_be_stopped_and_let_through_is_told(past: Places) -> None:
    changed = rules(*with_flows(first({"name": "no-587", "from": "lan", "port": 587, "action": "drop"}, "flows")))
    changed = changed.replace(flows=tuple(rule for rule in changed.flows if rule.name != "block"))
    found = [row for row in backtest(changed, past, since=0.0).found() if row["plane"] == "flow"]
    assert [(r["change"], r["host"], r["before_rule"], r["after"], r["after_rule"], r["count"]) for r in found] == [
        ("stopped", "192.0.2.10", "", "drop", "no-587", 3),
        ("let through", "192.0.2.30", "block", "allow", "", 40),
    ]
    assert found[0]["examples"] == ["192.0.2.10 -> 203.0.113.25 port 587/tcp"]


def test_only_what_is_recent_counts(past: Places) -> None:
    tally = backtest(rules(*with_flows()), past, since=MORNING + 14_000)
    assert "flow" not in tally.judged
    assert tally.judged["message"] == 1  # the one in the night


def test_held_messages_are_looked_into_again(past: Places) -> None:
    """A field that was not recorded is known of what is held, and unknown of what has gone."""
    looks = first({"name": "new", "match": {"header": {"MIME-Version": "1.0"}}, "action": "reject"})
    found = list(backtest(rules(looks), past, since=0.0).found())
    held = {row["before_rule"]: row["after"] for row in found if row["before"] == "quarantine"}
    assert held == {"malware": "reject", "denied": "reject", "guests": "reject"}
    assert {row["change"] for row in found if row["before"] == "accept"} == {"unknown"}


def test_held_messages_that_the_journal_forgot_are_judged_still(past: Places, tmp_path: Path) -> None:
    places = Places(tmp_path, past.state, tmp_path)
    without_journal = Places(tmp_path, tmp_path / "state", tmp_path)
    without_journal.state.mkdir()
    (without_journal.state / "quarantine").symlink_to(places.quarantine)
    tally = backtest(rules(set_rule("malware", action="reject", folder=None)), without_journal, since=0.0)
    assert [(row["before_rule"], row["after"], row["count"]) for row in tally.found()] == [
        ("malware", "reject", 1),
        ("guests", "unknown", 3),  # above a limit then, and nobody knows what was sent before
    ]


def test_many_processes_find_what_one_does(past: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    changed = policy_of(
        {**RULES, "flows": FLOWS, "limits": [], "mail": [{"name": "all", "match": {}, "action": "hold"}]}
    )
    alone = backtest(changed, past, since=0.0, jobs=1)
    monkeypatch.setattr(module, "UNIT_ROWS", 7)
    monkeypatch.setattr(module, "LITTLE_ROWS", 0)
    told: list[tuple[int, int]] = []
    together = backtest(changed, past, since=0.0, jobs=2, tick=lambda done, of: told.append((done, of)))
    assert together.summary() == alone.summary()
    key = lambda row: json.dumps({**row, "examples": []}, sort_keys=True)  # noqa: E731
    assert sorted(map(key, together.found())) == sorted(map(key, alone.found()))
    assert told[-1][0] == told[-1][1] and len(told) > 5


def test_earlier_rules_may_be_compared_with(past: Places) -> None:
    """What was recorded under others is no difference between these two."""
    closed = rules(without("mail", "users"))
    assert backtest(closed, past, since=0.0, old=closed).is_same
    assert not backtest(closed, past, since=0.0).is_same


def test_no_journal_is_an_empty_past(tmp_path: Path) -> None:
    tally = backtest(rules(), Places(tmp_path, tmp_path / "none", tmp_path), since=0.0)
    assert tally.is_same and tally.judged == {}


@pytest.mark.parametrize("changed", [False, True])
def test_the_command_tells_and_ends_by_what_it_found(past: Places, tmp_path: Path, changed: bool) -> None:
    new = write(tmp_path / "new", *with_flows(*[without("mail", "users")] * changed))
    said = run(past, str(new), "--since", "9999d")
    assert said.exit_code == int(changed), said.output
    assert ("bert@site.example -> " in said.output) is changed
    assert ("nothing would change" in said.output) is not changed
    told = json.loads(run(past, str(new), "--since", "9999d", "--json").stdout)
    assert (told["changes"]["stopped"] > 0) is changed and told["judged"]["flow"] == 52
    marked = run(past, str(new), "--since", "9999d", "--markdown").stdout
    assert marked.startswith("| change | plane |")


def test_bad_rules_and_wrong_usage_are_told(past: Places, tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "x.yaml").write_text("mail: [{name: x}]\n")
    said = run(past, str(tmp_path / "bad"))
    assert said.exit_code == 2 and "x.yaml:1:" in said.output
    new = write(tmp_path / "new")
    box = tmp_path / "box"
    box.write_text("")
    assert run(past, str(new), "--since", "soon").exit_code == 2
    assert run(past, str(new), "--mbox", str(box)).exit_code == 2
    assert run(past, str(new), "--mbox", str(box), "--from", "nobody").exit_code == 2


def test_an_mbox_under_old_and_new_rules(tmp_path: Path) -> None:
    letters = "".join(
        f"From x Thu Jan  1 00:00:00 2026\nFrom: a@site.example\nTo: b{n}@mx.example\nSubject: {subject}\n\ntext\n\n"
        for n, subject in enumerate(["hello", "an invoice", "bye"])
    )
    (tmp_path / "box").write_text(letters)
    places = Places(write(tmp_path / "old"), tmp_path, tmp_path)
    new = write(tmp_path / "new", without("mail", "invoices"))
    said = run(places, str(new), "--mbox", str(tmp_path / "box"), "--from", "192.0.2.10", "--user", "anna", "--json")
    told = json.loads(said.stdout)
    assert told["judged"] == {"message": 3}
    (row,) = told["found"]
    assert (row["before"], row["after"], row["after_rule"], row["user"]) == ("hold", "accept", "users", "anna")


def test_a_capture_under_old_and_new_rules(tmp_path: Path) -> None:
    from scapy.layers.inet import IP, TCP
    from scapy.layers.l2 import Ether
    from scapy.utils import wrpcap

    opening = Ether() / IP(src="192.0.2.30", dst="203.0.113.25") / TCP(sport=4000, dport=25, flags="S")
    wrpcap(str(tmp_path / "day.pcap"), [opening, opening])
    places = Places(write(tmp_path / "old", *with_flows()), tmp_path, tmp_path)
    new = write(tmp_path / "new", *with_flows(without("flows", "block")))
    told = json.loads(run(places, str(new), "--pcap", str(tmp_path / "day.pcap"), "--json").stdout)
    (row,) = told["found"]
    assert (row["change"], row["host"], row["before_rule"], row["count"]) == ("let through", "192.0.2.30", "block", 1)
    assert run(places, str(new), "--pcap", str(places.rules / "rules.yaml")).exit_code == 2


def test_a_table_cell_cannot_break_out() -> None:
    row = dict.fromkeys(("change", "plane", "host", "user", "before", "after", "count", "last"), "x")
    (_, _, line) = markdown_table([row | {"examples": ["a|b\n<script>"]}]).splitlines()
    assert line.endswith("| a\\|b?\\<script\\> |")


ODD: list[Any] = [None, [], {}, [[]], -1, 1e300, True, "", "x", {"verdict": []}]


def test_no_row_of_a_journal_stops_it(past: Places, tmp_path: Path) -> None:
    """Whatever stands where: it is judged, or it is odd."""
    whole = json.loads(next(text for _, kind, text in rows_of(past, "smtpd", "event") if kind == "mail.accepted"))
    keys = {*whole, "stage", "decided", "limit", "authentication", "block_lists", "more_recipients", "headers", "scan"}
    odd = [whole | {key: value} for key in sorted(keys) for value in ODD]
    flows = [SEEN[0] | {key: value} for key in {*SEEN[0], "hosts", "inside", "speaks"} for value in ODD]
    places = Places(tmp_path, tmp_path / "state", tmp_path)
    places.journals.mkdir(parents=True)
    for role, kind, every in (("smtpd", "mail.accepted", odd), ("gate", FLOW, flows)):
        journal = Journal(places.journal(role), max_rows=10_000)
        for fields in every:
            journal.record(MORNING, kind, fields)
        journal.close()
    for changed in (rules(*with_flows()), rules(without("mail", "users"))):
        tally = backtest(changed, places, since=0.0, jobs=1)
        assert tally.rows >= len(odd) + len(flows) - len(ODD)
        assert 0 < tally.odd < tally.rows


def rows_of(places: Places, role: str, table: Any) -> list[Row]:
    span = find_span(places.journal(role), table, 0.0)
    assert span is not None
    return list(read_decisions(span))
