"""Who tries passwords is shut out, whatever the protocol and mechanism, and it ends. With the real Dovecot."""

from __future__ import annotations

import imaplib
import poplib
import time

import pytest

from egressguard.access.model import Ports
from egressguard.access.ports import choose_ports
from egressguard.access.shut_out import Guesses
from tests.access.conftest import programs_for
from tests.smtp.scram_client import ScramClient

pytestmark = pytest.mark.peers


@pytest.fixture(params=["2.3 by nobody", "2.4 by nobody"])
def running(request, house, start):
    for name in ("anna", "bob"):
        house.add(name)
    return start(programs_for(request.param, house.directory), guesses=Guesses(2, 600, 900)).wait_running()


def eventually(check, seconds=40):
    deadline = time.monotonic() + seconds
    while not (answer := check()):
        if time.monotonic() > deadline:
            pytest.fail("did not become true in time")
        time.sleep(0.1)
    return answer


def imap_lets_in(running, password="secret"):
    try:
        running.imap("anna", password).logout()
    except imaplib.IMAP4.error:
        return False
    return True


def pop3_lets_in(running):
    try:
        running.pop3("bob").quit()
    except poplib.error_proto:
        return False
    return True


def scram_lets_in(running):
    client, peer = running.imap(), ScramClient("anna", "secret")
    try:
        client.authenticate("SCRAM-SHA-256", lambda said: peer.final(said) if said else peer.first())
    except imaplib.IMAP4.error:
        return False
    return True


def test_who_guesses_is_shut_out_until_his_time_is_over(running):
    assert pop3_lets_in(running)
    for guess in ("one", "two"):
        assert not imap_lets_in(running, guess)
    eventually(lambda: running.access.status()["shut_out"] == ["127.0.0.1"])
    eventually(lambda: not pop3_lets_in(running))
    assert not scram_lets_in(running)

    (told,) = [fields for kind, fields in running.house.records if kind == "incident.password_guessing"]
    assert (told["client"], told["failures"], told["last_user"]) == ("127.0.0.1", 2, "anna")
    assert running.metric("shut_outs_total") == 1
    assert running.metric("shut_out_addresses") == 1
    eventually(lambda: running.metric("logins_total", protocol="pop3", result="shut_out") >= 1)

    running.guesses.shut_out_seconds = 0
    for client in running.guesses._clients.values():  # its time is over
        client.until = 0
    eventually(lambda: running.access.status()["shut_out"] == [])
    eventually(lambda: pop3_lets_in(running))


def test_there_are_no_more_sessions_of_one_user_than_the_rules_say(house, start, programs):
    house.add("anna")
    ports = choose_ports(Ports(imaps=0), ("127.0.0.1",))
    running = start(programs, house.model(ports=ports, max_user_sessions=2)).wait_running()
    kept = [running.imap("anna"), running.imap("anna")]
    with pytest.raises(imaplib.IMAP4.error, match="Maximum number of connections"):
        running.imap("anna").select()
    kept.pop().logout()

    def has_room():
        try:
            return running.imap("anna").select()[0] == "OK"
        except imaplib.IMAP4.error:
            return False

    eventually(has_room)
