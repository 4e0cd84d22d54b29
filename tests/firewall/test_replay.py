"""Real captures through the shipped rules (tests/data/SOURCES.md names where they come from)."""

from __future__ import annotations

import contextlib
import gzip
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from egressguard.app.rules import read_rules
from egressguard.firewall.replay import NotACapture, replay
from egressguard.policy.flows import Surroundings
from egressguard.policy.model import Policy

DATA = Path(__file__).parent.parent / "data" / "pcap"
CAPTURES = sorted(path for path in DATA.iterdir())


@pytest.fixture(scope="module")
def policy() -> Policy:
    loaded, _ = read_rules(Path(__file__).parent.parent.parent / "rules")
    assert loaded.policy is not None
    return loaded.policy


@pytest.mark.parametrize("capture", CAPTURES, ids=lambda path: path.name)
def test_a_capture_goes_through(capture: Path, policy: Policy) -> None:
    result = replay(capture, policy, Surroundings())

    assert result.packets > 0
    assert all(row["action"] in {"allow", "reject"} for row in result.rows())


def test_a_client_that_speaks_smtp_directly_would_have_been_blocked(policy: Policy) -> None:
    rows = list(replay(DATA / "smtp.pcap", policy, Surroundings()).rows())

    blocked = [(r["source"], r["rule"], r["port"]) for r in rows if r["action"] == "reject"]
    assert blocked == [("10.10.1.4", "block-direct-smtp", 25), ("192.168.133.100", "block-direct-smtp", 25)]


def test_a_compressed_capture_is_read_as_well(tmp_path: Path, policy: Policy) -> None:
    packed = tmp_path / "smtp.pcap.gz"
    packed.write_bytes(gzip.compress((DATA / "smtp.pcap").read_bytes()))

    assert replay(packed, policy, Surroundings()).packets > 0


@pytest.mark.parametrize("octets", [b"", b"not a capture at all", b"\xd4\xc3\xb2\xa1\x02"])
def test_what_is_no_capture_is_said_so(tmp_path: Path, policy: Policy, octets: bytes) -> None:
    path = tmp_path / "x.pcap"
    path.write_bytes(octets)

    with pytest.raises(NotACapture):
        replay(path, policy, Surroundings())


@given(
    st.binary(min_size=1, max_size=40),
    st.integers(0, 1 << 16),
    st.sampled_from(["smtp.pcap", "smtp-bdat-cmd-invalid.pcapng"]),
)
@settings(deadline=None, max_examples=150)
def test_a_damaged_capture_is_read_as_far_as_it_goes_or_refused(damage: bytes, at: int, name: str) -> None:
    octets = bytearray((DATA / name).read_bytes()[:6000])
    at %= len(octets)
    octets[at : at + len(damage)] = damage
    with tempfile.NamedTemporaryFile(suffix=".pcap") as file:
        file.write(octets)
        file.flush()
        with contextlib.suppress(NotACapture):
            list(replay(Path(file.name), Policy.model_validate({"site": {"zones": {}}}), Surroundings()).rows())
