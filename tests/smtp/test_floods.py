"""Loud clients: too many commands, recipients, guesses; and those who speak out of turn."""

from __future__ import annotations

import asyncio
import base64
from ipaddress import IPv6Address

import pytest

from egressguard.smtp.admission import Connections
from egressguard.smtp.auth import Authenticator, Credentials
from tests.smtp.conftest import PASSWORD, Client, Running, Stand
from tests.smtp.wire_peer import a_stranger_is_served, active, codes_to_the_end, until

GUESS = base64.b64encode(b"\0anna\0guess").decode()
RIGHT = base64.b64encode(f"\0anna\0{PASSWORD}".encode()).decode()


@pytest.mark.parametrize(
    "line", ["RSET", "NOOP", "VRFY root", "EHLO a", "HELP", "BOGUS", "MAIL FROM:<x>", "RCPT TO:<>"]
)
def test_a_thousand_of_the_same_are_not_answered(line: str, stand: Stand) -> None:
    async def dialog() -> None:
        async with stand.serve() as running, stand.client(running) as client:
            await client.send((line + "\r\n").encode() * 1000)
            codes = await codes_to_the_end(client)
            assert codes[-1] == "421"
            assert len(codes) <= 110
            assert running.hooks.refused[-1][0] == "other"
            assert running.hooks.refused[-1][1].code == 421

    asyncio.run(dialog())


@pytest.mark.parametrize("line", ["RSET", "BOGUS"])
def test_a_session_that_is_cut_for_its_noise_is_counted(line: str, stand: Stand) -> None:
    async def dialog() -> None:
        async with stand.serve() as running, stand.client(running) as client:
            await client.send((line + "\r\n").encode() * 1000)
            await codes_to_the_end(client)
            assert running.counted("rejects_total", stage="other", reason="limit") == 1

    asyncio.run(dialog())


def test_an_enumerator_of_recipients_is_cut(stand: Stand) -> None:
    async def dialog() -> None:
        async with stand.serve() as running, stand.client(running) as client:
            await client.say("EHLO client.example.net")
            await client.say("MAIL FROM:<>")
            await client.send(b"".join(b"RCPT TO:<unknown%d@example.org>\r\n" % n for n in range(5000)))
            codes = await codes_to_the_end(client)
            assert (codes[-1], set(codes[:-1])) == ("421", {"550"})
            assert len(running.hooks.recipients) <= 30
            assert running.counted("rejects_total", stage="rcpt", reason="unknown_recipient") == len(codes)

    asyncio.run(dialog())


@pytest.mark.parametrize("recipients", [1, 1000])
def test_more_recipients_than_there_may_be_are_put_off_and_asked_about_no_more(recipients: int, stand: Stand) -> None:
    async def dialog() -> None:
        async with stand.serve(max_recipients=recipients) as running, stand.client(running) as client:
            await client.say("EHLO client.example.net")
            await client.say("MAIL FROM:<>")
            await client.send(b"".join(b"RCPT TO:<u%d@example.org>\r\n" % n for n in range(recipients + 10)))
            codes = [(await client.reply())[:3] for _ in range(recipients + 10)]
            assert codes == ["250"] * recipients + ["452"] * 10
            assert len(running.hooks.recipients) == recipients

    asyncio.run(dialog())


@pytest.mark.timeout(30)
@pytest.mark.parametrize("recipient", ["u%d@example.org", "anna@example.org"], ids=["excess", "repeated"])
def test_a_flood_of_recipients_is_cut(recipient: str, stand: Stand) -> None:
    """Nobody who sends mail goes on after some thousand 452, nor names one recipient ten thousand times."""

    async def dialog() -> None:
        async with stand.serve(max_recipients=10) as running, stand.client(running) as client:
            await client.say("EHLO client.example.net")
            await client.say("MAIL FROM:<>")
            paths = (recipient % n if "%" in recipient else recipient for n in range(10_000))
            await client.send("".join(f"RCPT TO:<{path}>\r\n" for path in paths).encode() + b"QUIT\r\n")
            assert (await codes_to_the_end(client))[-1] == "421"

    asyncio.run(dialog())


# Guessing.


def test_a_wrong_password_costs_the_guesser_time(stand: Stand) -> None:
    """No clock: while the guesser waits for the reply, another session's dialogue goes from end to end."""

    async def dialog() -> None:
        async with (
            stand.serve(auth_failure_delay_seconds=0.5) as running,
            stand.client(running, "submissions") as client,
        ):
            await client.say("EHLO client.example.net")
            guessing = asyncio.create_task(client.say(f"AUTH PLAIN {GUESS}"))
            await until(lambda: running.counted("auth_attempts_total", mechanism="PLAIN", result="wrong") == 1)
            await a_stranger_is_served(stand, running)
            assert not guessing.done()
            assert (await guessing)[:9] == "535 5.7.8"

    asyncio.run(dialog())


def test_guessing_goes_no_further_by_any_mechanism_or_entrance_and_harms_no_other_address(stand: Stand) -> None:
    async def guess(running: Running, words: str) -> str:
        async with stand.client(running, "submissions") as client:
            await client.say("EHLO client.example.net")
            codes = [(await client.say(words))[:3]]
            while codes[-1] == "535":
                codes.append((await client.say(words))[:3])
            return codes[-1]

    async def from_elsewhere(running: Running) -> str:
        host, port = running.places["submissions"]
        context, elsewhere = running.client_context, ("127.0.0.2", 0)
        name = "gateway.example.org"
        opened = await asyncio.open_connection(host, port, ssl=context, server_hostname=name, local_addr=elsewhere)
        client = Client(*opened)
        await client.reply()
        await client.say("EHLO client.example.net")
        reply = await client.say(f"AUTH PLAIN {RIGHT}")
        await client.close()
        return reply[:3]

    async def dialog() -> None:
        async with stand.serve() as running:
            for _ in range(5):
                assert await guess(running, f"AUTH PLAIN {GUESS}") == "421"
            assert running.counted("auth_attempts_total", mechanism="PLAIN", result="wrong") == 10
            # Shut out: the right password is of no use either, and no password is looked at.
            assert await guess(running, f"AUTH PLAIN {RIGHT}") == "421"
            assert running.counted("auth_attempts_total", mechanism="PLAIN", result="limited") >= 1
            assert await from_elsewhere(running) == "235"

    asyncio.run(dialog())


ONE_NETWORK = [IPv6Address("2001:db8:1:2::1") + number for number in range(200)]
"""What one host on the Internet has at hand: a /64 is the smallest thing that anybody is given (RFC 6177)."""


def test_guessing_from_one_ipv6_network_is_guessing_from_one_place(stand: Stand) -> None:
    async def dialog() -> None:
        authenticator = Authenticator(stand.accounts)
        results = [await authenticator.check("anna", "guess", address) for address in ONE_NETWORK[:40]]
        assert Credentials.LIMITED in results

    asyncio.run(dialog())


def test_one_ipv6_network_does_not_take_every_connection() -> None:
    connections = Connections()
    refused = 0
    for address in ONE_NETWORK:
        if connections.exceeded(address, limit=100, limit_per_client=10) == "max_connections_per_client":
            refused += 1
        else:
            connections.enter(address)
    assert refused == len(ONE_NETWORK) - 10


# Out of turn.


def test_octets_between_starttls_and_the_handshake_are_nobodys_commands(stand: Stand) -> None:
    """Behind the 220 already: too late for "Wait for the reply", and never a line inside TLS."""

    async def dialog() -> None:
        async with stand.serve() as running, stand.client(running) as client:
            await client.say("EHLO client.example.net")
            assert (await client.say("STARTTLS"))[:3] == "220"
            await client.send(b"EHLO evil\r\nMAIL FROM:<evil@sender.example>\r\nRCPT TO:<anna@example.org>\r\n")
            await client.rest()
            await until(lambda: active(running) == 0)
            assert running.hooks.recipients == []
            assert running.counted("tls_handshakes_total", version="none", result="failed") == 1

    asyncio.run(dialog())


@pytest.mark.parametrize("behind", [b"NOOP\r\n", b"\r\n", b"\0", b"\x16\x03\x01"], ids=repr)
def test_whatever_stands_behind_starttls_in_one_write_ends_the_session(behind: bytes, stand: Stand) -> None:
    async def dialog() -> None:
        async with stand.serve() as running, stand.client(running) as client:
            await client.say("EHLO client.example.net")
            await client.send(b"STARTTLS\r\n" + behind)
            assert await codes_to_the_end(client) == ["503"]

    asyncio.run(dialog())


@pytest.mark.parametrize("chunk_octets", [1, 1 << 30], ids=["octets", "whole"])
def test_an_early_talker_is_answered_in_turn(chunk_octets: int, stand: Stand) -> None:
    """It spoke before the banner. Nothing of what it said is lost, doubled or taken for another thing."""

    async def dialog() -> None:
        async with stand.serve() as running, stand.client(running, greeted=False) as client:
            await client.send(
                b"EHLO a\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<anna@example.org>\r\nQUIT\r\n", chunk_octets
            )
            assert await codes_to_the_end(client) == ["220", "250", "250", "250", "221"]

    asyncio.run(dialog())
