"""Real mail servers, both ways: what they hand to us on port 25 arrives as it was said, what our relay hands to them
comes out of them again as it was, and what is refused stays refused.

Behind each of them stands our own server: what goes round by way of the MTA can be compared octet for octet.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Sequence

import pytest

from egressguard.mail.envelope import RecipientOptions
from tests.peers.exim import Exim
from tests.peers.meeting import BODY, HEAD, MAX_OCTETS, SENDER, Meeting, meeting_with
from tests.peers.mta import PLAIN, RAW, REFUSED, SECURE, Mta
from tests.peers.opensmtpd import OpenSmtpd
from tests.peers.postfix import Postfix
from tests.peers.sendmail import Sendmail

pytestmark = pytest.mark.peers

LARGE_OCTETS = 1_000_000
NO_UTF8 = ("permanent", "5.6.7")
MTAS: Sequence[type[Mta]] = (Postfix, Exim, OpenSmtpd, Sendmail)


@pytest.fixture(scope="module", params=MTAS, ids=lambda mta: mta.__name__)
def meeting(request: pytest.FixtureRequest) -> Iterator[Meeting]:
    with meeting_with(request.param) as met:
        yield met


def body_of(content: bytes) -> bytes:
    return content.partition(b"\r\n\r\n")[2]


def test_the_unknown_recipient_fails_alone(meeting: Meeting) -> None:
    paths = [f"anna@{PLAIN}", f"unknown@{PLAIN}", f"bert@{PLAIN}"]

    async def dialogue() -> None:
        await meeting.submit(paths)
        ((facts, envelope, content),) = await meeting.arrived()
        assert (envelope.reverse_path, set(envelope.forward_paths)) == (SENDER, {paths[0], paths[2]})
        assert body_of(content) == body_of(BODY) and b"Subject: hand-over\r\n" in content
        assert facts.esmtp and not (facts.tls and meeting.mta.PLAIN_IS_PLAIN)
        await meeting.logged("550 5.1.1 No such mailbox here")

    meeting.play(dialogue)


def test_over_tls_with_our_certificate_verified(meeting: Meeting) -> None:
    async def dialogue() -> None:
        await meeting.submit([f"anna@{SECURE}"])
        ((facts, _, content),) = await meeting.arrived()
        assert facts.tls and body_of(content) == body_of(BODY)
        await meeting.logged(meeting.mta.VERIFIED)

    meeting.play(dialogue)


def test_eight_bits_are_announced_and_arrive(meeting: Meeting) -> None:
    content = BODY + "Gr\u00fc\u00dfe\r\n".encode()

    async def dialogue() -> None:
        await meeting.submit([f"anna@{PLAIN}"], content, parameters=" BODY=8BITMIME")
        ((_, envelope, arrived),) = await meeting.arrived()
        assert envelope.body_8bit and body_of(arrived) == body_of(content)

    meeting.play(dialogue)


def test_addresses_beyond_ascii_arrive(meeting: Meeting) -> None:
    meeting.needs("smtputf8")
    path, sender = f"gr\u00fc\u00dfe@{PLAIN}", "b\u00fccher@elsewhere.example"

    async def dialogue() -> None:
        await meeting.submit([path], sender=sender, parameters=" SMTPUTF8 BODY=8BITMIME")
        ((_, envelope, _),) = await meeting.arrived()
        assert envelope.smtputf8 and (envelope.reverse_path, envelope.forward_paths) == (sender, (path,))

    meeting.play(dialogue)


def test_what_is_too_large_is_refused_for_good(meeting: Meeting) -> None:
    """By what our EHLO says, and by our reply to one that does not heed it."""
    content = BODY + b"x" * 70 + b"\r\n" + (b"y" * 70 + b"\r\n") * (MAX_OCTETS // 70)

    async def dialogue() -> None:
        for domain in (PLAIN, RAW):
            await meeting.submit([f"large@{domain}"], content)
        for words in meeting.mta.TOO_LARGE:
            await meeting.logged(words)
        assert meeting.running.hooks.messages == []

    meeting.play(dialogue)


def test_what_we_put_off_comes_again(meeting: Meeting) -> None:
    path = f"later@{PLAIN}"
    meeting.running.hooks.put_off.add(path)

    async def dialogue() -> None:
        await meeting.submit([path])
        await meeting.logged("451 4.7.1 Later")
        assert meeting.running.hooks.messages == []
        await asyncio.to_thread(meeting.mta.flush)
        ((_, envelope, content),) = await meeting.arrived()
        assert envelope.forward_paths == (path,) and body_of(content) == body_of(BODY)

    meeting.play(dialogue)


def test_a_line_longer_than_any_rfc_allows_arrives_whole(meeting: Meeting) -> None:
    content = BODY + b"z" * 5000 + b"\r\n"

    async def dialogue() -> None:
        await meeting.submit([f"anna@{RAW}"], content)
        ((_, _, arrived),) = await meeting.arrived()
        assert body_of(arrived) == body_of(content)

    meeting.play(dialogue)


def test_what_the_sender_wants_to_hear_of_is_passed_on(meeting: Meeting) -> None:
    path = f"anna@{PLAIN}"

    async def dialogue() -> None:
        asked = f" NOTIFY=SUCCESS,DELAY ORCPT=rfc822;{path}"
        await meeting.submit([path], parameters=" RET=HDRS ENVID=QQ314159", options=asked)
        ((_, envelope, _),) = await meeting.arrived()
        assert (envelope.ret, envelope.envid) == ("HDRS", "QQ314159")
        assert envelope.recipients == {path: RecipientOptions(("SUCCESS", "DELAY"), f"rfc822;{path}")}

    meeting.play(dialogue)


def test_the_null_reverse_path_is_taken(meeting: Meeting) -> None:
    async def dialogue() -> None:
        await meeting.submit([f"anna@{PLAIN}"], sender="")
        ((_, envelope, _),) = await meeting.arrived()
        assert envelope.reverse_path == ""

    meeting.play(dialogue)


def test_many_messages_and_many_recipients(meeting: Meeting) -> None:
    """More recipients than a session's habit, so that the sender pipelines; several messages at once."""

    async def dialogue() -> None:
        paths = [f"number{n}@{PLAIN}" for n in range(120)]
        await asyncio.gather(*(meeting.submit(paths[n::3]) for n in range(3)))
        messages = await meeting.arrived(3)
        assert sorted(path for _, envelope, _ in messages for path in envelope.forward_paths) == sorted(paths)

    meeting.play(dialogue)


# What our relay hands to them.


def test_it_offers_what_is_to_be_tested_here(meeting: Meeting) -> None:
    assert meeting.mta.offers >= meeting.mta.OFFERS


def awkward(size_octets: int) -> bytes:
    """Lines of every length up to 998 octets, dots where they hurt, white space at the ends, controls."""
    chance = random.Random(1)
    lines, length = [b".", b"..", b". ", b" .", b"", b"From here", b"\t \t", b"x" * 998, b"." * 998, b"=20=\x0c\x08"], 0
    while length < size_octets:
        line = bytes(chance.choices(b"ab. \t=-", k=chance.randrange(999)))
        lines.append(line)
        length += len(line) + 2
    return b"\r\n".join(lines) + b"\r\n"


@pytest.mark.parametrize(
    "body",
    [b"small\r\n", "Gr\u00fc\u00dfe, \u65e5\u672c\r\n".encode(), awkward(2000), awkward(LARGE_OCTETS)],
    ids=["small", "8-bit", "awkward", "large"],
)
def test_every_octet_comes_out_of_it_again(meeting: Meeting, body: bytes) -> None:
    content = HEAD + b"MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n"
    content += b"Content-Transfer-Encoding: 8bit\r\n\r\n" + body

    async def dialogue() -> None:
        fates = await meeting.relayed([f"anna@{PLAIN}"], content)
        assert [fate["kind"] for fate in fates.values()] == ["delivered"], fates
        ((_, envelope, arrived),) = await meeting.arrived()
        assert (envelope.reverse_path, envelope.forward_paths) == (SENDER, (f"anna@{PLAIN}",))
        assert arrived.endswith(content)  # behind the fields that were added in front

    meeting.play(dialogue)


def test_of_twenty_recipients_the_refused_one_fails_alone(meeting: Meeting) -> None:
    paths = [f"number{n}@{PLAIN}" for n in range(19)]
    paths.insert(7, f"{REFUSED}@{PLAIN}")

    async def dialogue() -> None:
        fates = await meeting.relayed(paths, sender="")
        assert {path for path, fate in fates.items() if fate["kind"] == "delivered"} == set(paths) - {paths[7]}
        assert (fates[paths[7]]["kind"], str(fates[paths[7]]["status"])[0]) == ("permanent", "5")
        messages = await meeting.arrived()
        assert sorted(path for _, envelope, _ in messages for path in envelope.forward_paths) == sorted(
            set(paths) - {paths[7]}
        )

    meeting.play(dialogue)


@pytest.mark.parametrize(("by", "kind"), [("verified", "delivered"), ("strange", "transient")])
def test_tls_with_its_certificate_verified_or_not_at_all(meeting: Meeting, by: str, kind: str) -> None:
    meeting.needs("starttls")

    async def dialogue() -> None:
        fates = await meeting.relayed([f"anna@{SECURE}"], by=by)
        assert [fate["kind"] for fate in fates.values()] == [kind], (fates, meeting.mta.log()[-2000:])
        assert len(await meeting.arrived(kind == "delivered")) == (kind == "delivered")

    meeting.play(dialogue)


def test_what_a_sender_wants_to_hear_of_goes_by_way_of_it(meeting: Meeting) -> None:
    meeting.needs("dsn")
    path = f"anna@{PLAIN}"
    options = {path: RecipientOptions(("SUCCESS", "DELAY"), f"rfc822;{path}")}

    async def dialogue() -> None:
        fates = await meeting.relayed([path], recipients=options, ret="HDRS", envid="QQ314159")
        assert fates[path]["kind"] == "delivered" and fates[path]["dsn"] == ""  # the next host tells, not we
        ((_, envelope, _),) = await meeting.arrived()
        assert (envelope.ret, envelope.envid, envelope.recipients) == ("HDRS", "QQ314159", options)

    meeting.play(dialogue)


def test_an_address_beyond_ascii_goes_by_way_of_it_or_comes_back(meeting: Meeting) -> None:
    path, sender = f"gr\u00fc\u00dfe@{PLAIN}", "b\u00fccher@elsewhere.example"
    offered = "smtputf8" in meeting.mta.offers

    async def dialogue() -> None:
        fates = await meeting.relayed([path], sender=sender, smtputf8=True)
        assert (fates[path]["kind"], fates[path]["status"]) in ([("delivered", "2.0.0")] if offered else [NO_UTF8])
        messages = await meeting.arrived(offered)
        assert [envelope.forward_paths for _, envelope, _ in messages] == [(path,)] * offered

    meeting.play(dialogue)
