"""Quotas as mail programs and doveadm see them, on both generations of Dovecot: the same numbers as ours."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from egressguard.mailbox.quota import Usages
from egressguard.policy.mailboxes import Quota
from tests.access.conftest import Running, house_at, programs_for
from tests.relay.setting import policy_of

pytestmark = pytest.mark.peers

CONTENTS = (b"Subject: x\r\n\r\ntext\r\n" * 100, b"Subject: y\r\n\r\nbare\nLF\n" * 100, b"Subject: z\r\n\r\nno end")
STARTS = ("2.3 by root", "2.4 by nobody")


@pytest.fixture(scope="module", params=STARTS)
def server(request: pytest.FixtureRequest, certificate: Any) -> Iterator[Running]:
    with house_at(certificate) as house:
        programs = programs_for(request.param, house.directory)
        for account in ("anna", "bob", "carl"):
            house.add(account)
        quotas = (("bob", Quota(messages=2)), ("carl", Quota()))
        running = Running(house, programs, house.model(quota=Quota(octets=20_000), quotas=quotas))
        try:
            running.wait_running()
            yield running
        finally:
            running.close()


def quota_of(client: Any) -> dict[str, tuple[int, int]]:
    """What GETQUOTAROOT says (RFC 9208): resource -> (used, limit)."""
    _, (_, (answer, *_)) = client.getquotaroot("INBOX")
    return {name: (int(used), int(most)) for name, used, most in re.findall(r"(\w+) (\d+) (\d+)", answer.decode())}


def test_all_have_the_site_s_quota_and_both_of_us_count_the_same(server: Running) -> None:
    """What we delivered, and what a mail program put there; nothing of what the quarantine shows counts."""
    house = server.house
    for number, content in enumerate(CONTENTS):
        house.deliver(f"q{number}", "anna", content)
    house.hold("held1", b"Subject: held\r\n\r\n" + b"x" * 5000 + b"\r\n", owners=("anna",))
    client = server.imap("anna")
    assert client.append("Trash", "", None, CONTENTS[0])[0] == "OK"
    assert client.select("Quarantine/Held")[0] in {"OK", "NO"}
    used = Usages(house.directory / "mailboxes").of(policy_of(), "anna")
    assert used.messages == 4
    assert quota_of(client) == {"STORAGE": (-(-used.octets // 1024), -(-20_000 // 1024))}  # kibibytes, rounded up
    assert client.append("Trash", "", None, CONTENTS[0] * 8)[0] == "NO"  # over it
    client.logout()


def test_an_account_has_its_own(server: Running) -> None:
    client = server.imap("bob")
    for _ in range(2):
        assert client.append("INBOX", "", None, CONTENTS[0])[0] == "OK"
    assert quota_of(client)["MESSAGE"] == (2, 2)
    assert client.append("INBOX", "", None, CONTENTS[0])[0] == "NO"
    assert client.append("INBOX", "", None, b"x" * 30_000)[0] == "NO"
    client.logout()
    assert Usages(server.house.directory / "mailboxes").of(policy_of(), "bob").messages == 2


def test_an_account_may_have_none(server: Running) -> None:
    client = server.imap("carl")
    assert client.append("INBOX", "", None, b"Subject: x\r\n\r\n" + b"x" * 30_000 + b"\r\n")[0] == "OK"
    client.logout()
    used = Usages(server.house.directory / "mailboxes").of(policy_of(), "carl")
    assert used.octets > 30_000
