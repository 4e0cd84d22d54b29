"""Mail by SMTP into Dovecot's LMTP, sorted by a Sieve script and read over IMAP; and what scripts send."""

from __future__ import annotations

import os
import re
import smtplib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.peers.conftest import standing
from tests.peers.dovecots import GENERATIONS, gateway_words
from tests.peers.reading import PASSWORD, ROOT, SECONDS, SORTED, Gateway, gateway_at, until
from tests.peers.test_reading_together import count, imap
from tests.smtp.fake_mx import FakeMx

pytestmark = pytest.mark.peers

SITE = """
site:
  zones: {here: {networks: 127.0.0.0/8}}
  domains: [test.example]
  resolvers: "127.0.0.1:9"
  relay:
    hostname: gw.test.example
    listeners:
      lan: {kind: smtp, port: 0}
      submission: {kind: submission, port: 0}
    retry: {first_seconds: 1}
  metrics: {port: 0}
  access: {imap_port: 0, imaps_port: 0}
  mailboxes: {deliver: lmtp, forward_outside: true, accounts: {plain: {deliver: maildir}}}
  smart_hosts: {far: {host: 127.0.0.1, port: FAR_PORT, tls: none}}
routes:
  - {name: far, match: {recipient_domain: far.example}, via: far}
mail:
  - {name: not-there, match: {authenticated: true, recipient: no@far.example}, action: reject}
  - {name: users, match: {authenticated: true}, action: accept}
  - {name: own, match: {client: here, recipient_domain: "@local"}, action: accept}
"""
SCRIPT = """\
require ["fileinto", "mailbox", "subaddress", "envelope", "vacation", "reject"];
if envelope :detail "to" "lists" { fileinto :create "Lists/Debian"; stop; }
if header :contains "Subject" "to far" { redirect "carl@far.example"; stop; }
if header :contains "Subject" "to bert" { redirect "bert@test.example"; stop; }
if header :contains "Subject" "to no" { redirect "no@far.example"; redirect "no@far.example"; stop; }
if header :contains "Subject" "unwanted" { reject "No, thank you."; stop; }
if header :contains "Subject" "holiday" { vacation "I am away."; }
"""
BACK = 'if header :contains "Subject" "to bert" { redirect "anna@test.example"; }\n'
RULES = "rules:\n  - {name: lists, match: {detail: lists}, action: file, folder: Lists/Debian}\n"


class Post:
    """A gateway, and the host that stands for all others."""

    def __init__(self, gateway: Gateway, far: FakeMx) -> None:
        self.gateway, self.far = gateway, far

    def send(self, recipient: str, subject: str, sender: str = "x@far.example") -> None:
        letter = f"From: {sender}\r\nTo: {recipient}@test.example\r\nMessage-ID: <{subject.replace(' ', '')}@x>\r\n"
        self.gateway.send(recipient, f"{letter}Subject: {subject}\r\n\r\n.hello\r\n".encode(), sender)

    def went_out(self, marker: str) -> tuple[str, list[str], bytes]:
        """Sender, recipients and content, as soon as the far host has it."""
        line, paths, content = until(
            lambda: next((one for one in list(self.far.messages) if marker.encode() in one[2]), None)
        )  # type: ignore[misc]
        return line.partition("<")[2].partition(">")[0], paths, content

    def texts(self, account: str, folder: str, number: int) -> list[bytes]:
        client = imap(self.gateway, account)
        until(lambda: client.select(folder)[0] == "OK")
        until(lambda: count(client, folder) >= number)
        answer = client.fetch("1:*", "(BODY.PEEK[])")[1]
        client.logout()
        return [part[1] for part in answer if isinstance(part, tuple)]


@pytest.fixture(scope="module", params=GENERATIONS)
def post(request: pytest.FixtureRequest) -> Iterator[Post]:
    if "EGRESSGUARD_READERS" not in os.environ:
        pytest.skip("one of the long versions: make system, or EGRESSGUARD_READERS=all")
    with tempfile.TemporaryDirectory(prefix="eg-sv-", ignore_cleanup_errors=True) as name, standing(FakeMx()) as far:
        folder = Path(name)
        folder.chmod(0o755)
        words = gateway_words(request.param, folder)
        for gateway in gateway_at(folder, SITE.replace("FAR_PORT", str(far.port)), words):
            for account in ("anna", "bert", "plain"):
                gateway.add(account)
            gateway.told_with(SCRIPT, "user", "sieve", "set", "anna", "-")
            gateway.told_with(BACK, "user", "sieve", "set", "bert", "-")
            gateway.told_with(RULES, "user", "rules", "set", "plain", "-")
            yield Post(gateway, far)


def test_by_smtp_through_lmtp_and_a_script_to_imap_and_back_to_the_relay(readable: Gateway) -> None:
    """In short, what the others look at closely."""
    if not (ROOT / ".peers/mailserver/.unpacked").exists():
        pytest.skip("needs Dovecot's LMTP and Sieve: run scripts/peers")
    readable.add(SORTED)
    script = SCRIPT.replace("bert@test.example", "boss@test.example")
    readable.told_with(script, "user", "sieve", "set", SORTED, "-")
    post = Post(readable, FakeMx())
    post.send(f"{SORTED}+lists", "news of Debian")
    post.send(SORTED, "to bert")
    (text,) = post.texts(SORTED, "Lists/Debian", 1)
    assert text.endswith(b"Subject: news of Debian\r\n\r\n.hello\r\n")
    texts = [text for text in post.texts("boss", "INBOX", 1) if b"Subject: to bert" in text]
    assert len(texts) == 1 and texts[0].startswith(f"Return-Path: <{SORTED}@test.example>".encode())


def test_without_any_port_for_readers_mail_still_gets_in_by_lmtp() -> None:
    with tempfile.TemporaryDirectory(prefix="eg-sv-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)
        site = SITE.replace("FAR_PORT", "9").replace("  access: {imap_port: 0, imaps_port: 0}\n", "")
        for gateway in gateway_at(folder, site, gateway_words("2.3", folder)):
            (folder / "password").write_text(PASSWORD)
            gateway.running.told("user", "add", "anna", "--password-file", str(folder / "password"))
            gateway.told_with(SCRIPT, "user", "sieve", "set", "anna", "-")
            assert gateway.access()["ports"] == {}
            gateway.send("anna+lists", b"Subject: news\r\n\r\nhello\r\n")
            new = gateway.running.folder / "state" / "mailboxes" / "anna" / ".Lists.Debian" / "new"
            (letter,) = until(lambda new=new: new.exists() and list(new.iterdir()))  # type: ignore[misc]
            assert letter.read_bytes().endswith(b"Subject: news\n\nhello\n")


def test_mail_by_smtp_is_sorted_by_a_script_and_read_over_imap(post: Post) -> None:
    post.send("anna+lists", "news of Debian")
    (text,) = post.texts("anna", "Lists/Debian", 1)
    assert text.startswith(b"Return-Path: <x@far.example>\r\nDelivered-To: anna+lists@test.example\r\nReceived: ")
    assert text.endswith(b"Subject: news of Debian\r\n\r\n.hello\r\n")
    assert count(imap(post.gateway, "anna"), "INBOX") == 0


def test_mail_by_submission_gets_into_the_inbox_of_an_account_without_a_script(post: Post) -> None:
    with smtplib.SMTP("127.0.0.1", post.gateway.running.port("submission"), timeout=SECONDS) as client:
        client.starttls(context=post.gateway.context())
        client.login("anna", PASSWORD)
        client.sendmail("anna@test.example", ["plain@test.example"], b"Subject: by submission\r\n\r\nhello\r\n")
    (text,) = post.texts("plain", "INBOX", 1)
    assert b"ESMTPSA" in text and text.endswith(b"Subject: by submission\r\n\r\nhello\r\n")


def test_an_account_s_own_rules_file_without_sieve(post: Post) -> None:
    post.send("plain+lists", "news again")
    (text,) = post.texts("plain", "Lists/Debian", 1)
    assert text.endswith(b"Subject: news again\r\n\r\n.hello\r\n")


def test_what_a_script_redirects_leaves_as_the_account_s(post: Post) -> None:
    post.send("anna", "to far away")
    sender, recipients, content = post.went_out("to far away")
    assert (sender, recipients) == ("anna@test.example", ["carl@far.example"])
    assert content.endswith(b"Subject: to far away\r\n\r\n.hello\r\n")
    (row,) = until(lambda: post.gateway.journal("mail.accepted", "carl@far.example"))
    assert (row["user"], row["rule"], row["listener"]) == ("anna", "users", "drop")


def test_two_scripts_that_send_to_each_other_end_in_an_inbox(post: Post) -> None:
    post.send("anna", "to bert and back")
    (text,) = post.texts("bert", "INBOX", 1)
    assert re.findall(rb"(?m)^Delivered-To: (.*)\r$", text)[-2:] == [b"bert@test.example", b"anna@test.example"]
    (row,) = until(lambda: post.gateway.journal("mailbox.kept", "bert"))
    assert (row["account"], row["why"]) == ("bert", "it would go round in a loop")
    assert count(imap(post.gateway, "anna"), "INBOX") == 0


def test_what_the_rules_refuse_stays_in_the_inbox_once(post: Post) -> None:
    before = count(imap(post.gateway, "anna"), "INBOX")
    post.send("anna", "to nobody")
    texts = [text for text in post.texts("anna", "INBOX", before + 1) if b"to nobody" in text]
    assert len(texts) == 1
    (row, *_) = until(lambda: post.gateway.journal("mailbox.kept", "no@far.example"))
    assert row["account"] == "anna" and "550" in row["why"]


@pytest.mark.parametrize(
    ("subject", "said"),
    [("unwanted offer", "No, thank you."), ("holiday plans", "I am away.")],
    ids=["reject", "vacation"],
)
def test_replies_have_no_sender_that_could_be_answered(post: Post, subject: str, said: str) -> None:
    post.send("anna", subject)
    sender, recipients, content = post.went_out(said)
    assert (sender, recipients) == ("", ["x@far.example"])
    assert b"Auto-Submitted: auto-replied" in content
    kept = [text for text in post.texts("anna", "INBOX", 1) if subject.encode() in text]
    assert len(kept) == (said == "I am away.")
