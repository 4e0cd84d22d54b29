"""The server on loopback: each fault of aiosmtpd that was cured, and each limit."""

from __future__ import annotations

import asyncio
import base64
import shutil
import smtplib
import socket
import struct
import subprocess
from collections.abc import Callable, Coroutine
from email.message import EmailMessage
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from egressguard.policy.relaying import Listener
from tests.smtp.conftest import PASSWORD, PATIENCE_SECONDS, Client, Running, Stand

LOGIN = base64.b64encode(f"\0anna\0{PASSWORD}".encode()).decode()
WRONG = base64.b64encode(b"\0anna\0wrong").decode()


async def begin(client: Client, recipient: str = "anna@example.org") -> None:
    """To the 354."""
    assert (await client.say("EHLO client.example.net"))[:3] == "250"
    assert (await client.say("MAIL FROM:<a@example.net>"))[:3] == "250"
    assert (await client.say(f"RCPT TO:<{recipient}>"))[:3] == "250"
    assert (await client.say("DATA"))[:3] == "354"


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not true():
            await asyncio.sleep(0.005)


def run(dialog: Coroutine[Any, Any, None]) -> None:
    asyncio.run(dialog)


def test_the_envelope_inside_is_what_was_said(stand: Stand) -> None:
    async def dialog() -> None:
        async with stand.serve() as running, stand.client(running) as client:
            await client.say("EHLO client.example.net")
            await client.say("MAIL FROM:<> SIZE=7")
            await client.say("RCPT TO:<anna@example.org>")
            await client.say("RCPT TO:<anna@example.org>")
            await client.say("RCPT TO:<Postmaster>")
            await client.say("DATA")
            assert await client.say("..x\xe9\r\n.") == "250 2.0.0 Taken"
            facts, envelope, content = running.hooks.messages[0]
            assert envelope.reverse_path == ""
            assert envelope.forward_paths == ("anna@example.org", "Postmaster")
            assert envelope.body_8bit
            assert content == ".x\xe9\r\n".encode()
            assert running.hooks.recipients[0] == ("", "anna@example.org", 7)
            assert (str(facts.client), facts.helo, facts.tls, facts.user) == (
                "127.0.0.1",
                "client.example.net",
                False,
                None,
            )
            assert not facts.redirected
            assert running.counted("message_size_bytes_count") == 1

    run(dialog())


def test_a_message_hook_that_raises_is_a_transient_trouble(stand: Stand, caplog: pytest.LogCaptureFixture) -> None:
    async def dialog() -> None:
        async def fail() -> None:
            raise OSError("No space left on /var/secret")

        async with stand.serve() as running, stand.client(running) as client:
            running.hooks.before_message = fail
            await begin(client)
            assert await client.say(".") == "451 4.3.0 Local trouble, try again later"
            assert await client.rest() == ""
        assert "No space left" in caplog.text

    run(dialog())


@pytest.mark.parametrize("how", ["reset", "close"])
def test_a_client_that_leaves_after_the_final_dot_does_not_cut_the_commit(how: str, stand: Stand) -> None:
    async def dialog() -> None:
        begun, go_on = asyncio.Event(), asyncio.Event()

        async def slow() -> None:
            begun.set()
            await go_on.wait()

        async with stand.serve() as running:
            running.hooks.before_message = slow
            async with stand.client(running) as client:
                await begin(client)
                await client.send(b"Subject: x\r\n.\r\n")
                await begun.wait()
                (session,) = running.server._sessions
                if how == "reset":
                    sock = client.writer.get_extra_info("socket")
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                client.writer.transport.abort()
                await until(lambda: session.is_gone)
            go_on.set()
            await until(lambda: len(running.hooks.messages) == 1)

    run(dialog())


def test_a_client_that_leaves_before_the_final_dot_has_sent_nothing(stand: Stand) -> None:
    async def dialog() -> None:
        async with stand.serve() as running:
            async with stand.client(running) as client:
                await begin(client)
                await client.send(b"Subject: x\r\n\r\nhalf a mess")
            await until(lambda: running.counted("active_connections") == 0)
            assert running.hooks.messages == []

    run(dialog())


def test_what_was_said_before_a_half_close_is_answered(stand: Stand) -> None:
    async def dialog() -> None:
        async with stand.serve() as running, stand.client(running) as client:
            await begin(client)
            await client.send(b"Subject: x\r\n.\r\nNOOP\r\n")
            client.writer.write_eof()
            assert await client.rest() == "250 2.0.0 Taken\r\n250 2.0.0 OK\r\n"

    run(dialog())


def test_input_in_clear_behind_starttls_ends_the_session(stand: Stand) -> None:
    async def dialog() -> None:
        async with stand.serve() as running, stand.client(running) as client:
            await client.say("EHLO client.example.net")
            await client.send(b"STARTTLS\r\nMAIL FROM:<evil@example.net>\r\n")
            assert await client.rest() == "503 5.5.1 Wait for the reply before you go on\r\n"

    run(dialog())


def test_a_message_sent_before_354_is_never_taken_for_commands(stand: Stand) -> None:
    async def dialog() -> None:
        async with stand.serve() as running, stand.client(running) as client:
            await client.say("HELO client.example.net")
            await client.send(b"DATA\r\nMAIL FROM:<a@example.net>\r\nRCPT TO:<b@example.net>\r\n.\r\n")
            assert await client.rest() == "503 5.5.1 Wait for the reply before you go on\r\n"
        assert running.hooks.recipients == []

    run(dialog())


def test_a_group_of_replies_does_not_wait_for_acknowledgements(stand: Stand) -> None:
    async def dialog() -> None:
        async with stand.serve() as running, stand.client(running):
            (session,) = running.server._sessions
            sock = session.transport.get_extra_info("socket")
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)

    run(dialog())


def test_long_lines_are_real_mail(stand: Stand) -> None:
    async def dialog() -> None:
        async with stand.serve() as running, stand.client(running) as client:
            await begin(client)
            assert await client.say("x" * 70_000 + "\r\n.") == "250 2.0.0 Taken"
            assert len(running.hooks.messages[0][2]) == 70_002

    run(dialog())


def test_a_message_over_the_limit_is_refused_and_the_session_goes_on(stand: Stand) -> None:
    async def dialog() -> None:
        async with stand.serve() as running, stand.client(running) as client:
            await begin(client)
            assert await client.say("x" * 100_001 + "\r\n.") == "552 5.3.4 The message is over the size limit"
            await begin(client)
            assert (await client.say("small\r\n."))[:3] == "250"
            assert running.server.buffered.taken_octets == 0

    run(dialog())


def test_a_message_that_never_ends_is_cut(stand: Stand) -> None:
    async def dialog() -> None:
        async with stand.serve() as running, stand.client(running) as client:
            await begin(client)
            await client.send(b"x" * 2_000_000)
            assert (await client.rest()).startswith("552 5.3.4")

    run(dialog())


def test_memory_for_messages_is_bounded_over_all_sessions(stand: Stand) -> None:
    async def dialog() -> None:
        async with stand.serve(max_buffered_octets=60_000) as running:
            async with stand.client(running) as one, stand.client(running) as two:
                await begin(one)
                await one.send(b"x" * 50_000)
                await until(lambda: running.server.buffered.taken_octets >= 49_990)
                await begin(two)
                await two.send(b"y" * 20_000)
                await until(lambda: any((stand.directory / "drafts").iterdir()))  # no room: straight to the disk
                await until(lambda: running.server.buffered.taken_octets <= 60_000)  # as soon as it is written
                assert (await two.say("\r\n.")) == "250 2.0.0 Taken"
                assert (await one.say("\r\n.")) == "250 2.0.0 Taken"
                assert [len(content) for _, _, content in running.hooks.messages] == [20_002, 50_002]
            await until(lambda: running.server.buffered.taken_octets == 0)
            assert not any((stand.directory / "drafts").iterdir())

    run(dialog())


@pytest.mark.parametrize(
    ("changes", "said", "reply"),
    [
        ({"max_errors": 3}, b"BOGUS\r\n" * 10, "421 4.7.0 Too many errors, closing"),
        ({"max_idle_commands": 5}, b"NOOP\r\n" * 10, "421 4.7.0 Too many commands without a message, closing"),
        ({"command_seconds": 0.05}, b"NOO", "421 4.4.2 Time is up, closing"),
        ({}, b"x" * 20_000 + b"\r\n", "500 5.5.2 Line too long"),
    ],
)
def test_limits_of_a_session(changes: dict[str, float], said: bytes, reply: str, stand: Stand) -> None:
    async def dialog() -> None:
        async with stand.serve(**changes) as running, stand.client(running) as client:
            await client.send(said)
            assert (await client.rest()).splitlines()[-1] == reply

    run(dialog())


def test_a_message_that_drips_has_an_end(stand: Stand) -> None:
    async def dialog() -> None:
        async with stand.serve(data_chunk_seconds=0.05) as running, stand.client(running) as client:
            await begin(client)
            assert await client.reply() == "421 4.4.2 Time is up, closing"
        assert running.hooks.messages == []

    run(dialog())


def test_recipients_are_limited_for_a_transaction_not_for_ever(stand: Stand) -> None:
    async def dialog() -> None:
        async with stand.serve(max_recipients=2) as running, stand.client(running) as client:
            await client.say("HELO client.example.net")
            await client.say("MAIL FROM:<>")
            replies = [await client.say(f"RCPT TO:<user{k}@example.org>") for k in range(3)]
            assert [reply[:9] for reply in replies] == ["250 2.1.5", "250 2.1.5", "452 4.5.3"]
            await client.say("DATA")
            assert (await client.say("."))[:3] == "250"

    run(dialog())


def test_connections_are_limited_in_all_and_for_one_address(stand: Stand) -> None:
    async def dialog(**changes: int) -> None:
        async with stand.serve(**changes) as running:
            async with stand.client(running), stand.client(running):
                async with stand.client(running, greeted=False) as third:
                    assert await third.rest() == "421 4.7.0 Too many connections, try again later\r\n"
                assert running.hooks.refused[0][0] == "connect"
                assert running.counted("connections_total", listener="smtp", result="refused") == 1
            await until(lambda: running.counted("active_connections") == 0)
            async with stand.client(running):  # there is room again
                pass

    run(dialog(max_connections=2))
    run(dialog(max_connections_per_client=2))


def test_one_sessions_extensions_do_not_change_anothers(stand: Stand) -> None:
    async def dialog() -> None:
        async with stand.serve() as running, stand.client(running) as one, stand.client(running) as two:
            for _ in range(20):
                await one.say("EHLO client.example.net")
            await two.say("HELO client.example.net")
            assert (await two.say("MAIL FROM:<> SIZE=1")).startswith("555 5.5.4")

    run(dialog())


def test_a_hundred_sessions_at_once(stand: Stand) -> None:
    async def one(running: Running, number: int) -> None:
        async with stand.client(running) as client:
            await begin(client, f"user{number}@example.org")
            assert (await client.say(f"Subject: {number}\r\n.")) == "250 2.0.0 Taken"
            assert (await client.say("QUIT"))[:3] == "221"

    async def dialog() -> None:
        async with stand.serve() as running:
            await asyncio.gather(*(one(running, number) for number in range(100)))
            paths = {envelope.forward_paths[0] for _, envelope, _ in running.hooks.messages}
            assert len(paths) == 100
            await until(lambda: running.counted("active_connections") == 0)

    run(dialog())


def test_drain_lets_a_message_arrive_and_turns_the_rest_away(stand: Stand) -> None:
    async def dialog() -> None:
        async with stand.serve() as running, stand.client(running) as idle, stand.client(running) as busy:
            await begin(busy)
            draining = asyncio.create_task(running.server.drain(PATIENCE_SECONDS))
            assert await idle.reply() == "421 4.3.2 Service is closing down, try again"
            assert await busy.say("Subject: x\r\n.") == "250 2.0.0 Taken"
            assert await busy.reply() == "421 4.3.2 Service is closing down, try again"
            await draining
            with pytest.raises(OSError):
                await asyncio.open_connection(*running.places["smtp"])

    run(dialog())


def test_drain_waits_for_a_commit_whatever_its_time(stand: Stand) -> None:
    async def dialog() -> None:
        begun, go_on = asyncio.Event(), asyncio.Event()

        async def slow() -> None:
            begun.set()
            await go_on.wait()

        async with stand.serve() as running, stand.client(running) as client:
            running.hooks.before_message = slow
            await begin(client)
            await client.send(b".\r\n")
            await begun.wait()
            draining = asyncio.create_task(running.server.drain(0))
            await client.rest()  # the session was cut
            assert not draining.done()
            go_on.set()
            await draining
            assert len(running.hooks.messages) == 1

    run(dialog())


def test_a_message_hook_that_takes_too_long_is_answered_in_time_and_still_ends(stand: Stand) -> None:
    async def dialog() -> None:
        go_on = asyncio.Event()

        async def slow() -> None:
            await go_on.wait()

        async with stand.serve(message_hook_seconds=0.05) as running, stand.client(running) as client:
            running.hooks.before_message = slow
            await begin(client)
            assert (await client.say(".")).startswith("451 4.3.0 ")
            go_on.set()
            await until(lambda: len(running.hooks.messages) == 1)

    run(dialog())


@pytest.mark.parametrize("kind", ["submission", "submissions"])
def test_three_wrong_passwords_end_a_session(kind: str, stand: Stand) -> None:
    async def dialog() -> None:
        async with stand.serve() as running, stand.client(running, kind) as client:  # type: ignore[arg-type]
            await client.say("EHLO client.example.net")
            if kind == "submission":
                await client.start_tls(running.client_context)
                await client.say("EHLO client.example.net")
            assert (await client.say(f"AUTH PLAIN {WRONG}")).startswith("535 5.7.8 ")
            assert (await client.say(f"auth plain {WRONG}")).startswith("535 5.7.8 ")
            assert (await client.say(f"AUTH PLAIN {WRONG}")).startswith("421 4.7.0 ")
            assert await client.rest() == ""
            assert running.counted("auth_attempts_total", mechanism="PLAIN", result="wrong") == 3
            assert [about for stage, _, about in running.hooks.refused if stage == "auth"] == ["anna"] * 3

    run(dialog())


def test_guessing_from_many_sessions_gets_no_further(stand: Stand) -> None:
    async def guess(running: Running) -> None:
        async with stand.client(running, "submissions") as client:
            await client.say("EHLO client.example.net")
            for _ in range(3):
                if (await client.say(f"AUTH PLAIN {WRONG}")).startswith("421"):
                    return

    async def dialog() -> None:
        async with stand.serve() as running:
            await asyncio.gather(*(guess(running) for _ in range(12)))
            assert running.counted("auth_attempts_total", mechanism="PLAIN", result="wrong") <= 12
            assert running.counted("auth_attempts_total", mechanism="PLAIN", result="limited") > 0
            async with stand.client(running, "submissions") as client:
                await client.say("EHLO client.example.net")
                assert (await client.say(f"AUTH PLAIN {LOGIN}")).startswith("421 4.7.0 ")

    run(dialog())


def test_smuggling_in_commands_is_journaled(stand: Stand) -> None:
    async def dialog() -> None:
        async with stand.serve() as running, stand.client(running) as client:
            await client.send(b"NOOP\nNOOP\r\n")
            assert (await client.rest()).startswith("500 5.5.2 ")
        assert [(stage, reply.code) for stage, reply, _ in running.hooks.refused] == [("other", 500)]
        assert running.counted("rejects_total", stage="other", reason="protocol") == 1

    run(dialog())


def test_a_password_never_reaches_the_journal(stand: Stand) -> None:
    async def dialog() -> None:
        async with stand.serve() as running, stand.client(running, "submission") as client:
            await client.say("EHLO client.example.net")
            assert (await client.say(f"AUTH PLAIN {LOGIN}")).startswith("538 5.7.11 ")
        assert [about for _, _, about in running.hooks.refused] == [""]

    run(dialog())


def test_after_starttls_what_was_said_in_clear_is_forgotten(stand: Stand) -> None:
    async def dialog() -> None:
        async with stand.serve() as running, stand.client(running) as client:
            await client.say("EHLO client.example.net")
            await client.say("MAIL FROM:<a@example.net>")
            await client.start_tls(running.client_context)
            assert (await client.say("RCPT TO:<anna@example.org>")).startswith("503 5.5.1 ")
            assert (await client.say("MAIL FROM:<a@example.net>")).startswith("503 5.5.1 ")

    run(dialog())


def test_a_failed_handshake_is_counted_and_harms_nobody(stand: Stand) -> None:
    async def dialog() -> None:
        async with stand.serve() as running:
            async with stand.client(running, greeted=False) as client:
                await client.reply()
                await client.say("EHLO client.example.net")
                await client.say("STARTTLS")
                await client.send(b"this is not TLS\r\n")
                await client.reader.read()
            await until(lambda: running.counted("tls_handshakes_total", version="none", result="failed") == 1)
            async with stand.client(running) as client:
                assert (await client.say("NOOP")) == "250 2.0.0 OK"

    run(dialog())


def test_a_silent_client_does_not_hold_an_implicit_tls_connection(stand: Stand) -> None:
    async def dialog() -> None:
        async with stand.serve(tls_handshake_seconds=0.1) as running:
            reader, writer = await asyncio.open_connection(*running.places["submissions"])
            assert running.server is not None
            assert await asyncio.wait_for(reader.read(), PATIENCE_SECONDS) == b""
            writer.close()
            await until(lambda: running.counted("active_connections") == 0)

    run(dialog())


def test_mapped_addresses_are_the_ipv4_they_stand_for(stand: Stand) -> None:
    async def dialog() -> None:
        async with stand.serve() as running:
            try:
                sock = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
            except OSError:
                pytest.skip("needs IPv6: this machine has none")
            await running.server.start("dual", Listener(kind="smtp", port=0), [sock])
            running.places["smtp"] = ("127.0.0.1", sock.getsockname()[1])
            async with stand.client(running) as client:
                await begin(client)
                await client.say(".")
            assert str(running.hooks.messages[0][0].client) == "127.0.0.1"

    run(dialog())


def test_no_reply_tells_what_we_are(stand: Stand) -> None:
    async def dialog() -> None:
        async with stand.serve() as running, stand.client(running, greeted=False) as client:
            await client.send(b"HELP\r\nEHLO a\r\nBOGUS\r\nVRFY root\r\nQUIT\r\n")
            said = (await client.rest()).lower()
            assert not any(word in said for word in ("python", "aiosmtpd", "egressguard", "1.4"))

    run(dialog())


PIECES = (
    *(b"EHLO a\r\n", b"HELO a\r\n", b"MAIL FROM:<a@b.example>\r\n", b"MAIL FROM:<>\r\n", b"RCPT TO:<a@b.example>\r\n"),
    *(b"DATA\r\n", b".\r\n", b"\r\n.\r\n", b"RSET\r\n", b"QUIT\r\n", b"AUTH PLAIN\r\n", b"STARTTLS\r\n"),
    *(b"\xff\xfe", b"\0", b"\n", b"\r", b"*\r\n", b"x" * 3000),
)
SAID = st.binary(max_size=200) | st.lists(st.sampled_from(PIECES), max_size=12).map(b"".join)
STATES = (b"", b"EHLO a\r\n", b"EHLO a\r\nMAIL FROM:<>\r\n", b"EHLO a\r\nMAIL FROM:<>\r\nRCPT TO:<a@b.example>\r\n")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(state=st.sampled_from(STATES), said=SAID)
def test_any_octets_are_answered_or_cut_and_never_raise(
    state: bytes, said: bytes, stand: Stand, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.clear()

    async def dialog() -> None:
        async with stand.serve() as running, stand.client(running) as client:
            for line in state.splitlines():
                assert (await client.say(line.decode()))[:3] == "250"
            await client.send(said)
            client.writer.write_eof()
            assert all(line[:3].isdigit() for line in (await client.rest()).splitlines())

    run(dialog())
    assert "a session failed" not in caplog.text


def letter() -> EmailMessage:
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "anna@example.org", "bert@example.net", "hello"
    message.set_content("text\n.\n..\n")
    return message


@pytest.mark.parametrize("kind", ["submission", "submissions"])
def test_smtplib_submits(kind: str, stand: Stand) -> None:
    def submit(running: Running) -> None:
        place, context = running.places[kind], running.client_context  # type: ignore[index]
        context.check_hostname = False
        if kind == "submissions":
            with smtplib.SMTP_SSL(*place, context=context, timeout=PATIENCE_SECONDS) as client:
                client.login("anna", PASSWORD)
                client.send_message(letter())
        else:
            with smtplib.SMTP(*place, timeout=PATIENCE_SECONDS) as client:
                client.starttls(context=context)
                client.login("anna", PASSWORD)
                client.send_message(letter())

    async def dialog() -> None:
        async with stand.serve() as running:
            await asyncio.to_thread(submit, running)
            facts, envelope, content = running.hooks.messages[0]
            assert (facts.user, facts.tls, facts.listener) == ("anna", True, kind)
            assert envelope.forward_paths == ("bert@example.net",)
            assert content.endswith(b"text\r\n.\r\n..\r\n")

    run(dialog())


@pytest.mark.peers
@pytest.mark.parametrize(("kind", "how"), [("submission", "--tls"), ("submissions", "--tls-on-connect")])
@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
def test_swaks_submits(kind: str, how: str, mechanism: str, stand: Stand) -> None:
    swaks = shutil.which("swaks")
    if swaks is None:
        pytest.skip("needs a peer: swaks is not installed")

    async def dialog() -> None:
        async with stand.serve() as running:
            host, port = running.places[kind]  # type: ignore[index]
            options = ["--server", host, "--port", str(port), how, "--auth", mechanism, "--pipeline", "--timeout", "20"]
            options += ["--auth-user", "anna", "--auth-password", PASSWORD]
            options += ["--from", "anna@example.org", "--to", "bert@example.net,carl@example.net"]
            done = await asyncio.to_thread(
                subprocess.run, [swaks, *options], capture_output=True, text=True, timeout=60, check=False
            )
            assert done.returncode == 0, done.stdout + done.stderr
            facts, envelope, _ = running.hooks.messages[0]
            assert facts.user == "anna"
            assert envelope.forward_paths == ("bert@example.net", "carl@example.net")

    run(dialog())
