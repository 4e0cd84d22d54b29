"""A program of this machine that wants one message to become two: by sendmail, and by a file of its own making.

The drop directory is open to everybody on the machine; what lies there need not have come through `sendmail`.
The next host is a Postfix that takes LF "." LF for an end.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from egressguard.store.drop import put
from tests.lab.clients import ANNA, until
from tests.lab.internet import ROOT
from tests.lab.network import missing_parts
from tests.lab.world import Lab
from tests.smtp.dot_variants import TEXT, VARIANTS, Fate, Variant
from tests.system.shipped import shipped

pytestmark = [pytest.mark.system, pytest.mark.peers]

SMUGGLED = b"MAIL FROM:<admin@mx.example>\r\nRCPT TO:<bert@mx.example>\r\nDATA\r\nX-Lab: inner-%d\r\n\r\nclick here\r\n"
UNLAWFUL = [variant for variant in VARIANTS if variant.fate is not Fate.TEXT]


@pytest.fixture(scope="module")
def world() -> Iterator[Lab]:
    if missing := missing_parts(ROOT):
        pytest.skip(missing)
    with shipped() as built:
        yield built


def attack(marker: str, number: int, variant: Variant) -> bytes:
    return b"X-Lab: %s-%d\r\n\r\ntext" % (marker.encode(), number) + variant.octets + SMUGGLED % number


def envelopes(lab: Lab, marker: str) -> list[bytes]:
    """Return-Path of every message at the MX that has `marker` in it: one for each that was seen as a message."""
    found = [message for message in lab.internet.messages("mx") if marker.encode() in message]
    return [line for message in found for line in message.split(b"\n") if line.startswith(b"Return-Path:")]


def drop(lab: Lab, content: bytes) -> Path:
    folder = lab.gateway.state / "drop"
    return folder / put(folder, ANNA, ("bob@mx.example",), content)


def looked_at(dropped: list[Path]) -> bool:
    return not any(path.with_name(f"{path.name}.msg").exists() for path in dropped)


def test_a_file_in_the_drop_directory_smuggles_nothing(world: Lab) -> None:
    dropped = [drop(world, attack("outer", number, variant)) for number, variant in enumerate(VARIANTS)]
    assert until(lambda: looked_at(dropped))
    lawful = [number for number, variant in enumerate(VARIANTS) if variant in TEXT]
    for number in lawful:
        assert world.internet.wait_arrived("mx", f"outer-{number}\n") == 1
    until(lambda: world.gateway.rows("queue", "list") == [])
    seen = envelopes(world, "X-Lab: inner-")
    assert set(seen) == {f"Return-Path: <{ANNA}>".encode()}  # the inner text lies in an outer message, or nowhere


def test_unlawful_octets_in_a_dropped_file_are_set_aside(world: Lab) -> None:
    dropped = [drop(world, attack("aside", number, variant)) for number, variant in enumerate(UNLAWFUL)]
    assert until(lambda: looked_at(dropped))
    assert [path.name for path in dropped if not path.with_name(f"{path.name}.refused").exists()] == []
    assert world.internet.arrived("mx", "aside-") == 0


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v.name in {"lf.lf", "cr.cr", "crlf.lf"}], ids=str)
def test_what_sendmail_is_given_is_one_message(variant: Variant, world: Lab) -> None:
    """sendmail's text has whatever line ends its program has: they become CRLF before anything else is done."""
    number = 100 + VARIANTS.index(variant)
    words = ("env", f"EGRESSGUARD_STATE={world.gateway.state}", sys.executable, "-m", "egressguard")
    command = world.network.command("gateway", *words, "sendmail", "-i", "-f", ANNA, "bob@mx.example")
    given = attack("sendmail", number, variant)
    done = subprocess.run(command, input=given, cwd=ROOT, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert world.internet.wait_arrived("mx", f"sendmail-{number}\n") == 1
    assert envelopes(world, f"X-Lab: inner-{number}\n") == [f"Return-Path: <{ANNA}>".encode()]
