from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path
from typing import Any

import pytest

from egressguard.mail.outcome import Outcome, Result, delivered, permanent, transient
from egressguard.policy.model import Policy
from egressguard.relay.attempt import Means, Way, attempt, ways_of
from egressguard.smtp.client import Patience, Peer, Sent, Transaction
from egressguard.store.content import Content
from egressguard.store.interface import Due
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


def test_a_host_that_cannot_take_the_message_is_passed_over() -> None:
    table = Table({"example.net": [(10, "a.mx"), (20, "b.mx")]}, {"a.mx": ["192.0.2.1"], "b.mx": ["192.0.2.2"]})
    sender = Sender((permanent("5.6.7", "no SMTPUTF8"), True))
    assert tried(policy_of(), table, sender).result is Result.DELIVERED
    assert [peer.name for peer in sender.peers] == ["a.mx", "b.mx"]


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


HOPS = [{"name": "all", "via": ["[mx.partner.example]:2525", "smtps:[192.0.2.9]"]}]


def test_next_hops_are_dialled_as_they_stand_in_the_rule() -> None:
    table = Table(hosts={"mx.partner.example": ["192.0.2.25"]})
    sender = Sender((transient("4.4.1", "refused"), False))
    assert tried(policy_of(routes=HOPS), table, sender).result is Result.DELIVERED
    assert [(peer.name, peer.addresses, peer.port, peer.tls) for peer in sender.peers] == [
        ("mx.partner.example", ("192.0.2.25",), 2525, "opportunistic"),
        ("192.0.2.9", ("192.0.2.9",), 465, "implicit"),
    ]


@pytest.mark.parametrize("port", [25, 465, 587, 2525, 65535])
def test_any_port_can_be_named(port: int) -> None:
    sender = Sender()
    tried(policy_of(routes=[{"name": "all", "via": [f"[192.0.2.1]:{port}"]}]), Table(), sender)
    assert sender.peers[0].port == port


@pytest.mark.parametrize(
    ("hop", "hosts", "status"),
    [
        ("[gone.example]", {}, "4.4.3"),
        ("[gw.example.org]", {"gw.example.org": ["192.0.2.1"]}, "4.4.6"),
        ("[we.example]:25", {"we.example": ["127.0.0.1"]}, "4.4.6"),
        ("[0.0.0.0]", {}, "4.4.6"),
    ],
)
def test_a_next_hop_that_cannot_be_is_never_dialled_and_never_bounces(
    hop: str, hosts: dict[str, list[str]], status: str
) -> None:
    sender = Sender()
    policy = policy_of(relay={"listeners": {"l": {"kind": "smtp", "port": 25}}}, routes=[{"name": "a", "via": hop}])
    outcome = tried(policy, Table(hosts=hosts), sender)
    assert (outcome.result, outcome.status, sender.peers) == (Result.TRANSIENT, status, [])


def test_mail_by_another_domains_mx_is_one_destination_with_that_domains() -> None:
    policy = policy_of(routes=[{"name": "a", "match": {"recipient_domain": ["x.example"]}, "via": "smtp:Y.example"}])
    (way,) = ways_of(policy, claim_of("a@x.example", "b@y.example"))
    assert (way.key, way.forward_paths) == ("mx:y.example", ("a@x.example", "b@y.example"))


@pytest.mark.parametrize(
    ("via", "key", "transport"),
    [
        ("[Mx.example]", "smtp:[mx.example]:25", "smtp"),
        (["[mx.example]", "lmtp:unix:/l"], "smtp:[mx.example]:25,lmtp:unix:/l", "smtp"),
        ("pipe:uucp:b", "pipe:uucp:b", "pipe"),
        (["isp", "other"], "isp,other", "isp"),
    ],
)
def test_a_destination_has_one_name_and_metrics_a_bounded_one(via: str | list[str], key: str, transport: str) -> None:
    (way,) = ways_of(policy_of(routes=[{"name": "a", "via": via}]), claim_of(B))
    assert (way.key, way.transport) == (key, transport)


def test_a_route_knows_who_sent_the_message_and_how_large_it_is() -> None:
    match = {"client": ["lan"], "user": ["anna"], "listener": ["sub"], "verdict": ["clean"], "larger_than_octets": 99}
    policy = policy_of(routes=[{"name": "a", "match": match, "via": "[192.0.2.1]"}])
    claim = claim_of(B)
    known = {"client": "192.0.2.77", "user": "anna", "listener": "sub", "verdict": "clean"}
    assert ways_of(policy, dataclasses.replace(claim, **known))[0].via == ("smtp:[192.0.2.1]:25",)
    for key in known:
        assert ways_of(policy, dataclasses.replace(claim, **(known | {key: ""})))[0].via == ("mx",), key


def test_a_way_out_that_nobody_can_read_waits() -> None:
    claim = dataclasses.replace(claim_of(B), recipients=(Due(B, 1, ("[192.0.2.1",)),))
    (way,) = ways_of(policy_of(), claim)
    sent = asyncio.run(attempt(way, claim, Content.of(b"x"), policy_of(), Means(Table(), "gw", Path())))
    assert (sent.outcomes[B].result, sent.outcomes[B].status, way.transport) == (
        Result.TRANSIENT,
        "4.3.5",
        "(unreadable)",
    )


@pytest.mark.parametrize(
    ("family", "addresses"),
    [("ipv4-first", ("192.0.2.1", "2001:db8::1")), ("ipv6-only", ("2001:db8::1",)), ("ipv4-only", ("192.0.2.1",))],
)
def test_the_address_family_of_the_rules_holds_for_every_way(family: str, addresses: tuple[str, ...]) -> None:
    table = Table({"example.net": [(10, "a.mx")]}, {"a.mx": ["2001:db8::1", "192.0.2.1"]})
    for routes in ([], [{"name": "a", "via": "[a.mx]"}]):
        sender = Sender()
        tried(policy_of(relay={"address_family": family}, routes=routes), table, sender)
        assert sender.peers[0].addresses == addresses


def test_a_host_without_an_address_of_the_family_waits() -> None:
    table = Table({"example.net": [(10, "a.mx")]}, {"a.mx": ["192.0.2.1"]})
    sender = Sender()
    outcome = tried(policy_of(relay={"address_family": "ipv6-only"}), table, sender)
    assert (outcome.result, outcome.status, sender.peers) == (Result.TRANSIENT, "4.4.4", [])
