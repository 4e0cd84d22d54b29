"""`egressguard dkim`: a key is made once and for the relay alone, and what DNS has is told for what it is."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from egressguard.app.cli.main import main
from egressguard.senderauth.sign_keys import read_key
from tests.senderauth.nameserver import NameServer, running
from tests.senderauth.signing import ed25519_key, rsa_key, txt


class Box:
    """A state directory and rules."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "rules").mkdir()
        self.rules("")

    def rules(self, signing: str, resolver: str = "127.0.0.1:9") -> None:
        text = f'site:\n  zones: {{lan: {{networks: 192.0.2.0/24}}}}\n  resolvers: "{resolver}"\n'
        (self.folder / "rules" / "site.yaml").write_text(text + (f"  signing:\n{signing}" if signing else ""))

    def run(self, *words: str) -> Result:
        places = ("--rules", str(self.folder / "rules"), "--state", str(self.folder / "state"))
        return CliRunner().invoke(main, ["dkim", *words, *places])

    def key(self, name: str) -> Path:
        return self.folder / "state" / "secrets" / "dkim" / name


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path)


@pytest.mark.parametrize(("algorithm", "kind"), [("rsa", "rsa-sha256"), ("ed25519", "ed25519-sha256")])
def test_a_key_is_made_for_the_relay_alone_and_its_record_is_told(box: Box, algorithm: str, kind: str) -> None:
    made = box.run("make", "Example.org", "--selector", "s1", "--algorithm", algorithm, "--json")
    assert made.exit_code == 0
    told, path = json.loads(made.output), box.key("s1.example.org.pem")
    key = read_key(path)
    assert told == {
        "schema": 1,
        "file": str(path),
        "name": "s1._domainkey.example.org",
        "record": key.record,
    }
    assert key.algorithm == kind and path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o007 == 0


def test_what_is_printed_are_good_rules_and_a_record_in_short_strings(box: Box) -> None:
    words = box.run("make", "example.org", "--selector", "s1").output
    signing = words.partition("  signing:\n")[2]
    box.rules(signing)
    shown = box.run("show", "--json")
    assert shown.exit_code == 0 and json.loads(shown.output)["sign"] is False
    (record,) = [line for line in words.splitlines() if line.startswith("s1._domainkey.example.org. IN TXT ")]
    strings = record.split('"')[1::2]
    assert max(map(len, strings)) <= 255 and "".join(strings) == json.loads(shown.output)["record"]
    assert record in box.run("show").output


def test_a_key_that_is_there_is_never_replaced(box: Box) -> None:
    assert box.run("make", "example.org", "--selector", "s1").exit_code == 0
    before = box.key("s1.example.org.pem").read_bytes()
    again = box.run("make", "example.org", "--selector", "s1")
    assert again.exit_code == 1 and "is there already" in again.output
    assert box.key("s1.example.org.pem").read_bytes() == before


@pytest.mark.parametrize(
    "words", [("192.0.2.1",), ("../x",), ("example.org", "--selector", "../s"), ("example.org", "--bits", "512")]
)
def test_what_is_no_domain_or_selector_is_refused(box: Box, words: tuple[str, ...]) -> None:
    assert box.run("make", *words).exit_code == 2
    assert not (box.folder / "state").exists()


@contextmanager
def name_server(zone: str, failing: tuple[str, ...] = ()) -> Iterator[str]:
    """On a thread of its own: commands have a loop of their own."""
    server, ready, loop = NameServer(zone, failing=failing), threading.Event(), asyncio.new_event_loop()
    done = asyncio.Event()

    async def serve() -> None:
        async with running(server):
            ready.set()
            await done.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    ready.wait(10)
    try:
        yield server.endpoint
    finally:
        loop.call_soon_threadsafe(done.set)
        thread.join()
        loop.close()


NAME = "s1._domainkey.example.org"


@pytest.mark.parametrize(
    ("zone", "state", "code"),
    [
        ("right", "in DNS", 0),
        ("", "not in DNS", 1),
        (txt(NAME, rsa_key()[1]), "DNS has another", 1),
        (txt(NAME, "v=DKIM1; k=rsa; p="), "the key is revoked", 1),
        (txt(NAME, ed25519_key()[1]), "for another algorithm", 1),
        ("twice", "expected this one alone", 1),
        ("failing", "DNS does not answer", 75),
        ("no key", "No such file", 1),
    ],
)
def test_dns_is_compared(box: Box, zone: str, state: str, code: int) -> None:
    box.run("make", "example.org", "--selector", "s1")
    record = read_key(box.key("s1.example.org.pem")).record
    zones = {"right": txt(NAME, record), "twice": txt(NAME, record) + txt(NAME, "v=DKIM2"), "failing": "", "no key": ""}
    if zone == "no key":
        box.key("s1.example.org.pem").unlink()
    failing = (NAME + ".",) if zone == "failing" else ()
    with name_server(zones.get(zone, zone) + txt("other.example", "x"), failing) as endpoint:
        signer = "own: {domains: example.org, selector: s1, key: 'file:dkim/s1.example.org.pem'}"
        box.rules(f"    {signer}\n", endpoint)
        checked = box.run("check", "--json")
    assert checked.exit_code == code and state in json.loads(checked.output)["state"]


def test_without_signers_the_next_step_is_told(box: Box) -> None:
    for command in ("show", "check"):
        told = box.run(command)
        assert told.exit_code == 0 and "egressguard dkim make DOMAIN" in told.output
