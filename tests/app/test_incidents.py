"""Mail that was let through and is malware now: told once, with when it left and to whom."""

from __future__ import annotations

import subprocess
import urllib.request
from pathlib import Path

import pytest

from egressguard.app.incidents import Reporter, incidents_of
from egressguard.app.places import Places
from egressguard.scan.rescan import Row
from egressguard.store.journal import Journal, read_journal
from tests.app.test_gateway import Running, gateway
from tests.scan.samples import EICAR, mail_with

__all__ = ["gateway"]

NOW = 1_800_000_000.0
ID = "1A2B3C4D5E6F"


@pytest.fixture
def places(tmp_path: Path) -> Places:
    places = Places(tmp_path / "rules", tmp_path / "state", tmp_path / "run")
    places.journals.mkdir(parents=True)
    return places


def put(path: Path, header: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(f"{header}Subject: x\r\n\r\nRECEIVED: id {ID} is no header field\r\n".encode())
    return path


def relay_to(places: Places, *recipients: str, transport: str = "mx", hours: float = 3) -> None:
    journal = Journal(places.journal("relay"), max_rows=100)
    for recipient in recipients:
        fields = {"queue_id": ID, "recipient": recipient, "transport": transport}
        journal.record(NOW - hours * 3600, "delivery.delivered", fields)
    journal.close()


def found(
    path: Path, places: Places, verdict: str = "infected", was: str = "clean"
) -> list[tuple[str, object, object]]:
    row = Row(str(path), verdict, ("Some.Worm",), was=was)
    return [
        (incident.kind, incident.fields["what"], incident.fields.get("recipients"))
        for incident in incidents_of(row, places, NOW)
    ]


def test_a_delivered_message_is_told_with_its_age(places: Places) -> None:
    path = put(places.mailboxes / "anna" / "cur" / f"{int(NOW) - 600}.Qother.host:2,S")
    assert found(path, places) == [("delivered_malware", "delivered 10 min ago, now malicious", None)]


@pytest.mark.parametrize(
    ("name", "header"),
    [
        (f"{int(NOW)}.Q{ID}.host", ""),
        ("1.x", f"Received: from a (b)\r\n\tby gw.example with ESMTP id {ID}\r\n\tfor <b@c.example>; now\r\n"),
        ("1.x", "Message-ID: <1@a.example>\r\n"),
    ],
    ids=["file name", "trace field", "message id"],
)
def test_what_was_relayed_is_found_by_its_ids(places: Places, name: str, header: str) -> None:
    relay_to(places, "b@c.example", "d@c.example")
    journal = Journal(places.journal("smtpd"), max_rows=10)
    journal.record(NOW - 20_000, "mail.accepted", {"queue_id": ID, "message_id": "<1@a.example>"})
    journal.close()
    path = put(places.quarantine / ".Infected" / "new" / name, header)
    expected = ("relayed_malware", "relayed 3 h ago, now malicious", ["b@c.example", "d@c.example"])
    assert found(path, places) == [expected]


def test_what_is_no_news_or_never_left_is_no_incident(places: Places, tmp_path: Path) -> None:
    relay_to(places, "anna@here.example", transport="local")
    held = put(places.quarantine / ".Held" / "new" / f"1.Q{ID}.host")
    delivered = put(places.mailboxes / "anna" / "new" / "1.x")
    foreign = put(tmp_path / "elsewhere" / f"1.Q{ID}.host")
    assert found(held, places) == []
    assert found(foreign, places) == []
    assert found(delivered, places, was="infected") == []
    assert found(delivered, places, verdict="denied") == []


def test_without_a_scan_role_the_incident_is_written_down(places: Places) -> None:
    path = put(places.mailboxes / "anna" / "new" / "1.x")
    reporter = Reporter(places)
    for incident in incidents_of(Row(str(path), "infected", ("Some.Worm",)), places, NOW):
        reporter.report(incident)
    reporter.close()
    (event,) = read_journal([places.journal("rescan")], kind="incident.delivered_malware")
    assert (event["account"], event["findings"], event["path"]) == ("anna", ["Some.Worm"], str(path))


def test_a_running_gateway_journals_and_counts_it(gateway: Running) -> None:
    box = gateway.folder / "state" / "mailboxes" / "anna" / "new"
    command = gateway.command("scan")
    user = command[: command.index("--clear-groups") + 1] if "--clear-groups" in command else []
    subprocess.run([*user, "mkdir", "-p", str(box), str(box.parent / "cur")], check=True)
    (box / "x").write_bytes(mail_with("eicar.com", EICAR))
    (box / "x").chmod(0o644)
    for said in (f"incident: delivered some time ago, now malicious: {box}/x", ""):
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, said in done.stderr) == (1, True), done.stderr
    page = urllib.request.urlopen(f"http://127.0.0.1:{gateway.port('metrics')}/metrics", timeout=20).read().decode()
    assert 'egressguard_scan_incidents_total{kind="delivered_malware"} 1.0' in page
    assert gateway.told("journal", "--kind", "incident.delivered_malware").count("anna/new/x") == 1
