"""Ten thousand connections that say nothing: caps hold, are told and counted, and mail goes through all the same."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import pytest

from tests.lab.internet import ROOT
from tests.system.crowd import ADDRESSES, CROWD, FILES, PER_ADDRESS, SERVED, TLS_CROWD

pytestmark = [pytest.mark.system, pytest.mark.timeout(180)]

_IN_A_NETWORK_OF_ITS_OWN = 'ip link set lo up && exec "$@"'


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    """What tests/system/crowd.py reports."""
    if os.geteuid() != 0 or not shutil.which("unshare") or not shutil.which("ip"):
        pytest.skip("needs root, unshare and ip: the crowd has a network namespace of its own")
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < FILES:
        pytest.skip(f"needs a hard limit of {FILES} open files (ulimit -Hn)")
    program = [sys.executable, "-m", "tests.system.crowd", str(tmp_path_factory.mktemp("crowd"))]
    command = ["unshare", "--net", "sh", "-c", _IN_A_NETWORK_OF_ITS_OWN, "sh", *program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=170, check=False)
    if "unshare" in done.stderr:
        pytest.skip(f"needs namespaces: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_ten_thousand_are_held_and_one_of_an_address_too_many_is_told_so(seen: Mapping[str, Any]) -> None:
    print(f"an idle connection costs {seen['per_idle_octets'] / 1024:.1f} KiB ({CROWD} of them)")
    print(f"an idle TLS connection costs {seen['per_idle_tls_octets'] / 1024:.1f} KiB ({TLS_CROWD} of them)")
    assert seen["full"]["active"] == CROWD == PER_ADDRESS * ADDRESSES
    assert seen["one_too_many"] == ["421"]


def test_an_honest_client_is_served_in_the_crowd(seen: Mapping[str, Any]) -> None:
    assert seen["served"] == SERVED
    assert seen["crowded"]["messages"] == seen["full"]["messages"] + 1


def test_beyond_the_cap_of_all_others_are_told_so(seen: Mapping[str, Any]) -> None:
    assert seen["over_all"] == ["421"]


def test_each_refusal_is_counted_once(seen: Mapping[str, Any]) -> None:
    assert seen["full"]["refused"] == 0
    assert [seen["crowded"][name] for name in ("refused", "rejects", "told")] == [100, 100, 100]
    assert seen["crowded"]["accepted"] == 1 + CROWD + 1


def test_whoever_is_turned_away_costs_nothing(seen: Mapping[str, Any]) -> None:
    assert seen["crowded"]["files"] <= seen["full"]["files"]


def test_when_the_crowd_has_left_nothing_is_held(seen: Mapping[str, Any]) -> None:
    assert seen["after"]["active"] == 0
    assert seen["after"]["files"] <= seen["before"]["files"]


@pytest.mark.xfail(strict=True, reason="asyncio's TLS takes 256 KiB for each connection, said or not")
def test_a_silent_tls_client_costs_little_more_than_another(seen: Mapping[str, Any]) -> None:
    """A thousand of them, the default cap, must fit beside everything else into a router: 64 KiB each are 64 MiB."""
    assert seen["per_idle_tls_octets"] < 64 * 1024
