"""The shipped rules and a stranger: no spelling of an address, and no place to stand, gets mail through to others.

The sixteen probes are those that public open-relay testers send; what follows them is what has worked on somebody.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.lab.clients import login, swaks
from tests.lab.gateway import ACCOUNT
from tests.lab.internet import ROOT
from tests.lab.network import GATEWAY_LAN_4, GATEWAY_LAN_6, GUEST_4, GUEST_6, MX_4, MX_6, missing_parts
from tests.lab.world import Lab
from tests.system.shipped import DOMAIN, HOSTNAME, WAN_4, WAN_6, ours_leaving, shipped

pytestmark = [pytest.mark.system, pytest.mark.peers]

VICTIM = "mx.example"
"""A domain that the lab's Internet really serves: what is accepted for it would arrive."""
PLACES = {
    "wan-4": ("internet", WAN_4),
    "wan-6": ("internet", WAN_6),
    "lan-4": ("laptop", GATEWAY_LAN_4),
    "lan-6": ("laptop", GATEWAY_LAN_6),
    "guest-4": ("guest", f"{GUEST_4}129"),
    "guest-6": ("guest", f"{GUEST_6}1"),
}
"""Where the stranger stands, and which of our addresses it talks to."""


@dataclass(frozen=True)
class Probe:
    """`sender` and `recipient` as they stand in MAIL and RCPT; LITERAL is our address as the stranger sees it."""

    sender: str
    recipient: str


STRANGER, OURS = f"<spammer@{VICTIM}>", f"<spammer@{DOMAIN}>"
LITERAL = "[OUR-ADDRESS]"
AT_US = f"<spammer@{LITERAL}>"
PROBES = (
    Probe("<>", f"<bob@{VICTIM}>"),
    Probe(STRANGER, f"<bob@{VICTIM}>"),
    Probe(OURS, f"<bob@{VICTIM}>"),
    Probe(AT_US, f"<bob@{VICTIM}>"),
    Probe(AT_US, f"<bob%{VICTIM}@{LITERAL}>"),
    Probe(AT_US, f"<bob%{VICTIM}@{DOMAIN}>"),
    Probe(AT_US, f'<"bob@{VICTIM}">'),
    Probe(AT_US, f'<"bob%{VICTIM}">'),
    Probe(AT_US, f"<bob@{VICTIM}@{LITERAL}>"),
    Probe(AT_US, f'<"bob@{VICTIM}"@{LITERAL}>'),
    Probe(AT_US, f"<bob@{VICTIM}@{DOMAIN}>"),
    Probe(AT_US, f"<@{LITERAL}:bob@{VICTIM}>"),
    Probe(AT_US, f"<@{DOMAIN}:bob@{VICTIM}>"),
    Probe(AT_US, f"<{VICTIM}!bob>"),
    Probe(AT_US, f"<{VICTIM}!bob@{LITERAL}>"),
    Probe(AT_US, f"<{VICTIM}!bob@{DOMAIN}>"),
)
MORE = (
    Probe(STRANGER, f"<bob%{VICTIM}@{DOMAIN}>"),
    Probe(STRANGER, f'<"bob@{VICTIM}"@{DOMAIN}>'),
    Probe(STRANGER, f'<"{VICTIM}!bob"@{DOMAIN}>'),
    Probe(STRANGER, f"<bob%{VICTIM}>"),
    Probe(STRANGER, f"<bob%{VICTIM}@{HOSTNAME}>"),
    Probe(STRANGER, f"<@{HOSTNAME},@{DOMAIN}:bob@{VICTIM}>"),
    Probe(STRANGER, f"<bob@[{MX_4}]>"),
    Probe(STRANGER, f"<bob@[IPv6:{MX_6}]>"),
    Probe(STRANGER, f"<bob@{MX_4}>"),
    Probe(STRANGER, f"<bob@{VICTIM}.>"),
    Probe(STRANGER, f"<bob@{VICTIM.upper()}>"),
    Probe(STRANGER, f"bob@{VICTIM}"),
    Probe(STRANGER, f"<bob@{VICTIM}> NOTIFY=NEVER ORCPT=rfc822;bob@{VICTIM}"),
    Probe(STRANGER, f'<"{ACCOUNT}@{DOMAIN}" bob@{VICTIM}>'),
    Probe(STRANGER, f"<{ACCOUNT}@{DOMAIN},bob@{VICTIM}>"),
    Probe(STRANGER, f"<{ACCOUNT}@{DOMAIN}\0@{VICTIM}>"),
    Probe(f"<{ACCOUNT}@{DOMAIN}>", f"<bob@{VICTIM}>"),
    Probe(f"<postmaster@{DOMAIN}>", f"<bob@{VICTIM}>"),
    Probe(f"<{ACCOUNT}@{DOMAIN}> AUTH={ACCOUNT}@{DOMAIN}", f"<bob@{VICTIM}>"),
    Probe(f"<@{DOMAIN}:{ACCOUNT}@{DOMAIN}>", f"<bob@{VICTIM}>"),
)

_STRANGER = """
import json, smtplib, sys
address, port, helo = sys.argv[1:]
def code(client, line):
    try:
        client.send(line.encode() + b"\\r\\n")
        return client.getreply()[0]
    except smtplib.SMTPServerDisconnected:
        return 421
seen = []
for sender, recipient in json.load(sys.stdin):
    client = smtplib.SMTP(address, int(port), timeout=20)
    client.ehlo(helo)
    said = [code(client, "MAIL FROM:" + sender), code(client, "RCPT TO:" + recipient), code(client, "DATA")]
    if said[-1] == 354:
        said.append(code(client, "X-Lab: open-relay\\r\\n\\r\\nspam\\r\\n."))
    seen.append(said)
    client.close()
print(json.dumps(seen))
"""


@pytest.fixture(scope="module")
def world() -> Iterator[Lab]:
    if missing := missing_parts(ROOT):
        pytest.skip(missing)
    with shipped() as built:
        yield built


def replies(
    lab: Lab, place: str, probes: tuple[Probe, ...], *, port: int = 25, helo: str = HOSTNAME
) -> list[list[int]]:
    """The codes that each probe got: MAIL, RCPT, DATA and, where it came so far, the final dot."""
    host, address = PLACES[place]
    literal = f"[IPv6:{address}]" if ":" in address else f"[{address}]"
    asked = [[part.replace(LITERAL, literal) for part in (probe.sender, probe.recipient)] for probe in probes]
    done = lab.network.python(host, _STRANGER, address, str(port), helo, given=json.dumps(asked))
    assert done.returncode == 0, done.stderr
    return [list(codes) for codes in json.loads(done.stdout)]


def is_refused(codes: list[int]) -> bool:
    """RCPT was not taken, nor was there anything to send DATA for."""
    return all(400 <= code <= 599 for code in codes[1:])


def queued(lab: Lab) -> list[str]:
    return [row["recipient"] for row in lab.gateway.rows("queue", "list")]


@pytest.mark.parametrize("place", PLACES)
def test_no_probe_is_taken(world: Lab, place: str) -> None:
    before = ours_leaving(world)
    seen = replies(world, place, PROBES + MORE)
    taken = [(probe, codes) for probe, codes in zip(PROBES + MORE, seen, strict=True) if not is_refused(codes)]
    assert len(PROBES) == 16
    assert taken == []
    assert queued(world) == []
    assert world.internet.arrived("mx", "open-relay") == 0
    assert ours_leaving(world) == before


@pytest.mark.parametrize("helo", [DOMAIN, "localhost", "[127.0.0.1]", VICTIM])
def test_a_name_in_ehlo_opens_nothing(world: Lab, helo: str) -> None:
    for place in ("wan-4", "lan-6"):
        assert all(is_refused(codes) for codes in replies(world, place, PROBES[:4], helo=helo))


@pytest.mark.parametrize("place", PLACES)
def test_the_submission_ports_take_nothing_from_strangers(world: Lab, place: str) -> None:
    local = Probe(STRANGER, f"<{ACCOUNT}@{DOMAIN}>")
    seen = replies(world, place, (*PROBES[:4], local), port=587)
    assert [codes[0] for codes in seen] == [530] * 5
    assert all(is_refused(codes) for codes in seen)


def test_mail_for_the_site_is_taken_and_users_may_send(world: Lab) -> None:
    """The same daemon, the same strangers: what was refused was refused for what it was."""
    local = Probe(STRANGER, f"<{ACCOUNT}@{DOMAIN}>")
    for place in PLACES:
        assert replies(world, place, (local,)) == [[250, 250, 354, 250]], place
    before = ours_leaving(world)
    assert swaks(world, "laptop", *login(587), "--to", f"bob@{VICTIM}", marker="by-a-user") == "250"
    assert world.internet.wait_arrived("mx", "by-a-user") == 1
    assert ours_leaving(world) > before
