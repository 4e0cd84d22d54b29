"""AUTH's exchanges: line by line against a password file, and with a real client."""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from egressguard.mail.reply import Reply
from egressguard.mailbox.accounts import Accounts
from egressguard.smtp.auth import MAX_FAILURES, Authenticator, Credentials
from egressguard.smtp.mechanisms import authenticate, offered_mechanisms
from egressguard.smtp.replies import Refusal
from egressguard.store.passwd import PasswdFile, scram_file
from tests.smtp.conftest import Client, Stand
from tests.smtp.scram_client import ScramClient

ROOT = Path(__file__).resolve().parents[2]
CLIENT = ipaddress.IPv4Address("192.0.2.7")
SCRAM = "SCRAM-SHA-256"


def b64(text: str | bytes) -> bytes:
    return base64.b64encode(text.encode() if isinstance(text, str) else text)


@pytest.fixture(scope="module")
def accounts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("accounts") / "passwd"
    Accounts(path).add("anna", "pencil")
    Accounts(path).add("bert", "\U0001f511 key")  # SCRAM has no form for it
    Accounts(path).add("carl", "secret")
    Accounts(path).disable("carl")
    return path


def answering(*lines: bytes) -> Callable[[Reply], Awaitable[bytes]]:
    waiting = list(lines)

    async def ask(reply: Reply) -> bytes:
        assert reply.code == 334
        return waiting.pop(0)

    return ask


def exchange(path: Path, mechanism: str, initial: str, *lines: bytes) -> tuple[Credentials, str]:
    async def play() -> tuple[Credentials, str]:
        authenticator = Authenticator(PasswdFile(path))
        return await authenticate(mechanism, initial, answering(*lines), authenticator, CLIENT)

    return asyncio.run(play())


@pytest.mark.parametrize(
    ("mechanism", "initial", "lines"),
    [
        ("PLAIN", b64("\0anna\0pencil").decode(), ()),
        ("PLAIN", "", (b64("\0anna\0pencil"),)),
        ("PLAIN", "", (b64("anna\0anna\0pencil"),)),
        ("LOGIN", "", (b64("anna"), b64("pencil"))),
        ("LOGIN", b64("anna").decode(), (b64("pencil"),)),
    ],
)
def test_name_and_password(accounts: Path, mechanism: str, initial: str, lines: tuple[bytes, ...]) -> None:
    assert exchange(accounts, mechanism, initial, *lines) == (Credentials.OK, "anna")


@pytest.mark.parametrize(
    ("mechanism", "initial", "lines", "code"),
    [
        ("PLAIN", "", (b"*",), "501 5.7.0"),
        ("PLAIN", "", (b"not base64",), "501 5.5.2"),
        ("PLAIN", "=", (), "501 5.5.2"),
        ("PLAIN", b64("anna").decode(), (), "501 5.5.2"),
        ("PLAIN", b64("\0a\0b\0c").decode(), (), "501 5.5.2"),
        ("PLAIN", b64("root\0anna\0pencil").decode(), (), "535 5.7.8"),
        ("PLAIN", base64.b64encode(b"\0\xff\0x").decode(), (), "501 5.5.2"),
        ("PLAIN", "\xe9", (), "501 5.5.2"),
        ("LOGIN", "", (b64("anna"), b"*"), "501 5.7.0"),
        (SCRAM, "=", (), "501 5.5.2"),
        (SCRAM, "", (b"*",), "501 5.7.0"),
        (SCRAM, b64("n,,n=anna").decode(), (), "501 5.5.2"),
        (SCRAM, b64("p=tls-unique,,n=anna,r=x").decode(), (), "501 5.5.2"),
        (SCRAM, b64("n,a=root,n=anna,r=x").decode(), (), "535 5.7.8"),
        (SCRAM, b64("n,,n=anna,r=x").decode(), (b"*",), "501 5.7.0"),
        (SCRAM, b64("n,,n=anna,r=x").decode(), (b64("c=biws,r=x,p=AAAA"),), "501 5.5.2"),
    ],
)
def test_exchanges_that_fail(accounts: Path, mechanism: str, initial: str, lines: tuple[bytes, ...], code: str) -> None:
    with pytest.raises(Refusal) as failed:
        exchange(accounts, mechanism, initial, *lines)
    assert str(failed.value.reply).startswith(code)


async def scram(authenticator: Authenticator, client: ScramClient, last: bytes = b"") -> tuple[Credentials, str]:
    """The exchange with our own client; it answers what we say at success with `last`."""

    async def ask(reply: Reply) -> bytes:
        said = base64.b64decode(reply.text)
        if said.startswith(b"v="):
            assert client.is_satisfied(said)
            return last
        return b64(client.final(said))

    return await authenticate(SCRAM, b64(client.first()).decode(), ask, authenticator, CLIENT)


@pytest.mark.parametrize("last", [b"", b"="])
@pytest.mark.parametrize("name", ["anna", "ANNA"])
def test_scram_lets_in_who_knows_the_password(accounts: Path, name: str, last: bytes) -> None:
    result = asyncio.run(scram(Authenticator(PasswdFile(accounts)), ScramClient(name, "pencil"), last))
    assert result == (Credentials.OK, name)


@pytest.mark.parametrize(
    ("name", "password"),
    [("anna", "Pencil"), ("nobody", "pencil"), ("bert", "\U0001f511 key"), ("carl", "secret"), ("x" * 500, "x")],
)
def test_scram_lets_in_nobody_else(accounts: Path, name: str, password: str) -> None:
    authenticator = Authenticator(PasswdFile(accounts))
    assert asyncio.run(scram(authenticator, ScramClient(name, password))) == (Credentials.WRONG, name)


@pytest.mark.parametrize(("last", "code"), [(b"*", "501 5.7.0"), (b"eA==", "501 5.5.2")])
def test_who_does_not_take_our_signature_is_not_in(accounts: Path, last: bytes, code: str) -> None:
    with pytest.raises(Refusal) as failed:
        asyncio.run(scram(Authenticator(PasswdFile(accounts)), ScramClient("anna", "pencil"), last))
    assert str(failed.value.reply).startswith(code)


def test_guessing_by_scram_has_an_end(accounts: Path) -> None:
    async def guess() -> None:
        authenticator = Authenticator(PasswdFile(accounts))
        for _ in range(MAX_FAILURES):
            assert (await scram(authenticator, ScramClient("anna", "wrong")))[0] is Credentials.WRONG
        assert (await scram(authenticator, ScramClient("anna", "pencil")))[0] is Credentials.LIMITED

    asyncio.run(guess())


def test_nobody_learns_who_has_an_account(accounts: Path) -> None:
    """Salt and iterations look alike, stay the same, and ignore case, for real names as for others."""

    async def salts(name: str) -> list[str]:
        found = []
        for asked in (name, name, name.upper()):
            challenges: list[bytes] = []

            async def ask(reply: Reply, challenges: list[bytes] = challenges) -> bytes:
                challenges.append(base64.b64decode(reply.text))
                return b"*"

            with pytest.raises(Refusal):
                initial = b64(f"n,,n={asked},r=x").decode()
                await authenticate(SCRAM, initial, ask, Authenticator(PasswdFile(accounts)), CLIENT)
            found.append(challenges[0].decode().partition(",")[2])
        return found

    seen = {name: asyncio.run(salts(name)) for name in ("anna", "bert", "carl", "nobody")}
    assert all(len(set(found)) == 1 for found in seen.values())
    assert len({found[0] for found in seen.values()}) == 4
    assert len({(len(found[0]), found[0].partition(",")[2]) for found in seen.values()}) == 1


def test_scram_is_offered_only_where_somebody_can_use_it(tmp_path: Path, accounts: Path) -> None:
    assert offered_mechanisms(Authenticator(PasswdFile(accounts))) == ("PLAIN", "LOGIN", SCRAM)
    path = tmp_path / "passwd"
    authenticator = Authenticator(PasswdFile(path))
    assert offered_mechanisms(authenticator) == ("PLAIN", "LOGIN")
    Accounts(path).add("anna", "pencil")
    assert SCRAM in offered_mechanisms(authenticator)
    Accounts(path).delete("anna")
    assert SCRAM not in offered_mechanisms(authenticator)


@given(
    st.sampled_from(["PLAIN", "LOGIN", SCRAM]), st.lists(st.binary(max_size=60), min_size=4, max_size=4), st.booleans()
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50, deadline=None)
def test_any_lines_end_an_exchange(accounts: Path, mechanism: str, lines: list[bytes], encoded: bool) -> None:
    lines = [b64(line) for line in lines] if encoded else lines
    try:
        result, _ = exchange(accounts, mechanism, "", *lines)
    except Refusal as refusal:
        assert refusal.reply.is_permanent
    else:
        assert result is Credentials.WRONG


# In a session.


def test_scram_in_a_session_needs_tls_and_tells_who_it_was(stand: Stand) -> None:
    Accounts(stand.directory / "passwd").set_password("anna", "pencil")

    async def play() -> None:
        async with stand.serve(auth_failure_delay_seconds=0) as running:
            async with stand.client(running, "submissions") as client:
                assert (await client.say("EHLO client.example.net")).endswith(f"AUTH PLAIN LOGIN {SCRAM}")
                assert (await _log_in(client, ScramClient("anna", "wrong"))).startswith("535 5.7.8 ")
                assert (await _log_in(client, ScramClient("anna", "pencil"))).startswith("235 2.7.0 ")
                assert (await client.say("MAIL FROM:<anna@example.org>")).startswith("250 ")
            async with stand.client(running, "submission") as client:
                await client.say("EHLO client.example.net")
                first = b64(ScramClient("anna", "pencil").first()).decode()
                assert (await client.say(f"AUTH {SCRAM} {first}")).startswith("538 5.7.11 ")
            assert running.counted("auth_attempts_total", mechanism=SCRAM, result="ok") == 1
            assert running.counted("auth_attempts_total", mechanism=SCRAM, result="wrong") == 1

    asyncio.run(play())


async def _log_in(client: Client, scram_client: ScramClient) -> str:
    reply = await client.say(f"AUTH {SCRAM} {b64(scram_client.first()).decode()}")
    assert reply.startswith("334 ")
    reply = await client.say(b64(scram_client.final(base64.b64decode(reply[4:]))).decode())
    if reply.startswith("334 "):
        assert scram_client.is_satisfied(base64.b64decode(reply[4:]))
        reply = await client.say("")
    return reply


def test_a_file_without_verifiers_still_logs_people_in(stand: Stand) -> None:
    assert not scram_file(stand.directory / "passwd").exists()

    async def play() -> None:
        async with stand.serve() as running, stand.client(running, "submissions") as client:
            assert (await client.say("EHLO client.example.net")).endswith("AUTH PLAIN LOGIN")
            assert (await client.say(f"AUTH {SCRAM} AAAA")).startswith("504 5.5.4 ")
            assert (await client.say(f"AUTH PLAIN {b64(chr(0) + 'anna' + chr(0) + 'correct horse').decode()}"))[
                :3
            ] == "235"

    asyncio.run(play())


@pytest.mark.peers
@pytest.mark.parametrize(("password", "code"), [("pencil, = and more", 0), ("wrong", 77)])
def test_msmtp_logs_in_with_scram(stand: Stand, password: str, code: int) -> None:
    """GNU SASL checks our signature; it exits with EX_NOPERM when we do not take its proof."""
    if os.geteuid() != 0:
        pytest.skip("needs root: scripts/peer makes a mount namespace")
    if not (ROOT / ".peers" / "msmtp" / ".unpacked").exists():
        pytest.skip("needs msmtp in .peers: run scripts/peers")
    Accounts(stand.directory / "passwd").set_password("anna", "pencil, = and more")
    secret = stand.directory / "secret"
    secret.write_text(password + "\n")

    async def play() -> tuple[int, list[str | None]]:
        async with stand.serve(auth_failure_delay_seconds=0) as running:
            host, port = running.places["submissions"]
            words = [
                *(
                    str(ROOT / "scripts" / "peer"),
                    "msmtp",
                    "msmtp",
                    "--file=/dev/null",
                    f"--host={host}",
                    f"--port={port}",
                ),
                *("--tls=on", "--tls-starttls=off", "--tls-certcheck=off", "--auth=scram-sha-256", "--user=anna"),
                *(f"--passwordeval=cat {secret}", "--from=anna@example.org", "--timeout=20", "bert@example.net"),
            ]
            msmtp = await asyncio.create_subprocess_exec(*words, stdin=-1, stderr=asyncio.subprocess.DEVNULL)
            await msmtp.communicate(b"Subject: lunch\n\nhello\n")
            assert msmtp.returncode is not None
            return msmtp.returncode, [facts.user for facts, _, _ in running.hooks.messages]

    assert asyncio.run(play()) == (code, ["anna"] if code == 0 else [])
