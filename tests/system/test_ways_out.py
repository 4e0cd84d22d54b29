"""The relay role, without capabilities, hands one message to a next hop, to an LMTP socket and to a program."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import smtplib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.smtp.fake_mx import FakeMx
from tests.system.relay_alone import RelayAlone

pytestmark = pytest.mark.system

LETTER = b"X-EgressGuard-Route: pipe:tell\r\nSubject: hello\r\n\r\nend\r\n"
TELL = 'cat >"$1/letter"; grep -E "^(Uid|CapEff|NoNewPrivs):" /proc/self/status >"$1/who"; echo "$2" >"$1/asked"'


@pytest.fixture
def folder() -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("needs root: to start the relay as a user without capabilities")
    made = Path(tempfile.mkdtemp(prefix="eg-"))
    yield made
    shutil.rmtree(made)


def rules(folder: Path, port: int) -> str:
    ways = {"hop": f"[127.0.0.1]:{port}", "box": f"lmtp:unix:{folder}/lmtp", "program": "pipe:tell:next"}
    site = {
        "zones": {"lan": {"networks": "127.0.0.0/8"}},
        "resolvers": "127.0.0.1:9",
        "relay": {"hostname": "gw.example", "listeners": {"lan": {"kind": "smtp", "port": 0}}},
        "pipes": {"tell": {"command": ["/bin/sh", "-c", TELL, "sh", str(folder / "told"), "{nexthop} {recipient}"]}},
    }
    routes = [{"name": n, "match": {"recipient_domain": f"{n}.example"}, "via": way} for n, way in ways.items()]
    mail = [{"name": "lan", "match": {"client": "lan"}, "action": "accept"}]
    return json.dumps({"site": site, "mail": mail, "routes": routes})


def test_every_way_out_of_the_running_relay(folder: Path) -> None:
    relay = RelayAlone(folder, 9)
    hop, box = FakeMx(), FakeMx(lmtp=True, extensions=("PIPELINING", "8BITMIME"))

    async def walk() -> None:
        async with hop.listening(), box.listening(str(folder / "lmtp")):
            (relay.places.snapshot / "site.yaml").write_text(rules(folder, hop.port))
            (folder / "told").mkdir()
            for path in (folder, *folder.rglob("*")):
                shutil.chown(path, "nobody", "nogroup")
            as_nobody = ("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "--bounding-set=-all")
            await asyncio.to_thread(relay.start, *as_nobody, "--inh-caps=-all", "--no-new-privs")
            await asyncio.to_thread(send, relay.port)
            for _ in range(300):
                if hop.messages and box.messages and not await asyncio.to_thread(relay.ask_rows):
                    return
                await asyncio.sleep(0.05)
            pytest.fail(f"{relay.ask_rows()}")

    try:
        asyncio.run(walk())
    finally:
        relay.close()
    assert [paths for _, paths, _ in hop.messages] == [["b@hop.example"]]
    assert [paths for _, paths, _ in box.messages] == [["b@box.example", "c@box.example"]]
    letter = (folder / "told" / "letter").read_bytes()
    assert letter.startswith(b"Received: ") and letter.endswith(LETTER.replace(b"\r\n", b"\n"))
    assert (folder / "told" / "asked").read_text() == "next b@program.example\n"
    who = dict(line.split(":\t") for line in (folder / "told" / "who").read_text().splitlines())
    assert who == {"Uid": "65534\t65534\t65534\t65534", "NoNewPrivs": "1", "CapEff": "0" * 16}


def send(port: int) -> None:
    with smtplib.SMTP("127.0.0.1", port, timeout=30) as client:
        paths = ["b@hop.example", "b@box.example", "c@box.example", "b@program.example"]
        assert client.sendmail("a@example.org", paths, LETTER) == {}
