from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from egressguard.mail.outcome import Outcome, Result, delivered, transient
from egressguard.policy.model import Policy
from egressguard.relay.attempt import Means, Way, attempt, ways_of
from egressguard.smtp.client import Patience, Peer, Sent, Transaction
from tests.relay.setting import Table, claim_of, policy_of

B = "b@example.net"
SMART = {"isp": {"host": "smtp.isp.example", "tls": "starttls"}, "other": {"host": "192.0.2.5", "tls": "none"}}
VIA_SMART = [{"name": "all", "via": ["isp", "other"]}]


class Sender:
    """Stands where the SMTP client stands; notes who was dialled and answers from a list."""

    def __init__(self, *answers: tuple[Outcome, bool]) -> None:
        self.peers: list[Peer] = []
        self._answers = list(answers)

    async def __call__(self, transaction: Transaction, peer: Peer, ehlo_name: str, patience: Patience) -> Sent:
        self.peers.append(peer)
        outcome, begun = self._answers.pop(0) if self._answers else (delivered("ok", peer.name), True)
        return Sent(dict.fromkeys(transaction.forward_paths, outcome), begun)


def tried(policy: Policy, table: Table, sender: Sender, path: str = B, **means: Any) -> Outcome:
    claim = claim_of(path)
    (way,) = ways_of(policy, claim)
    facts: dict[str, Any] = {"resolver": table, "hostname": "gw.example.org", "secrets": Path("/nonexistent")}
    sent = asyncio.run(attempt(way, claim, b"x", policy, Means(send=sender, chance=lambda: 0.5, **(facts | means))))
    return sent.outcomes[path]


def test_recipients_that_leave_by_the_same_hosts_share_a_transaction() -> None:
    routes = [{"name": "partners", "match": {"recipient_domain": ["p.example", "q.example"]}, "via": ["isp"]}]
    policy = policy_of(domains=["Home.Example"], smart_hosts=SMART, routes=routes)
    claim = claim_of(
        "a@x.example", "b@x.example", "c@y.example", "d@p.example", "e@q.example", "f@home.example", "root"
    )
    assert ways_of(policy, claim) == [
        Way(("mx",), "x.example", ("a@x.example", "b@x.example")),
        Way(("mx",), "y.example", ("c@y.example",)),
        Way(("isp",), "", ("d@p.example", "e@q.example")),
        Way(("local",), "", ("f@home.example", "root")),
    ]


def test_the_next_mx_is_tried_while_nobody_has_talked_to_us() -> None:
    table = Table(
        {"example.net": [(20, "b.mx"), (10, "a.mx"), (30, "c.mx")]}, {f"{n}.mx": ["192.0.2.1"] for n in "abc"}
    )
    sender = Sender((transient("4.4.1", "refused"), False))
    assert tried(policy_of(relay={"delivery_port": 2525}), table, sender).result is Result.DELIVERED
    assert [(peer.name, peer.port, peer.tls) for peer in sender.peers] == [
        ("a.mx", 2525, "opportunistic"),
        ("b.mx", 2525, "opportunistic"),
    ]


def test_what_a_host_said_in_a_transaction_stands() -> None:
    table = Table({"example.net": [(10, "a.mx"), (20, "b.mx")]}, {"a.mx": ["192.0.2.1"], "b.mx": ["192.0.2.2"]})
    sender = Sender((transient("4.2.1", "greylisted"), True))
    assert tried(policy_of(), table, sender).text == "greylisted"
    assert len(sender.peers) == 1


@pytest.mark.parametrize(
    ("table", "status"),
    [
        (Table(), "5.1.2"),
        (Table(failing=["example.net"]), "4.4.3"),
        (Table({"example.net": [(0, "")]}), "5.1.10"),
        (Table({"example.net": [(10, "gw.example.org")]}, {"gw.example.org": ["192.0.2.1"]}), "5.4.6"),
        (Table({"example.net": [(10, "a.mx")]}, {"a.mx": ["0.0.0.0"]}), "5.4.6"),
        (Table({"example.net": [(10, "a.mx")]}, {"a.mx": ["127.0.0.1"]}), "5.4.6"),
        (Table({"example.net": [(10, "a.mx")]}), "5.4.4"),
    ],
)
def test_nobody_is_dialled_when_dns_says_no(table: Table, status: str) -> None:
    sender = Sender()
    policy = policy_of(relay={"listeners": {"lan": {"kind": "smtp", "port": 25}}})
    assert tried(policy, table, sender).status == status
    assert sender.peers == []


@pytest.mark.parametrize(("path", "address"), [("b@[192.0.2.7]", "192.0.2.7"), ("b@[ipv6:2001:db8::7]", "2001:db8::7")])
def test_an_address_literal_is_dialled_without_asking_dns_for_mx(path: str, address: str) -> None:
    sender = Sender()
    tried(policy_of(), Table(), sender, path)
    assert sender.peers[0].addresses == (address,)


def test_smart_hosts_are_tried_in_the_order_of_the_route() -> None:
    table = Table(hosts={"smtp.isp.example": ["192.0.2.25"]})
    sender = Sender((transient("4.4.1", "refused"), False))
    policy = policy_of(smart_hosts=SMART, routes=VIA_SMART)
    assert tried(policy, table, sender).result is Result.DELIVERED
    assert [(peer.name, peer.port, peer.tls) for peer in sender.peers] == [
        ("smtp.isp.example", 587, "starttls"),
        ("192.0.2.5", 587, "none"),
    ]


def test_a_smart_host_that_does_not_exist_never_bounces_mail() -> None:
    policy = policy_of(smart_hosts={"isp": SMART["isp"]}, routes=[{"name": "all", "via": ["isp"]}])
    outcome = tried(policy, Table(), Sender())
    assert (outcome.result, outcome.status) == (Result.TRANSIENT, "4.4.3")


def test_a_route_whose_smart_host_left_the_rules_waits() -> None:
    sender = Sender()
    way = Way(("gone",), "", (B,))
    means = Means(Table(), "gw.example.org", Path(), send=sender)
    sent = asyncio.run(attempt(way, claim_of(B), b"x", policy_of(), means))
    assert (sent.outcomes[B].result, sent.outcomes[B].status) == (Result.TRANSIENT, "4.3.5")


@pytest.mark.parametrize(("content", "password"), [("pass word\n", "pass word"), ("geheim\r\nmore\r\n", "geheim")])
def test_the_password_is_the_first_line_of_its_file(tmp_path: Path, content: str, password: str) -> None:
    (tmp_path / "isp").write_bytes(content.encode())
    auth = {"user": "anna", "secret": "file:isp"}
    policy = policy_of(smart_hosts={"isp": SMART["isp"] | {"auth": auth}}, routes=[{"name": "all", "via": ["isp"]}])
    sender = Sender()
    table = Table(hosts={"smtp.isp.example": ["192.0.2.25"]})
    tried(policy, table, sender, secrets=tmp_path)
    assert (sender.peers[0].user, sender.peers[0].password) == ("anna", password)


def test_a_password_that_cannot_be_read_is_our_trouble() -> None:
    auth = {"user": "anna", "secret": "file:isp"}
    policy = policy_of(smart_hosts={"isp": SMART["isp"] | {"auth": auth}}, routes=[{"name": "all", "via": ["isp"]}])
    sender = Sender()
    outcome = tried(policy, Table(hosts={"smtp.isp.example": ["192.0.2.25"]}), sender)
    assert (outcome.result, outcome.status, sender.peers) == (Result.TRANSIENT, "4.3.5", [])


def test_local_mail_waits_where_there_are_no_mailboxes() -> None:
    outcome = tried(policy_of(domains=["example.net"]), Table(), Sender())
    assert (outcome.result, outcome.status) == (Result.TRANSIENT, "4.3.5")
