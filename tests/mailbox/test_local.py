"""Local delivery as a whole: aliases, rules, forwards, quotas, each message where it belongs, once."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from egressguard.mail.envelope import RecipientOptions
from egressguard.mail.outcome import Outcome, Result
from egressguard.mailbox.delivery import MaildirDelivery
from egressguard.mailbox.forwarding import EXPANDED, Forwarder
from egressguard.mailbox.local import LocalMail
from egressguard.mailbox.metrics import MailboxMetrics
from egressguard.mailbox.quota import Usages
from egressguard.mailbox.recipients import Recipients
from egressguard.mailbox.rule_files import RuleFiles
from egressguard.mailbox.sieve_mail import PAST_SIEVE
from egressguard.policy.model import Policy
from egressguard.relay.return_paths import ReturnPaths
from egressguard.store.content import Content
from egressguard.store.durable import Disk
from egressguard.store.interface import Claim, Due, NewMessage, SpoolFull
from egressguard.store.queue_id import new_queue_id, random_queue_id
from egressguard.store.spool import SqliteSpool
from tests.mailbox.test_recipients import Names
from tests.relay.setting import policy_of

NOW = 1_800_000_000.0
CONTENT = b"From: <x@example.net>\r\nSubject: hello\r\nList-Id: <debian-user.lists.example>\r\n\r\ntext \xff\r\n"
MAILBOXES: dict[str, Any] = {
    "aliases": {
        "info": ["anna", "bert", "carl@example.net"],
        "bert": ["bert", "copy@example.net"],
        "away": "anna@example.net",
    }
}
SRS = {"srs": {"domain": "example.org", "secrets": "file:srs.secret"}}


def policy_with(**more: Any) -> Policy:
    mailboxes = MAILBOXES | more.pop("mailboxes", {})
    return policy_of(domains=["example.org"], mailboxes=mailboxes, **more)


@dataclass
class Post:
    """The office: local delivery over a real spool, below one directory."""

    root: Path
    disk: type[Disk] = Disk
    full: bool = False
    journal: list[tuple[str, Mapping[str, object]]] = field(default_factory=list)
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)

    def __post_init__(self) -> None:
        for name in ("mailboxes", "rules", "secrets"):
            (self.root / name).mkdir(exist_ok=True)
        (self.root / "secrets" / "srs.secret").write_text("0123456789abcdef0123456789abcdef\n")
        self.spool = SqliteSpool(self.root / "spool")
        self.return_paths = ReturnPaths(self.root / "secrets", self.registry, "relay")
        self.local = self.opened()

    def opened(self) -> LocalMail:
        """As after a start: nothing is remembered."""
        usages = Usages(self.root / "mailboxes")
        metrics = MailboxMetrics(CollectorRegistry())
        return LocalMail(
            Recipients(Names("anna", "bert"), usages),
            RuleFiles(self.root / "rules", metrics.broken_rules),
            {"maildir": MaildirDelivery(self.root / "mailboxes", added=usages.added, disk=self.disk)},
            Forwarder(self.put, self.return_paths, "gw.example.org", clock=lambda: NOW, new_queue_id=random_queue_id),
            usages,
            metrics,
            lambda kind, fields: self.journal.append((kind, fields)),
        )

    async def put(self, message: NewMessage) -> str:
        if self.full:
            raise SpoolFull("no room")
        return await self.spool.put(message)

    def rules(self, account: str, text: str) -> None:
        (self.root / "rules" / f"{account}.yaml").write_text(text)

    def messages(self, account: str = "anna", folder: str = "") -> list[bytes]:
        found = (self.root / "mailboxes" / account / folder).glob("new/*")
        return [path.read_bytes() for path in sorted(found)]

    async def sent_on(self) -> list[Claim]:
        return list(await self.spool.claim(NOW + 1, 100, lambda received_at, _attempts: received_at + 3600))


@pytest.fixture
def post(tmp_path: Path) -> Any:
    made = Post(tmp_path)
    yield made
    made.spool.close()


def claim_to(path: str, *, content: bytes = CONTENT, attempts: int = 1, **more: Any) -> Claim:
    options = more.pop("options", RecipientOptions())
    facts: dict[str, Any] = {"reverse_path": "x@example.net", "queue_id": new_queue_id(NOW, 7)} | more
    due = Due(path, attempts, (), options)
    return Claim(received_at=NOW, size_octets=len(content), smtputf8=False, body_8bit=True, recipients=(due,), **facts)


async def deliver(post: Post, path: str, policy: Policy | None = None, **more: Any) -> Outcome:
    content = more.get("content", CONTENT)
    claim = claim_to(path, **more)
    return await post.local.deliver(policy or policy_with(), claim, claim.recipients[0], Content.of(content))


def run(post: Post, path: str, policy: Policy | None = None, **more: Any) -> tuple[Outcome, list[Claim]]:
    async def walk() -> tuple[Outcome, list[Claim]]:
        return await deliver(post, path, policy, **more), await post.sent_on()

    return asyncio.run(walk())


def test_a_message_for_an_account(post: Post) -> None:
    outcome, others = run(post, "anna@example.org")
    assert outcome.result is Result.DELIVERED
    assert post.messages() == [b"Return-Path: <x@example.net>\r\nDelivered-To: anna@example.org\r\n" + CONTENT]
    assert (others, post.journal) == ([], [])


def test_what_a_script_gave_away_and_nobody_takes_goes_past_dovecot(post: Post) -> None:
    by_lmtp = policy_with(mailboxes={"deliver": "lmtp"})
    outcome, others = run(post, "anna@example.org", by_lmtp, tags=(EXPANDED, PAST_SIEVE))
    assert (outcome.result, others) == (Result.DELIVERED, [])
    assert len(post.messages()) == 1


@pytest.mark.parametrize(
    ("path", "status"),
    [("nobody@example.org", "5.1.1"), ("an\nna@example.org", "5.1.3"), ("disk@example.org", "4.3.0")],
)
def test_who_is_not_here(post: Post, path: str, status: str) -> None:
    assert run(post, path)[0].status == status
    assert list((post.root / "mailboxes").iterdir()) == []


def test_an_alias_for_several_becomes_one_message_for_all_of_them(post: Post) -> None:
    async def walk() -> None:
        policy = policy_with(forwarding=SRS)
        post.return_paths.reload(policy)
        outcome = await deliver(
            post,
            "Info@example.org",
            policy,
            options=RecipientOptions(("SUCCESS", "DELAY")),
            user="anna",
            tags=("bulk",),
        )
        assert outcome.result is Result.DELIVERED
        (claim,) = await post.sent_on()
        paths = [due.forward_path for due in claim.recipients]
        assert sorted(paths) == ["anna@example.org", "bert@example.org", "carl@example.net", "copy@example.net"]
        assert claim.reverse_path.startswith("SRS0=")
        assert (claim.user, claim.tags, claim.body_8bit) == ("anna", ("bulk", EXPANDED), True)
        for due in claim.recipients:
            assert due.options == RecipientOptions(("DELAY",), "rfc822;Info@example.org")
        content = (await post.spool.content(claim.queue_id)).whole()
        assert content.startswith(b"Delivered-To: Info@example.org\r\nReceived: by gw.example.org (forwarded) id ")
        assert content.endswith(CONTENT)
        # Bert's own alias is not asked again, and so nobody gets it twice.
        bert = replace(claim, recipients=tuple(d for d in claim.recipients if d.forward_path == "bert@example.org"))
        assert (await post.local.deliver(policy, bert, bert.recipients[0], Content.of(content))).status == "2.0.0"
        assert len(post.messages("bert")) == 1
        assert await post.sent_on() == []

    asyncio.run(walk())
    assert [(kind, fields["recipients"]) for kind, fields in post.journal] == [
        ("mailbox.sent-on", ["anna@example.org", "bert@example.org", "copy@example.net", "carl@example.net"])
    ]


@pytest.mark.parametrize(("notify", "left"), [(("SUCCESS",), ("NEVER",)), (("NEVER",), ("NEVER",)), (None, None)])
def test_success_is_told_once(post: Post, notify: tuple[str, ...] | None, left: tuple[str, ...] | None) -> None:
    _, (claim,) = run(post, "away@example.org", options=RecipientOptions(notify, "rfc822;first@example.org"))
    assert claim.recipients[0].options == RecipientOptions(left, "rfc822;first@example.org")


def test_an_alias_of_an_account_that_is_named_in_it(post: Post) -> None:
    outcome, (claim,) = run(post, "bert@example.org")
    assert outcome.result is Result.DELIVERED
    assert len(post.messages("bert")) == 1
    assert [due.forward_path for due in claim.recipients] == ["copy@example.net"]
    assert claim.reverse_path == "x@example.net"  # no SRS in these rules


def test_what_is_sent_on_is_so_once_however_often_it_is_tried(post: Post) -> None:
    async def walk() -> int:
        for attempts in (1, 2, 3):
            post.local = post.opened()
            assert (await deliver(post, "bert@example.org", attempts=attempts)).result is Result.DELIVERED
        return len(await post.sent_on())

    assert asyncio.run(walk()) == 1
    assert len(post.messages("bert")) == 1


def test_a_full_spool_delivers_nothing_here_either_and_the_next_try_both(post: Post) -> None:
    post.full = True
    outcome, others = run(post, "bert@example.org")
    assert (outcome.result, outcome.status, others) == (Result.TRANSIENT, "4.3.1", [])
    assert post.messages("bert") == []
    post.full = False
    outcome, others = run(post, "bert@example.org", attempts=2)
    assert (outcome.result, len(others), len(post.messages("bert"))) == (Result.DELIVERED, 1, 1)


def test_a_secret_that_cannot_be_read_is_our_own_trouble(post: Post) -> None:
    (post.root / "secrets" / "srs.secret").unlink()
    outcome, others = run(post, "away@example.org", policy_with(forwarding=SRS))
    assert (outcome.result, others) == (Result.TRANSIENT, [])


BEEN = b"Delivered-To: %s\r\n"


@pytest.mark.parametrize(
    ("path", "front", "status"),
    [
        ("away@example.org", BEEN % b"away@example.org", "5.4.6"),
        ("away@example.org", BEEN % b"AWAY@example.org", "5.4.6"),
        ("away@example.org", BEEN % b"other@example.org", "2.0.0"),
        ("away@example.org", b"Received: x\r\n" * 50, "5.4.6"),
        ("away@example.org", b"Received: x\r\n" * 49, "2.0.0"),
        ("away@example.org", b"".join(BEEN % b"%d@example.org" % n for n in range(100)), "5.4.6"),
        ("bert@example.org", BEEN % b"bert@example.org", "2.0.0"),  # an account keeps what it cannot send on
    ],
)
def test_what_goes_round_is_sent_on_no_more(post: Post, path: str, front: bytes, status: str) -> None:
    outcome, others = run(post, path, content=front + CONTENT)
    goes = status == "2.0.0" and path.startswith("away")
    assert (outcome.status, len(others)) == (status, int(goes))
    assert len(post.messages("bert")) == int(path.startswith("bert"))


LISTS = "rules: [{name: lists, match: {header: {list-id: '*debian*'}}, action: file, folder: Lists/Debian}]"
DETAIL = "rules: [{name: d, match: {detail: 'Deb*'}, action: file, folder: Detail}]"


@pytest.mark.parametrize(
    ("rules", "path", "folder"),
    [
        (LISTS, "anna@example.org", ".Lists.Debian"),
        (LISTS, "bert@example.org", ""),  # hers, not his
        (DETAIL, "anna+debian@example.org", ".Detail"),
        (DETAIL, "anna@example.org", ""),
        ("rules: [{name: none, enabled: false, action: file, folder: X}]", "anna@example.org", ""),
        ("rules: [{name: k, action: keep}]", "anna@example.org", ""),
        ("rules: [{name: broken, action: file}]", "anna@example.org", ""),
        ("rules: [", "anna@example.org", ""),
        ("", "anna@example.org", ""),
    ],
)
def test_own_rules_choose_the_folder(post: Post, rules: str, path: str, folder: str) -> None:
    post.rules("anna", rules)
    outcome, _ = run(post, path)
    assert outcome.result is Result.DELIVERED
    assert len(post.messages(path[:4], folder)) == 1
    filed = [fields["folder"] for kind, fields in post.journal if kind == "mailbox.filed"]
    keeps = ["INBOX"] if "action: keep" in rules else []
    assert filed == ([folder[1:].replace(".", "/")] if folder else keeps)


FORWARD = "rules: [{name: f, match: {tag: bulk}, action: forward, to: [%s]%s}]"


@pytest.mark.parametrize(
    ("to", "more", "allowed", "kept", "sent"),
    [
        ("bert@example.org", "", False, False, True),
        ("bert@example.org", ", folder: INBOX", False, True, True),
        ("bert@example.org, x@example.net", "", False, True, False),
        ("x@example.net", "", True, False, True),
        ("x@example.net", "", False, True, False),
    ],
)
def test_own_rules_forward(post: Post, to: str, more: str, allowed: bool, kept: bool, sent: bool) -> None:
    post.rules("anna", FORWARD % (to, more))
    policy = policy_with(mailboxes={"forward_outside": allowed})
    outcome, others = run(post, "anna@example.org", policy, tags=("bulk", EXPANDED))
    assert outcome.result is Result.DELIVERED
    assert (len(post.messages()), len(others)) == (int(kept), int(sent))
    if others:
        assert [due.forward_path for due in others[0].recipients] == to.split(", ")
        assert others[0].tags == ("bulk",)  # aliases are asked of what rules send


def test_two_who_forward_to_each_other(post: Post) -> None:
    """It ends, and somebody has it."""
    post.rules("anna", "rules: [{name: f, action: forward, to: berta@example.org}]")
    post.rules("bert", "rules: [{name: f, action: forward, to: anna@example.org}]")
    policy = policy_with(mailboxes={"aliases": {"berta": "bert"}})

    async def walk() -> int:
        await deliver(post, "anna@example.org", policy)
        for hops in range(10):
            if not (claims := await post.sent_on()):
                return hops
            (claim,) = claims
            content = await post.spool.content(claim.queue_id)
            await post.local.deliver(policy, claim, claim.recipients[0], content)
        return 10

    assert asyncio.run(walk()) == 2
    assert len(post.messages("anna") + post.messages("bert")) == 1


def test_an_account_that_is_full_makes_its_message_wait(post: Post) -> None:
    policy = policy_with(mailboxes={"quota": {"octets": 200}})
    post.local._usages._monotonic = lambda: 0.0
    for number, status in enumerate(["2.0.0", "2.0.0", "4.2.2"]):  # the second reaches over the edge
        outcome, _ = run(post, "anna@example.org", policy, queue_id=new_queue_id(NOW, number))
        assert outcome.status == status
    assert len(post.messages()) == 2
    for message in (post.root / "mailboxes" / "anna" / "new").iterdir():
        message.unlink()
    outcome, _ = run(post, "anna@example.org", policy, queue_id=new_queue_id(NOW, 3))
    assert outcome.status == "2.0.0"  # full is never what is at hand


STEPS = ["open", "write", "fsync", "close", "rename"]


@pytest.mark.parametrize("after", range(6))
@pytest.mark.parametrize("step", STEPS)
def test_a_disk_that_fails_anywhere_loses_and_doubles_nothing(tmp_path: Path, step: str, after: int) -> None:
    calls = iter(range(10**6))
    real = getattr(Disk, step)

    def fail(*args: Any, **kwargs: Any) -> Any:
        if next(calls) != after:
            return real(*args, **kwargs)
        if step == "close":
            real(*args)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    post = Post(tmp_path, type("FailingOnce", (Disk,), {step: staticmethod(fail)}))
    post.rules("bert", LISTS)
    outcome, others = run(post, "bert@example.org")
    if outcome.result is not Result.DELIVERED:
        assert outcome.result is Result.TRANSIENT
        outcome, again = run(post, "bert@example.org", attempts=2)
        others += again
    assert outcome.result is Result.DELIVERED
    assert (len(others), len(post.messages("bert", ".Lists.Debian"))) == (1, 1)
    assert list((tmp_path / "mailboxes").rglob("tmp/*")) == []
    post.spool.close()
