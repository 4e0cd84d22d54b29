"""Who is signed on the way through the relay, and by whom; what a missing key does; that octets stay what they were."""

from __future__ import annotations

import email
import os
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import dkim
import pytest
from prometheus_client import CollectorRegistry

from egressguard.mail.header import split_header_section
from egressguard.mail.outcome import permanent
from egressguard.mail.submission import with_crlf
from egressguard.policy.model import Policy
from egressguard.relay.notify import failure_notice
from egressguard.relay.signatures import Signatures
from egressguard.senderauth.author import author_of
from egressguard.senderauth.sign_keys import SigningKey, make_key
from egressguard.store.content import Content
from tests.relay.setting import claim_of
from tests.relay.test_accept import ANNA, OUT, STRANGER, Desk, desk, policy_of  # noqa: F401 -- a fixture

pytestmark = pytest.mark.anyio

MAIL = Path(__file__).parent.parent / "data" / "mail"
MORE = os.environ.get("EGRESSGUARD_MAIL", "")
"""A folder with more messages than the project carries along."""
PEOPLE = {"name": "all", "action": "accept"}
PAST = 1_700_000_000.0
"""dkimpy looks at its own clock, and takes no signature of the future."""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@cache
def keys() -> Mapping[str, SigningKey]:
    return {"rsa": make_key("rsa"), "ed": make_key("ed25519")}


def signing_policy(signing: Mapping[str, Any], *mail: Mapping[str, Any]) -> Policy:
    policy = policy_of(list(mail) or [PEOPLE])
    site = Policy.model_validate({"site": {"zones": {}, "domains": ["example.org"], "signing": signing}}).site
    return policy.replace(site=policy.site.model_copy(update={"signing": site.signing}))


def signer(selector: str = "rsa", **more: Any) -> dict[str, Any]:
    return {"domains": "example.org", "selector": selector, "key": f"file:{selector}.pem"} | more


@pytest.fixture
def signed_desk(desk: Desk, tmp_path: Path) -> Desk:  # noqa: F811
    for name, key in keys().items():
        (tmp_path / f"{name}.pem").write_bytes(key.pem)
    desk.acceptance.policy = signing_policy({"own": signer()})
    desk.acceptance._clock = lambda: PAST
    return desk


def letter(author: str = "Anna <anna@example.org>", *more: str) -> bytes:
    return "\r\n".join([f"From: {author}", "Subject: hello", *more, "", "text", ""]).encode()


async def taken(desk: Desk, content: bytes, session: Any = ANNA) -> bytes:  # noqa: F811
    reply = await desk.acceptance.on_message(session, OUT, Content.of(content))
    assert reply.is_positive, reply
    return (await desk.spool.content(reply.text.split()[-1])).whole()


def signatures_of(stored: bytes) -> list[str]:
    """The (d, s) of each signature of ours, all of which hold."""
    found, section = [], split_header_section(stored)[0]
    for number in range(section.lower().count(b"dkim-signature:")):
        selector: list[str] = []

        def record(name: bytes, timeout: int = 5, selector: list[str] = selector) -> bytes:
            selector.append(name.decode().replace("._domainkey.", " ").rstrip("."))
            return keys()[selector[0].split()[0]].record.encode()

        assert dkim.DKIM(stored).verify(number, dnsfunc=record)
        found += selector
    return found


def counted(desk: Desk, result: str, kind: str = "dkim") -> float | None:  # noqa: F811
    labels = {"component": "smtpd", "kind": kind, "result": result}
    return desk.registry.get_sample_value("egressguard_senderauth_signatures_total", labels)


TWO = {"a": signer(), "b": signer("ed")}


@pytest.mark.parametrize(
    ("signing", "author", "expected"),
    [
        ({"own": signer()}, "anna@example.org", ["rsa example.org"]),
        ({"own": signer()}, "ANNA@EXAMPLE.ORG", ["rsa example.org"]),
        ({"own": signer()}, "printer@device.example.org", ["rsa example.org"]),
        ({"own": signer(subdomains=False)}, "printer@device.example.org", []),
        ({"own": signer(subdomains=False)}, "anna@example.org", ["rsa example.org"]),
        ({"own": signer()}, "eve@notexample.org", []),
        ({"own": signer()}, "bert@elsewhere.example", []),
        (TWO, "anna@example.org", ["rsa example.org", "ed example.org"]),
        (TWO | {"a": signer(sign=False)}, "anna@example.org", ["ed example.org"]),
        ({"own": signer(sign=False)}, "anna@example.org", []),
        ({"a": signer(), "b": signer("ed", domains="sub.example.org")}, "a@sub.example.org", ["ed sub.example.org"]),
        ({"a": signer(), "b": signer("ed", domains="sub.example.org")}, "a@x.sub.example.org", ["ed sub.example.org"]),
        ({"own": signer(domains=["example.net", "Example.ORG"])}, "anna@example.org", ["rsa example.org"]),
        ({"own": signer(domains="xn--bcher-kva.example")}, "anna@b\u00fccher.example", ["rsa xn--bcher-kva.example"]),
        ({}, "anna@example.org", []),
    ],
)
async def test_the_authors_domain_signs(
    signed_desk: Desk, signing: dict[str, Any], author: str, expected: list[str]
) -> None:
    signed_desk.acceptance.policy = signing_policy(signing)
    content = letter(author)
    stored = await taken(signed_desk, content)
    assert signatures_of(stored) == expected and stored.endswith(content)
    assert counted(signed_desk, "made") == (1 if expected else None)


async def test_what_we_add_is_signed_with_it(signed_desk: Desk) -> None:
    stored = await taken(signed_desk, letter())
    assert email.message_from_bytes(stored)["Message-ID"]
    changed = stored.replace(b"Message-ID: <", b"Message-ID: <x")
    assert not dkim.verify(changed, dnsfunc=lambda name, timeout=5: keys()["rsa"].record.encode())


@pytest.mark.parametrize(
    "content",
    [
        b"Subject: x\r\n\r\n",
        letter("anna@example.org", "From: eve@example.org"),
        letter("anna@example.org, bert@elsewhere.example"),
        letter("anna@example.org <eve@example.org"),
        letter("anna@example.org", "no field"),
        b"\r\n\r\n",
    ],
    ids=["no author", "two From", "authors of two domains", "malformed", "broken line", "nothing"],
)
async def test_what_is_not_safe_to_sign_goes_unsigned_and_is_counted(signed_desk: Desk, content: bytes) -> None:
    stored = await taken(signed_desk, content)
    assert b"DKIM-Signature" not in stored and stored.endswith(content)
    assert counted(signed_desk, "unsignable") == 1 and counted(signed_desk, "made") is None


async def test_without_its_key_mail_waits_at_its_sender(signed_desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "rsa.pem").unlink()
    reply = await signed_desk.acceptance.on_message(ANNA, OUT, Content.of(letter()))
    assert str(reply).startswith("451 4.3.5") and await signed_desk.stored() == []
    assert counted(signed_desk, "failed") == 1 and signed_desk.counted("deferred") == 1
    assert (await taken(signed_desk, letter("bert@elsewhere.example"))).endswith(b"text\r\n")
    (tmp_path / "rsa.pem").write_bytes(keys()["rsa"].pem)
    assert signatures_of(await taken(signed_desk, letter())) == ["rsa example.org"]


@pytest.mark.parametrize("session", [STRANGER, replace(STRANGER, original_destination="203.0.113.7:25")])
async def test_mail_of_devices_and_of_redirected_hosts_is(signed_desk: Desk, session: Any) -> None:
    assert signatures_of(await taken(signed_desk, letter(), session)) == ["rsa example.org"]


async def test_held_mail_is_signed_when_it_comes(signed_desk: Desk) -> None:
    signed_desk.acceptance.policy = signing_policy({"own": signer()}, {"name": "all", "action": "quarantine"})
    await signed_desk.acceptance.on_message(ANNA, OUT, Content.of(letter()))
    (held,) = await signed_desk.quarantine.rows()
    await signed_desk.quarantine.release(held["id"], "root")
    (stored,) = await signed_desk.stored()
    assert signatures_of(stored) == ["rsa example.org"]


async def test_large_mail_is_signed_where_it_lies(signed_desk: Desk, tmp_path: Path) -> None:
    content, path = letter() + b"one more  line \r\n" * 80_000, tmp_path / "draft"
    path.write_bytes(content)
    assert (
        await signed_desk.acceptance.on_message(ANNA, OUT, Content(file=path, file_octets=len(content)))
    ).code == 250
    (stored,) = await signed_desk.stored()
    assert signatures_of(stored) == ["rsa example.org"] and stored.endswith(content)


async def test_a_rules_notice_is_signed(signed_desk: Desk) -> None:
    rule = {"name": "bad", "action": "reject", "notify": "root@example.org"}
    signed_desk.acceptance.policy = signing_policy({"own": signer()}, rule)
    await signed_desk.acceptance.on_message(ANNA, OUT, Content.of(letter()))
    (stored,) = await signed_desk.stored()
    assert stored.count(b"From: EgressGuard <postmaster@gateway.example.org>") == 1
    assert signatures_of(stored) == ["rsa example.org"]


@pytest.mark.parametrize("there", [True, False])
async def test_a_dsn_is_signed_and_goes_unsigned_rather_than_not_at_all(tmp_path: Path, there: bool) -> None:
    if there:
        (tmp_path / "rsa.pem").write_bytes(keys()["rsa"].pem)
    claim, outcomes = claim_of("b@x.example"), {"b@x.example": permanent("5.1.1", "unknown")}
    notice = failure_notice(
        claim, outcomes, b"Subject: x\r\n\r\n", hostname="gateway.example.org", now=PAST, notice_id="0N"
    )
    assert notice is not None
    signatures = Signatures(tmp_path, CollectorRegistry(), "relay")
    sent = await signatures.signed_notice(signing_policy({"own": signer()}), notice)
    whole = sent.content.whole()
    assert whole.endswith(notice.content.whole())
    assert signatures_of(whole) == (["rsa example.org"] if there else [])


def messages() -> list[Path]:
    folders = [MAIL, *([Path(MORE)] if MORE else [])]
    return [path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()]


@pytest.mark.parametrize("path", messages(), ids=lambda path: path.name)
async def test_every_message_comes_out_as_it_was_behind_our_fields(signed_desk: Desk, path: Path) -> None:
    content = with_crlf(path.read_bytes().replace(b"\0", b""))
    author = author_of(split_header_section(content)[0]).domain or "example.org"
    signed_desk.acceptance.policy = signing_policy({"own": signer(domains=author)})
    stored = await taken(signed_desk, content)
    assert stored.endswith(content)
    front = stored[: len(stored) - len(content)]
    names = [line.partition(b":")[0] for line in front.split(b"\r\n") if line and line[:1] not in b" \t"]
    assert set(names) <= {b"DKIM-Signature", b"Received", b"Date", b"Message-ID"}
    assert (b"DKIM-Signature" in names) == bool(counted(signed_desk, "made"))
    if b"DKIM-Signature" in names:
        assert dkim.DKIM(stored).verify(0, dnsfunc=lambda name, timeout=5: keys()["rsa"].record.encode())


def incoming() -> list[tuple[str, str, str]]:
    forms = [f"{header}/{body}" for header in ("simple", "relaxed") for body in ("simple", "relaxed")]
    return [("rsa-sha256", form, name) for form in forms for name in ("rsa", "ed")]


@pytest.mark.parametrize(("algorithm", "form", "kind"), incoming())
async def test_a_signature_that_came_valid_goes_valid(signed_desk: Desk, algorithm: str, form: str, kind: str) -> None:
    from tests.senderauth.signing import ed25519_key, rsa_key, signed

    algorithm, record = ("rsa-sha256", rsa_key()[1]) if kind == "rsa" else ("ed25519-sha256", ed25519_key()[1])
    content = letter("Anna <anna@example.org>", "X-Odd:  a\r\n\t b \t", "Date: Mon, 23 Nov 2026 12:00:00 +0000")
    content += b" odd  body\t\r\n\r\n\r\n.\r\n\xe4\r\n"
    theirs = signed(content, domain="sender.example", canonical=form, algorithm=algorithm)
    stored = await taken(signed_desk, theirs)
    assert stored.endswith(theirs) and stored.count(b"DKIM-Signature:") == 2
    assert dkim.DKIM(stored).verify(1, dnsfunc=lambda name, timeout=5: record.encode())
    assert dkim.DKIM(stored).verify(0, dnsfunc=lambda name, timeout=5: keys()["rsa"].record.encode())


async def test_a_signature_that_says_that_fields_are_missing_stays_true(signed_desk: Desk) -> None:
    from tests.senderauth.signing import rsa_key, signed

    names = [b"from", b"from", b"date", b"message-id"]
    theirs = signed(letter(), domain="sender.example", include_headers=names)
    stored = await taken(signed_desk, theirs)
    assert b"Message-ID" not in stored and b"\nDate:" not in stored
    assert dkim.DKIM(stored).verify(1, dnsfunc=lambda name, timeout=5: rsa_key()[1].encode())


async def test_another_key_is_taken_with_the_next_policy(signed_desk: Desk, tmp_path: Path) -> None:
    signatures, policy = signed_desk.acceptance._outgoing._signatures, signing_policy({"own": signer()})
    assert signatures_of(await taken(signed_desk, letter())) == ["rsa example.org"]
    (tmp_path / "rsa.pem").write_bytes(keys()["ed"].pem)
    assert b"a=rsa-sha256" in await taken(signed_desk, letter())
    await signatures.reload(policy)
    assert b"a=ed25519-sha256" in await taken(signed_desk, letter())
    (tmp_path / "rsa.pem").unlink()
    await signatures.reload(policy)  # told in the log; mail tells it, too
    assert (await signed_desk.acceptance.on_message(ANNA, OUT, Content.of(letter()))).code == 451
