"""tests/golden/nft/CASE/policy.yaml renders to ruleset.nft, and the kernel takes each (`--update-golden` rewrites)."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path

import pytest

from egressguard.firewall.host import Host, QueueBackend
from egressguard.firewall.nft import NftError, check_unprivileged
from egressguard.firewall.render import render_ruleset
from egressguard.firewall.table import parse_counter_name
from egressguard.policy.load import parse_rules
from egressguard.policy.model import Policy

CASES = sorted((Path(__file__).parent.parent / "golden" / "nft").iterdir())


def rendered(case: Path, queue: QueueBackend = "xt") -> str:
    loaded = parse_rules({"policy.yaml": (case / "policy.yaml").read_bytes()})
    assert loaded.policy is not None, loaded.faults
    inside = frozenset({"eth1", "wg0"})
    host = Host(inside, 25, 990, queue, tarpit_port=2599, utc_offset_minutes=120)
    return render_ruleset(loaded.policy, host)


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.name)
def test_renders(case: Path, request: pytest.FixtureRequest) -> None:
    ruleset = rendered(case)
    if request.config.getoption("--update-golden"):
        (case / "ruleset.nft").write_text(ruleset)

    assert ruleset == (case / "ruleset.nft").read_text()


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.name)
def test_a_kernel_loads_it_twice_into_an_empty_namespace(case: Path) -> None:
    script = "nft -f - <<'EOF' && nft -f - <<'EOF'\n{0}EOF\n{0}EOF\nnft list table inet egressguard".format(
        (case / "ruleset.nft").read_text()
    )
    done = subprocess.run(
        ["unshare", "--map-root-user", "--net", "sh", "-c", script], capture_output=True, text=True, check=False
    )
    if "unshare failed" in done.stderr or "not found" in done.stderr:
        pytest.skip(f"needs unprivileged namespaces and nft: {done.stderr.strip()}")

    assert done.returncode == 0, done.stderr
    assert "chain forward" in done.stdout


def test_no_redirect_port_closes_what_would_be_redirected() -> None:
    case = next(path for path in CASES if path.name == "20-redirect")
    loaded = parse_rules({"policy.yaml": (case / "policy.yaml").read_bytes()})
    assert loaded.policy is not None

    ruleset = render_ruleset(loaded.policy, Host(queue="none"))

    assert "chain prerouting" not in ruleset
    counted = "tcp dport 25 iifname @zone_guest_if counter name c_guests/guest goto rule_guests"
    assert f'{counted} comment "guests policy.yaml:10:5"' in ruleset
    assert "reject with tcp reset" in ruleset.partition("chain rule_guests {")[2].partition("\n\t}")[0]


@pytest.mark.parametrize(
    ("name", "expected"),
    [("c_block/lan", ("block", "lan")), ("c_a-b_c/any", ("a-b_c", "any")), ("other", None), ("c_x", None)],
)
def test_counter_names_are_read_back(name: str, expected: tuple[str, str] | None) -> None:
    assert parse_counter_name(name) == expected


@pytest.mark.parametrize("file", ["x" * 240 + ".yaml", 'a"; drop; #.yaml', "a\\.yaml", "ü\n}.yaml", "a}.yaml"])
def test_no_name_of_a_rule_file_breaks_the_ruleset(file: str) -> None:
    case = next(path for path in CASES if path.name == "20-redirect")
    policy = parse_rules({file: (case / "policy.yaml").read_bytes()}).policy
    assert policy is not None

    loads(render_ruleset(policy, Host(frozenset(), 25, 990, "none")))


def test_the_longest_names_fit_into_the_kernel() -> None:
    name = "a" * 63
    policy = Policy.model_validate(
        {
            "site": {"zones": {name: {"interfaces": "i" * 15, "networks": "192.0.2.0/24"}}},
            "flows": [
                {"name": name, "from": name, "source": "192.0.2.0/25", "destination": "::/0", "action": "redirect"},
                {"name": "b" * 63, "from": name, "decide": "queue", "action": "drop"},
            ],
        }
    )

    loads(render_ruleset(policy, Host(frozenset(), 25, 990, "none")))


def test_the_wall_that_names_everything_is_checked_without_rights() -> None:
    ruleset = (CASES[0] / "ruleset.nft").read_text()
    loads(ruleset)

    with pytest.raises(NftError, match=r"\A[^\n]+\Z"):
        asyncio.run(check_unprivileged(ruleset + "table inet { nonsense }\n"))


def loads(ruleset: str) -> None:
    try:
        asyncio.run(check_unprivileged(ruleset))
    except NftError as wrong:
        if "unshare" in str(wrong):
            pytest.skip(f"needs unprivileged namespaces: {wrong}")
        raise
