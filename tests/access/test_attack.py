"""Many logins and silent clients at once: limits hold, and somebody with the right password gets in meanwhile.

EGRESSGUARD_LOGINS: how many wrong passwords are tried (make system: 10,000)."""

from __future__ import annotations

import asyncio
import imaplib
import os
import socket
import time

import pytest

from egressguard.access.model import Ports
from egressguard.access.ports import choose_ports
from egressguard.access.shut_out import Guesses

pytestmark = pytest.mark.peers

LOGINS = int(os.environ.get("EGRESSGUARD_LOGINS", "60"))
AT_ONCE = max(30, min(LOGINS // 50, 200))
MOST_FAILURES = 10
ELSEWHERE = "127.0.0.2"


class Elsewhere(imaplib.IMAP4_SSL):
    """A client with an address of its own."""

    def _create_socket(self, timeout):
        plain = socket.create_connection((self.host, self.port), timeout, (ELSEWHERE, 0))
        return self.ssl_context.wrap_socket(plain, server_hostname=self.host)


def eventually(check, seconds=40):
    deadline = time.monotonic() + seconds
    while not (answer := check()):
        if time.monotonic() > deadline:
            pytest.fail("did not become true in time")
        time.sleep(0.05)
    return answer


async def guess(running, number, turns):
    """One connection, one wrong password; what the server says to it. (`* OK Waiting...` it says while it is busy.)"""
    async with turns:
        reader, writer = await asyncio.open_connection("127.0.0.1", running.ports["imaps"], ssl=running.tls())
        try:
            await reader.readline()
            writer.write(b"a LOGIN anna guess%d\r\n" % number)
            while (line := await asyncio.wait_for(reader.readline(), 60)).startswith(b"* OK"):
                continue
            return line
        except ConnectionError:
            return b""
        finally:
            writer.close()


async def attack(running, meanwhile):
    turns = asyncio.Semaphore(AT_ONCE)
    guesses = [asyncio.create_task(guess(running, number, turns)) for number in range(LOGINS)]
    await asyncio.wait(guesses, return_when=asyncio.FIRST_COMPLETED)
    got_in = await asyncio.to_thread(meanwhile)
    return await asyncio.gather(*guesses), got_in


def test_who_tries_thousands_of_passwords_has_few_of_them_looked_at(house, start, programs):
    house.add("anna")
    ports = choose_ports(Ports(imaps=0), ("127.0.0.1",))
    running = start(programs, house.model(ports=ports), Guesses(MOST_FAILURES, 600, 3600)).wait_running()

    def meanwhile():
        client = Elsewhere("127.0.0.1", running.ports["imaps"], ssl_context=running.tls(), timeout=60)
        return client.login("anna", "secret")[0]

    answers, got_in = asyncio.run(attack(running, meanwhile))

    assert got_in == "OK"
    assert [answer for answer in answers if not answer.startswith((b"a NO", b"* BYE")) and answer] == []
    eventually(lambda: told(running, "refused") + told(running, "shut_out") >= LOGINS - AT_ONCE)
    # Those that were under way when the last failure was heard of, and for the second that Dovecot looks at its file.
    assert told(running, "refused") <= MOST_FAILURES + 3 * AT_ONCE
    assert running.access.status()["shut_out"] == ["127.0.0.1"]
    incidents = [fields for kind, fields in house.records if kind == "incident.password_guessing"]
    assert len(incidents) == 1


def told(running, result):
    return running.metric("logins_total", protocol="imap", result=result)


def test_silent_clients_keep_nobody_out(house, start, programs):
    house.add("anna")
    ports = choose_ports(Ports(imap=0, imaps=0), ("127.0.0.1",))
    running = start(programs, house.model(ports=ports, max_sessions=10)).wait_running()
    silent = [socket.create_connection(("127.0.0.1", running.ports["imap"]), 20) for _ in range(15)]
    try:
        eventually(lambda: gets_in(running))
    finally:
        for sock in silent:
            sock.close()


def gets_in(running):
    try:
        return running.imap("anna").noop()[0] == "OK"
    except (OSError, imaplib.IMAP4.error):
        return False
