"""The TLS matrix: DANE, MTA-STS, rules and REQUIRETLS against real signed zones, each cell as the RFCs demand."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.tls.cells import CELLS, Cell

ROOT = Path(__file__).parent.parent.parent
MISSING = [name for name in ("nsd", "unbound") if not (ROOT / ".peers" / name / ".unpacked").exists()]

pytestmark = [
    pytest.mark.peers,
    pytest.mark.skipif(bool(MISSING), reason=f"needs {' and '.join(MISSING)}: run scripts/peers"),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: the matrix is in a network namespace"),
]
Told = dict[str, Any]


def ran(program: str) -> Told:
    command = ["unshare", "--net", sys.executable, "-m", program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    answer: Told = json.loads(done.stdout)
    return answer


@pytest.fixture(scope="module")
def told() -> Told:
    return ran("tests.tls.matrix")


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
def test_tls_with_a_host_is_what_its_domain_and_the_rules_demand(told: Told, cell: Cell) -> None:
    got = told["cells"][cell.name]
    assert (got["result"], got["status"], got["saw"]) == (cell.result, cell.status, cell.saw), got


def test_plaintext_goes_only_where_nothing_forbids_it(told: Told) -> None:
    """What the mail hosts saw, whatever the cells expect of them."""
    plain = {cell for cell in CELLS if told["cells"][cell.name]["saw"] == "plain"}
    assert len(CELLS) >= 24
    for cell in plain:
        demands = cell.rule.get("level", "published") in {"encrypt", "dane-only", "verify", "secure"}
        assert not (demands or cell.tlsa or cell.requiretls or cell.zone == "bogus.example"), cell.name
        assert cell.sts != "enforce" or cell.web != "good", cell.name


def test_requiretls_is_handed_on_with_mail_that_has_it_and_no_other(told: Told) -> None:
    for cell in CELLS:
        for line in told["cells"][cell.name]["asked"]:
            assert ("REQUIRETLS" in line.split()) == cell.requiretls, (cell.name, line)


@pytest.mark.parametrize(
    ("name", "policy_type", "failed", "code"),
    [
        ("ee-key", 1, 0, None),
        ("wrong-tlsa", 1, 1, 205),
        ("ta-other", 1, 1, 203),
        ("dane-stripped", 1, 1, 201),
        ("tlsa-servfail", 1, 1, 305),
        ("dane-only-without", 1, 1, 306),
        ("sts", 2, 0, None),
        ("sts-expired", 2, 1, 204),
        ("sts-mismatched", 2, 1, 202),
        ("sts-self-signed", 2, 1, 203),
        ("sts-stripped", 2, 1, 201),
        ("sts-not-listed", 2, 1, 205),
        ("testing-expired", 2, 1, 204),
        ("testing-not-listed", 2, 1, 205),
        ("sts-other-web-server", 2, 1, 303),
        ("sts-gone", 2, 1, 301),
        ("nothing", 9, 0, None),
        ("nothing-stripped", 9, 1, 201),
    ],
)
def test_the_tlsrpt_collector_hears_of_it(
    told: Told, name: str, policy_type: int, failed: int, code: int | None
) -> None:
    domain = next(cell.domain for cell in CELLS if cell.name == name)
    reports = [report for report in told["reports"] if report["d"] == domain]
    assert {report["pr"] for report in reports} == {f"v=TLSRPTv1; rua=mailto:reports@{domain}"}
    policy = reports[0]["policies"][0]
    codes = [detail["c"] for detail in policy.get("failure-details", [])]
    assert (policy["policy-type"], policy["f"], codes) == (policy_type, failed, [code] if code else [])


def test_sessions_are_counted_by_what_was_demanded(told: Told) -> None:
    counted = Counter({(policy, result): value for policy, result, value in told["counted"]})
    assert counted["dane", "verified"] >= 10 and counted["dane", "failed"] >= 10
    assert counted["mta-sts", "verified"] >= 2 and counted["mta-sts", "refused"] == 1
    assert counted["dane", "plain"] == counted["mta-sts", "plain"] == counted["verify", "plain"] == 0


def test_the_whole_gateway_keeps_to_it() -> None:
    """Rules, relay role, queue and all, under a user who is nobody special."""
    got = ran("tests.tls.gateway")
    assert got["saw"] == {
        "ee-key": "tls",
        "wrong-tlsa": "nothing",
        "tlsa-servfail": "nothing",
        "sts": "tls",
        "sts-stripped": "nothing",
        "nothing-stripped": "plain",
    }
    assert got["waiting"] == {
        "b@wrong-tlsa.signed.example": "4.7.5",
        "b@tlsa-servfail.signed.example": "4.7.5",
        "b@sts-stripped.signed.example": "4.7.4",
    }
    assert got["kept"] == ["sts-stripped.signed.example", "sts.signed.example"]
    assert got["heard"] == sorted(f"{name}.signed.example" for name in got["saw"])
    for policy, result in (("dane", "verified"), ("dane", "failed"), ("dane", "refused"), ("mta-sts", "failed")):
        line = f'egressguard_delivery_tls_sessions_total{{policy="{policy}",result="{result}"}} 1.0'
        assert line in got["page"]
