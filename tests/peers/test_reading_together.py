"""Several programs on one mailbox, and people on one quarantine: what one does the other sees."""

from __future__ import annotations

import asyncio
import contextlib
import imaplib
import os
import poplib
import re
import signal
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from egressguard.app.control import DaemonUnreachable
from tests.peers.reading import HOLDS, PASSWORD, SECONDS, Gateway, until

pytestmark = pytest.mark.peers

LETTER = b"From: <x@far.example>\r\nSubject: hello\r\n\r\nhello\r\n"


def imap(gateway: Gateway, name: str) -> imaplib.IMAP4_SSL:
    """A new account is let in once Dovecot has looked at its file, within a second."""

    def logged_in() -> imaplib.IMAP4_SSL | None:
        client = imaplib.IMAP4_SSL("127.0.0.1", gateway.port("imaps"), ssl_context=gateway.context(), timeout=SECONDS)
        try:
            client.login(name, PASSWORD)
        except imaplib.IMAP4.abort:
            raise
        except imaplib.IMAP4.error:
            return None
        return client

    client = until(logged_in)
    assert client is not None
    return client


def pop3(gateway: Gateway, name: str) -> poplib.POP3_SSL:
    client = poplib.POP3_SSL("127.0.0.1", gateway.port("pop3s"), context=gateway.context(), timeout=SECONDS)
    client.user(name)
    client.pass_(PASSWORD)
    return client


def count(client: imaplib.IMAP4_SSL, folder: str) -> int:
    answer, found = client.select(folder)
    assert answer == "OK", found
    return int(found[0] or b"0")


def move(client: imaplib.IMAP4_SSL, folder: str) -> None:
    """All that the open folder has; imaplib does not know MOVE."""
    answer, words = client._simple_command("MOVE", "1:*", folder)  # type: ignore[attr-defined]
    assert answer == "OK", words


# A phone that waits (IDLE), and a desktop.

CHANGES = [
    ("+FLAGS", r"(\Seen)", {rb"\Seen"}),
    ("-FLAGS", r"(\Seen)", set()),
    ("+FLAGS", r"(\Flagged \Answered)", {rb"\Flagged", rb"\Answered"}),
    ("+FLAGS", r"(\Deleted)", {rb"\Flagged", rb"\Answered", rb"\Deleted"}),
    ("-FLAGS", r"(\Deleted \Answered)", {rb"\Flagged"}),
    ("+FLAGS", "($Forwarded holiday)", {rb"\Flagged", b"$Forwarded", b"holiday"}),
    ("-FLAGS", "(holiday)", {rb"\Flagged", b"$Forwarded"}),
]


async def pushed(phone: Any, wanted: Callable[[bytes], bool]) -> None:
    """What the server says while the phone waits, until it says that."""
    async with asyncio.timeout(SECONDS):
        while True:
            if any(wanted(bytes(line)) for line in await phone.wait_server_push(SECONDS)):
                return


async def with_phone(gateway: Gateway, name: str, work: Callable[[Any], Awaitable[None]]) -> None:
    library = pytest.importorskip("aioimaplib")
    phone = library.IMAP4_SSL("127.0.0.1", gateway.port("imaps"), ssl_context=gateway.context(), timeout=SECONDS)
    await phone.wait_hello_from_server()
    assert (await phone.login(name, PASSWORD)).result == "OK"
    await phone.select("INBOX")
    idling = await phone.idle_start(timeout=SECONDS * 2)
    await work(phone)
    phone.idle_done()
    await asyncio.wait_for(idling, SECONDS)
    await phone.logout()


def flags_in(line: bytes) -> set[bytes] | None:
    found = re.search(rb"FETCH \((?:.* )?FLAGS \(([^)]*)\)", line)
    return None if found is None else set(found[1].split()) - {rb"\Recent"}


def test_a_phone_that_waits_is_told_of_all_that_the_desktop_does(readable: Gateway) -> None:
    name = readable.account()
    readable.deliver(name, LETTER)
    desktop = imap(readable, name)
    assert count(desktop, "INBOX") == 1

    async def work(phone: Any) -> None:
        for how, flags, after in CHANGES:
            await asyncio.to_thread(desktop.store, "1", how, flags)
            await pushed(phone, lambda line, after=after: flags_in(line) == after)  # type: ignore[misc]
        await asyncio.to_thread(readable.send, name, LETTER)
        await pushed(phone, lambda line: line == b"2 EXISTS")
        await asyncio.to_thread(desktop.store, "1", "+FLAGS", r"(\Deleted)")
        await asyncio.to_thread(desktop.expunge)
        await pushed(phone, lambda line: line == b"1 EXPUNGE")

    asyncio.run(with_phone(readable, name, work))
    desktop.logout()


def test_what_the_phone_does_is_seen_at_the_desktop(readable: Gateway) -> None:
    name = readable.account()
    readable.deliver(name, LETTER)
    phone, desktop = imap(readable, name), imap(readable, name)
    assert count(phone, "INBOX") == count(desktop, "INBOX") == 1
    for how, flags, after in CHANGES:
        phone.store("1", how, flags)

        def seen(after: set[bytes] = after) -> bool:
            return flags_in(b"FETCH (" + desktop.fetch("1", "(FLAGS)")[1][0].partition(b"(")[2]) == after  # type: ignore[union-attr]

        until(seen)
    phone.logout()
    desktop.logout()


def test_pop3_that_deletes_empties_the_mailbox_for_imap_too(readable: Gateway) -> None:
    name = readable.account()
    readable.deliver(name, LETTER, LETTER, LETTER)
    desktop, client = imap(readable, name), pop3(readable, name)
    assert count(desktop, "INBOX") == client.stat()[0] == 3
    for number in (1, 2, 3):
        client.dele(number)
    client.quit()

    until(lambda: count(desktop, "INBOX") == 0)
    assert pop3(readable, name).stat() == (0, 0)


def test_a_second_pop3_session_waits_for_the_first_and_takes_nothing_from_it(readable: Gateway) -> None:
    name = readable.account()
    readable.deliver(name, LETTER, LETTER)
    first = pop3(readable, name)
    with pytest.raises(poplib.error_proto, match="IN-USE"):
        pop3(readable, name)
    first.dele(1)
    first.quit()

    def left() -> int | None:
        with contextlib.suppress(poplib.error_proto):
            return pop3(readable, name).stat()[0]
        return None

    assert until(left) == 1


# The quarantine.


def held(gateway: Gateway, *names: str) -> None:
    """A message that the rules hold, to each of these."""
    for name in names:
        gateway.send(name, LETTER.replace(b"hello", b"held for " + name.encode()), HOLDS)


def lists_held(gateway: Gateway, name: str) -> bool:
    return f"{name}@test.example" in gateway.running.told("quarantine", "list", "--json")


def journal(gateway: Gateway, kind: str) -> list[str]:
    return gateway.running.told("journal", "--kind", kind, "--json").splitlines()


def test_an_admin_releases_and_deletes_by_moving(readable: Gateway) -> None:
    one, other = readable.account(), readable.account()
    held(readable, one, other)
    admin = imap(readable, "boss")
    until(lambda: count(admin, "Quarantine-all/Held") == 2)
    (numbers,) = admin.search(None, "SUBJECT", f'"{one}"')[1]
    answer, words = admin._simple_command("MOVE", numbers.decode(), "Quarantine/Release")  # type: ignore[attr-defined]
    assert answer == "OK", words
    move(admin, "Quarantine/Delete")

    reader = imap(readable, one)
    until(lambda: count(reader, "INBOX") == 1)
    until(lambda: not lists_held(readable, one) and not lists_held(readable, other))
    until(lambda: count(admin, "Quarantine/Release") == count(admin, "Quarantine/Delete") == 0)
    assert count(imap(readable, other), "INBOX") == 0
    for kind in ("quarantine.release", "quarantine.delete"):
        assert any('"boss (IMAP)"' in line for line in until(lambda kind=kind: journal(readable, kind)))  # type: ignore[misc]


def test_a_user_sees_his_own_and_releases_it_to_himself_once(readable: Gateway) -> None:
    name, other = readable.account(), readable.account()
    held(readable, name, other)

    def shown() -> bool:
        client = imap(readable, name)
        return client.select("Quarantine/Held") == ("OK", [b"1"])

    until(shown)
    client = imap(readable, name)
    assert count(client, "Quarantine/Held") == 1
    client.copy("1", "Quarantine/Release")
    move(client, "Quarantine/Release")

    until(lambda: count(client, "INBOX") == 1)
    until(lambda: count(client, "Quarantine/Release") == count(client, "Quarantine/Held") == 0)
    assert lists_held(readable, other)
    assert count(client, "INBOX") == 1
    assert any(f'"{name} (IMAP)"' in line for line in journal(readable, "quarantine.release"))


def test_a_move_out_of_the_quarantine_takes_nothing_away_from_it(readable: Gateway) -> None:
    name = readable.account()
    held(readable, name)
    until(lambda: imap(readable, name).select("Quarantine/Held") == ("OK", [b"1"]))
    client = imap(readable, name)
    count(client, "Quarantine/Held")
    move(client, "Trash")

    assert lists_held(readable, name)


# What dies comes back.


@pytest.fixture
def dovecot(readable: Gateway) -> Callable[[], int]:
    pidfile = readable.running.runtime / "access" / "dovecot" / "master.pid"
    return lambda: int(pidfile.read_text())


@pytest.mark.parametrize("victim", ["dovecot", "access role"])
def test_what_is_killed_comes_back_and_nothing_is_lost(readable: Gateway, dovecot: Any, victim: str) -> None:
    name = readable.account()
    readable.deliver(name, LETTER, LETTER)
    client = imap(readable, name)
    client.append("Sent", None, None, LETTER)  # type: ignore[arg-type]
    before = dovecot()
    pid = before if victim == "dovecot" else readable.running.role_pid("access")
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    readable.send(name, LETTER)

    def back() -> bool:
        with contextlib.suppress(OSError, ValueError, imaplib.IMAP4.error, DaemonUnreachable):
            return dovecot() != before and count(imap(readable, name), "INBOX") == 3
        return False

    until(back)
    assert count(imap(readable, name), "Sent") == 1
    until(lambda: readable.access()["state"] == "running")


def test_a_disabled_account_is_out_at_once(readable: Gateway) -> None:
    name = readable.account()
    client = imap(readable, name)
    until(lambda: f'"user": "{name}"' in readable.running.told("user", "sessions", "--json"))
    readable.running.told("user", "disable", name)

    def is_over() -> bool:
        try:
            client.noop()
        except (imaplib.IMAP4.abort, OSError):
            return True
        return False

    until(is_over)
