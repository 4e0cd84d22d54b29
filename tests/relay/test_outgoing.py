"""Mail of the world that leaves again: its octets, its signatures, its seal, its reverse-path, and the way back."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import dkim
import pytest
from prometheus_client import CollectorRegistry

from egressguard.mail.envelope import Envelope, RecipientOptions
from egressguard.mail.header import split_header_section
from egressguard.mail.outcome import delivered, permanent
from egressguard.mail.reply import Reply
from egressguard.mail.submission import with_crlf
from egressguard.policy.model import Policy
from egressguard.relay.outgoing import Outgoing
from egressguard.relay.return_paths import ReturnPaths
from egressguard.relay.signatures import Signatures
from egressguard.senderauth.sign_keys import make_key
from egressguard.smtp.client import Patience, Peer, Sent, Transaction
from egressguard.store.content import Content
from egressguard.store.interface import NewMessage
from tests.relay.test_outside import HOST, STRANGER, Desk, play
from tests.relay.test_queue import house
from tests.senderauth.signing import MESSAGE, arc_set, ed25519_key, rsa_key, signed, txt

KEY = make_key("rsa")
MAIL = Path(__file__).parent.parent / "data" / "mail"
MORE = os.environ.get("EGRESSGUARD_MAIL", "")
"""A folder with more messages than the project carries along."""
SECRET = "sixteen characters and more"
AWAY = "bert@partner.example"
RULES: list[dict[str, Any]] = [
    {"name": "away", "match": {"recipient_domain": "partner.example"}, "action": "accept", "rewrite_sender": True},
    {"name": "plain", "match": {"recipient_domain": "plain.example"}, "action": "accept"},
    {"name": "own", "match": {"recipient_domain": "@local"}, "action": "accept"},
]
Story = Callable[[Desk], Awaitable[None]]


def policy_of(**forwarding: Any) -> Policy:
    site = {
        "zones": {"lan": {"networks": ["10.0.0.0/8"]}},
        "domains": ["site.example"],
        "relay": {"hostname": HOST, "listeners": {"world": {"kind": "smtp", "port": 25}}},
        "signing": {"own": {"domains": "site.example", "selector": "s1", "key": "file:key.pem"}},
        "forwarding": forwarding,
    }
    return Policy.model_validate({"site": site, "mail": RULES})


SRS = {"domain": "site.example", "secrets": "file:srs.secret"}
BOTH = policy_of(seal="own", srs=SRS)
PLAIN = policy_of()


def run(folder: Path, story: Story, policy: Policy = BOTH, *, more: str = "") -> None:
    secrets = folder / "secrets"
    secrets.mkdir()
    (secrets / "key.pem").write_bytes(KEY.pem)
    (secrets / "srs.secret").write_text(SECRET + "\n")

    async def told(desk: Desk) -> None:
        desk.acceptance.policy = policy
        await story(desk)

    play(folder, told, more=more)


async def take(desk: Desk, content: bytes, *paths: str, reverse_path: str = "anna@sender.example") -> NewMessage:
    """What is stored of it, as the queue would see it."""
    stored: list[NewMessage] = []
    put = desk.spool.put

    async def spy(message: NewMessage) -> str:
        stored.append(message)
        return await put(message)

    desk.spool.put = spy  # type: ignore[method-assign]
    reply = await desk.acceptance.on_message(STRANGER, Envelope(reverse_path, paths or (AWAY,)), Content.of(content))
    assert reply.is_positive, reply
    return stored[-1]


def rcpt(desk: Desk, path: str, reverse_path: str = "") -> str:
    answer = desk.acceptance.on_recipient(STRANGER, reverse_path, path, None)
    assert isinstance(answer, Reply)
    return str(answer)


def our_record(name: bytes, timeout: int = 5) -> bytes:
    return KEY.record.encode()


def test_what_leaves_again_is_sealed_and_comes_back(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        message = await take(desk, signed(MESSAGE))
        whole, path = message.content.whole(), message.envelope.reverse_path
        assert whole.startswith(b"ARC-Seal: i=1; cv=none;") and whole.endswith(signed(MESSAGE)[-len(MESSAGE) :])
        assert dkim.arc_verify(whole, dnsfunc=our_record)[0] == b"pass"
        assert b"ARC-Authentication-Results: i=1; mx.site.example;\r\n\tspf=pass" in whole
        assert path.startswith("SRS0=") and path.endswith("=sender.example=anna@site.example")
        assert rcpt(desk, path).startswith("250")
        back = await take(desk, b"Subject: no\r\n\r\n", path, reverse_path="")
        assert back.envelope.forward_paths == ("anna@sender.example",) and back.envelope.reverse_path == ""

    run(tmp_path, story)


@pytest.mark.parametrize(
    ("policy", "paths", "sealed", "sender"),
    [
        (BOTH, (AWAY,), True, "SRS0"),
        (BOTH, ("anna@site.example",), False, "anna"),
        (BOTH, (AWAY, "anna@site.example"), True, "SRS0"),
        (BOTH, ("x@plain.example",), True, "anna"),
        (PLAIN, ("x@plain.example",), False, "anna"),
        (policy_of(seal="own"), ("x@plain.example",), True, "anna"),
    ],
)
def test_only_what_leaves_again_is_changed(
    tmp_path: Path, policy: Policy, paths: tuple[str, ...], sealed: bool, sender: str
) -> None:
    async def story(desk: Desk) -> None:
        message = await take(desk, MESSAGE, *paths)
        assert message.content.whole().startswith(b"ARC-Seal" if sealed else b"Received:")
        assert message.envelope.reverse_path.startswith(sender) and b"DKIM-Signature" not in message.content.whole()

    run(tmp_path, story, policy)


@pytest.mark.parametrize(
    ("reverse_path", "leaves"),
    [
        ("", ""),
        ("anna@site.example", "anna@site.example"),
        ("a" * 50 + "@sender.example", "a" * 50 + "@sender.example"),
    ],
)
def test_some_reverse_paths_stay(tmp_path: Path, reverse_path: str, leaves: str) -> None:
    async def story(desk: Desk) -> None:
        assert (await take(desk, MESSAGE, reverse_path=reverse_path)).envelope.reverse_path == leaves

    run(tmp_path, story)


def test_only_bounces_to_what_we_made_are_taken(tmp_path: Path) -> None:
    """Never an open relay."""

    async def story(desk: Desk) -> None:
        path = (await take(desk, MESSAGE)).envelope.reverse_path
        forged = path.replace("=anna@", "=victim@")
        assert rcpt(desk, path, "eve@elsewhere.example").startswith("550 5.1.1 This address is for bounces")
        assert rcpt(desk, forged) == "550 5.1.1 This address was not made here"
        assert rcpt(desk, path.replace("@site.example", "@partner.example")).startswith("250")  # theirs to judge
        assert rcpt(desk, "SRS0=AAAAAAAA=AA=victim.example=a@site.example").startswith("550 5.1.1")
        assert rcpt(desk, path.lower()).startswith("250")
        desk.acceptance._clock = lambda: time.time() + 40 * 86400
        assert rcpt(desk, path) == "550 5.1.1 This address was for bounces and has expired"
        counted = desk.registry.get_sample_value
        labels = {"component": "smtpd", "result": "forged"}
        assert counted("egressguard_relay_return_paths_total", labels) == 2

    run(tmp_path, story)


def test_without_srs_such_an_address_is_nobodys(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        path = (await take(desk, MESSAGE)).envelope.reverse_path
        desk.acceptance.policy = PLAIN
        assert rcpt(desk, path) == "550 5.1.1 No such mailbox here"

    run(tmp_path, story)


def test_options_and_ways_go_along_with_who_stands_for_whom(tmp_path: Path) -> None:
    registry = CollectorRegistry()
    (tmp_path / "srs.secret").write_text(SECRET)
    paths = ReturnPaths(tmp_path, registry, "relay")
    made = paths.rewritten(BOTH, "anna@sender.example", 1e9)
    options = {made: RecipientOptions(("NEVER",)), AWAY: RecipientOptions(None, "rfc822;x")}
    envelope, renamed = paths.returned(BOTH, Envelope("", (made, AWAY), recipients=options), 1e9)
    assert envelope.forward_paths == ("anna@sender.example", AWAY) and renamed == {made: "anna@sender.example"}
    assert envelope.recipients == {"anna@sender.example": options[made], AWAY: options[AWAY]}


def test_our_own_dsn_finds_its_way_back_too(tmp_path: Path) -> None:
    (tmp_path / "srs.secret").write_text(SECRET)
    paths = ReturnPaths(tmp_path, CollectorRegistry(), "relay")
    made = paths.rewritten(BOTH, "anna@sender.example", 1e9)
    outgoing = Outgoing(Signatures(tmp_path, CollectorRegistry(), "relay"), paths)
    notice = NewMessage("0N", Envelope("", (made,)), Content.of(b"From: x@elsewhere.example\r\n\r\n"), 1e9)
    stored = asyncio.run(outgoing.notice(BOTH, notice))
    assert stored.envelope.forward_paths == ("anna@sender.example",)


@pytest.mark.parametrize("missing", ["key.pem", "srs.secret"])
@pytest.mark.parametrize("octets", [None, b"short"])
def test_without_key_or_secret_mail_waits_at_its_sender(tmp_path: Path, missing: str, octets: bytes | None) -> None:
    async def story(desk: Desk) -> None:
        file = tmp_path / "secrets" / missing
        file.unlink() if octets is None else file.write_bytes(octets)
        reply = await desk.acceptance.on_message(
            STRANGER, Envelope("anna@sender.example", (AWAY,)), Content.of(MESSAGE)
        )
        assert str(reply).startswith("451 4.3.5") and await desk.spool.rows(10) == []
        if missing == "srs.secret":
            assert rcpt(desk, "SRS0=AAAAAAAA=AA=x.example=a@site.example").startswith("451 4.3.5")

    run(tmp_path, story)


@pytest.mark.parametrize(("break_it", "top"), [(False, b"ARC-Seal: i=2; cv=pass;"), (True, b"Received:")])
def test_a_chain_goes_on_or_stays_broken(tmp_path: Path, break_it: bool, top: bytes) -> None:
    content = arc_set(MESSAGE, 1, domain="list.example")
    content = content.replace(b"this  is", b"this was") if break_it else content

    async def story(desk: Desk) -> None:
        assert (await take(desk, content)).content.whole().startswith(top)

    run(tmp_path, story, more=txt("arc._domainkey.list.example", rsa_key()[1]))


def messages() -> list[Path]:
    folders = [MAIL, *([Path(MORE)] if MORE else [])]
    return [path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()]


def test_every_message_comes_out_as_it_was_behind_our_fields(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        for path in messages():
            content = with_crlf(path.read_bytes().replace(b"\0", b""))
            if HOST.encode() in content.lower():
                continue
            whole = (await take(desk, content)).content.whole()
            assert whole.endswith(content), path.name
            front = whole[: len(whole) - len(content)]
            lines = [line for line in front.split(b"\r\n") if line and line[:1] not in b" \t"]
            names = {line.partition(b":")[0] for line in lines}
            ours = {b"Received", b"Authentication-Results", b"ARC-Seal", b"ARC-Message-Signature"}
            assert names <= ours | {b"ARC-Authentication-Results"}, path.name

    run(tmp_path, story)


@pytest.mark.parametrize("form", ["simple/simple", "relaxed/simple", "simple/relaxed", "relaxed/relaxed"])
@pytest.mark.parametrize("kind", ["rsa-sha256", "ed25519-sha256"])
def test_a_signature_that_came_valid_goes_valid(tmp_path: Path, form: str, kind: str) -> None:
    record = rsa_key()[1] if kind.startswith("rsa") else ed25519_key()[1]
    bodies = (b"", b"\r\n\r\n", b" a  b\t\r\n \r\n\r\n", b".\r\n..\r\n\xff\xfe\r\n", b"x" * 900 + b"\r\n")
    section = split_header_section(MESSAGE)[0]

    async def story(desk: Desk) -> None:
        for body in bodies:
            content = signed(section + b"X-Odd:  a\r\n\t b \r\n\r\n" + body, canonical=form, algorithm=kind)
            whole = (await take(desk, content)).content.whole()
            assert whole.endswith(content) and whole.startswith(b"ARC-Seal")
            assert dkim.DKIM(whole).verify(0, dnsfunc=lambda name, timeout=5: record.encode())

    run(tmp_path, story)


def test_a_bounce_keeps_its_rules_way(tmp_path: Path) -> None:
    rules: list[Mapping[str, Any]] = [RULES[0], RULES[2] | {"route": ["mx"]}]
    policy = BOTH.replace(mail=Policy.model_validate({"site": {"zones": {}}, "mail": rules}).mail)

    async def story(desk: Desk) -> None:
        path = (await take(desk, MESSAGE)).envelope.reverse_path
        back = await take(desk, b"Subject: no\r\n\r\n", path, reverse_path="")
        assert dict(back.via) == {"anna@sender.example": ("mx",)}

    run(tmp_path, story, policy)


def test_a_rule_that_goes_on_may_ask_for_it_too(tmp_path: Path) -> None:
    rules = [{"name": "all", "action": "continue", "rewrite_sender": True}, RULES[1]]
    policy = BOTH.replace(mail=Policy.model_validate({"site": {"zones": {}}, "mail": rules}).mail)

    async def story(desk: Desk) -> None:
        assert (await take(desk, MESSAGE, "x@plain.example")).envelope.reverse_path.startswith("SRS0=")

    run(tmp_path, story, policy)


def test_another_secret_is_taken_with_the_next_policy(tmp_path: Path) -> None:
    (tmp_path / "srs.secret").write_text(SECRET)
    paths = ReturnPaths(tmp_path, CollectorRegistry(), "smtpd")
    made = paths.rewritten(BOTH, "anna@sender.example", 1e9)
    (tmp_path / "srs.secret").write_text(SECRET + " and others")
    assert paths.refusal(BOTH, "", made, 1e9) is None
    paths.reload(BOTH)
    assert str(paths.refusal(BOTH, "", made, 1e9)) == "550 5.1.1 This address was not made here"


def test_the_queue_sends_its_dsn_signed_and_to_whom_the_mail_came_from(tmp_path: Path) -> None:
    """A message of anna@two.example was forwarded under a reverse-path of ours, and refused by mx.one.example."""
    (tmp_path / "srs.secret").write_text(SECRET)
    (tmp_path / "key.pem").write_bytes(KEY.pem)
    paths = ReturnPaths(tmp_path, CollectorRegistry(), "relay")
    outgoing = Outgoing(Signatures(tmp_path, CollectorRegistry(), "relay"), paths)
    made = paths.rewritten(BOTH, "anna@two.example", 1000.0)
    sent: list[Transaction] = []

    async def send(transaction: Transaction, peer: Peer, ehlo_name: str, patience: Patience) -> Sent:
        sent.append(transaction)
        refused = permanent("5.1.1", "no such user", peer.name)
        outcome = refused if peer.name == "mx.one.example" else delivered("ok", peer.name)
        return Sent(dict.fromkeys(transaction.forward_paths, outcome), begun=True)

    signer = {"domains": "gw.example.org", "selector": "s1", "key": "file:key.pem"}
    site = {"zones": {}, "domains": ["site.example"], "signing": {"own": signer}, "forwarding": {"srs": SRS}}
    policy = Policy.model_validate({"site": site})

    async def walk() -> None:
        async with house(tmp_path / "spool", policy, send=send, notice=outgoing.notice) as here:
            await here.put("b@one.example", reverse_path=made)
            await here.settled(2)

    asyncio.run(walk())
    (_, notice) = sent
    assert notice.forward_paths == ("anna@two.example",) and notice.reverse_path == ""
    whole = notice.content.whole()
    assert whole.startswith(b"DKIM-Signature: v=1; a=rsa-sha256; d=gw.example.org; s=s1; t=1000;")
    assert dkim.verify(whole, dnsfunc=our_record)
