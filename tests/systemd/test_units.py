"""The units say the same as the program: roles, users, capabilities, directories, sockets; and they are tight."""

import re
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest

from egressguard.app.children import GROUP, ROLES, WATCHDOG_SECONDS, Role
from egressguard.app.directories import _wanted
from egressguard.app.listeners import metrics_endpoint, relay_endpoints
from egressguard.app.places import Places
from egressguard.app.rules import read_rules
from egressguard.app.supervisor import METRICS_SOCKET
from egressguard.policy.model import Policy

ROOT = Path(__file__).parents[2]
UNITS = ROOT / "systemd"
SERVICES = sorted(path.name for path in UNITS.glob("*.service"))
MOST_EXPOSED = 3.0
"""systemd-analyze's scale: 0 is a closed box, 10 an open door."""

PLACES = Places(Path("/etc/egressguard/rules"), Path("/var/lib/egressguard"), Path("/run/egressguard"))


def _settings(name: str) -> dict[str, list[str]]:
    """Every Key=value of a unit file, values in order; continuation lines joined."""
    text = (UNITS / name).read_text().replace("\\\n", " ")
    found: dict[str, list[str]] = defaultdict(list)
    for line in text.splitlines():
        key, equals, value = line.partition("=")
        if equals and not line.startswith(("#", ";")):
            found[key].append(" ".join(value.split()))
    return found


def _unit_of(role: Role) -> dict[str, list[str]]:
    return _settings(f"egressguard-{role.name}.service")


def _shipped_policy() -> Policy:
    loaded, _ = read_rules(ROOT / "rules")
    assert loaded.policy is not None
    return loaded.policy


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_each_role_runs_as_its_user_with_its_capabilities_and_no_more(role: Role) -> None:
    unit = _unit_of(role)
    capabilities = [f"CAP_{name.upper()}" for name in role.capabilities]
    assert unit["User"] == [role.user]
    assert unit["Group"] == [GROUP]
    assert unit["CapabilityBoundingSet"] == [" ".join(capabilities)]
    assert unit["AmbientCapabilities"] == ([" ".join(capabilities)] if capabilities else [])
    assert unit["NoNewPrivileges"] == ["yes"]


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_each_role_is_started_where_it_finds_its_files_and_watched(role: Role) -> None:
    unit = _unit_of(role)
    where = f"--rules {PLACES.snapshot} --state {PLACES.state} --runtime {PLACES.runtime}"
    assert unit["ExecStart"] == [f"/opt/egressguard/.venv/bin/egressguard role {role.name} {where}"]
    assert unit["Type"] == ["notify"]
    assert unit["WatchdogSec"] == [str(WATCHDOG_SECONDS)]


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_a_role_takes_other_rules_from_the_keeper_only(role: Role) -> None:
    unit = _unit_of(role)
    assert unit["ExecReload"] == [] and "egressguard-keeper.service" in unit["Requires"]
    assert any("egressguard-keeper.service" in line for line in unit["After"])


def test_the_keeper_applies_on_reload_and_the_wall_comes_before_the_network() -> None:
    keeper, wall = _settings("egressguard-keeper.service"), _settings("egressguard-wall.service")
    where = f"--rules {PLACES.rules} --state {PLACES.state} --runtime {PLACES.runtime}"
    program = "/opt/egressguard/.venv/bin/egressguard"
    assert keeper["ExecStart"] == [f"{program} role keeper {where}"]
    assert keeper["ExecReload"] == [f"{program} apply {where}"]
    assert wall["ExecStart"] == [f"{program} up --state {PLACES.state}"]
    assert "network-pre.target" in wall["Before"][0] and wall["DefaultDependencies"] == ["no"]
    assert "nftables.service" in wall["After"][0]


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_a_role_may_write_its_own_directories_and_no_others(role: Role) -> None:
    unit = _unit_of(role)
    writable = {Path(path) for line in unit["ReadWritePaths"] for path in line.split()}
    known = {path: owner for path, owner, _ in _wanted(PLACES)}
    assert unit["ProtectSystem"] == ["strict"]
    assert {PLACES.role(role.name), PLACES.journals} <= writable <= set(known)
    assert {path for path, owner in known.items() if owner == role.name} <= writable
    private = {PLACES.spool, *(PLACES.role(other.name) for other in ROLES)} - {PLACES.role(role.name)}
    assert not writable & (private if role.name != "relay" else private - {PLACES.spool})


def test_the_scanner_has_no_network_and_the_gate_sees_no_message() -> None:
    scan, gate = _settings("egressguard-scan.service"), _settings("egressguard-gate.service")
    assert scan["PrivateNetwork"] == ["yes"]
    assert scan["RestrictAddressFamilies"] == ["AF_UNIX"]
    closed = " ".join(gate["InaccessiblePaths"])
    for place in (PLACES.spool, PLACES.quarantine, PLACES.mailboxes, PLACES.secrets):
        assert str(place) in closed


def test_mail_is_looked_at_again_every_night_and_only_read() -> None:
    unit, timer = _settings("egressguard-rescan.service"), _settings("egressguard-rescan.timer")
    where = f"--rules {PLACES.snapshot} --state {PLACES.state} --runtime {PLACES.runtime}"
    assert unit["ExecStart"] == [f"/opt/egressguard/.venv/bin/egressguard scan {where}"]
    assert timer["OnCalendar"] and timer["WantedBy"] == ["timers.target"]
    assert unit["User"] == ["eg-scan"] and unit["CapabilityBoundingSet"] == [""] and unit["PrivateNetwork"] == ["yes"]
    assert set(unit["ReadWritePaths"][0].split()) == {str(PLACES.scan_memory.parent), str(PLACES.journals)}


def test_a_backup_is_taken_every_night_by_one_who_reads_all_and_talks_to_nobody() -> None:
    unit, timer = _settings("egressguard-backup.service"), _settings("egressguard-backup.timer")
    where = f"--rules {PLACES.snapshot} --state {PLACES.state} --runtime {PLACES.runtime}"
    program = "/opt/egressguard/.venv/bin/egressguard"
    assert unit["ExecStart"] == [f"{program} backup /var/backups/egressguard --keep 14 {where}"]
    assert timer["OnCalendar"] and timer["WantedBy"] == ["timers.target"] and not unit["WantedBy"]
    assert unit["User"] == ["root"] and unit["UMask"] == ["0077"] and unit["PrivateNetwork"] == ["yes"]
    writable = {Path(path) for line in unit["ReadWritePaths"] for path in line.split()} - {Path("/var/backups")}
    assert writable == {PLACES.spool, PLACES.journals, PLACES.quarantine, PLACES.scan_memory.parent}  # with databases


def test_the_socket_units_are_the_listeners_of_the_shipped_rules() -> None:
    units = [_settings(path.name) for path in UNITS.glob("egressguard-relay-*.socket")]
    found = {unit["FileDescriptorName"][0]: sorted(unit["ListenStream"]) for unit in units}
    endpoints = list(relay_endpoints(_shipped_policy(), high_ports=False))
    wanted = {each.name: sorted(str(x) for x in endpoints if x.name == each.name) for each in endpoints}
    assert found == wanted
    assert _unit_of(next(role for role in ROLES if role.name == "relay"))["Sockets"][0].split() == sorted(
        f"egressguard-relay-{name}.socket" for name in wanted
    )


def test_the_metrics_socket_is_the_one_that_the_console_asks_for() -> None:
    unit = _settings("egressguard-console.socket")
    assert unit["FileDescriptorName"] == [METRICS_SOCKET]
    assert unit["ListenStream"] == [str(metrics_endpoint(_shipped_policy()))]


def test_the_directories_are_those_that_the_program_makes() -> None:
    rows = [line.split() for line in (UNITS / "egressguard.tmpfiles.conf").read_text().splitlines()]
    made = {row[1]: (row[2], row[3], row[4]) for row in rows if row and row[0] == "d"}
    users = {role.name: role.user for role in ROLES} | {"": "root"}
    assert made == {str(path): (f"{mode:o}", users[owner], GROUP) for path, owner, mode in _wanted(PLACES)}


def test_the_users_are_those_that_the_roles_need() -> None:
    rows = [line.split() for line in (UNITS / "egressguard.sysusers.conf").read_text().splitlines()]
    assert {row[1] for row in rows if row and row[0] == "u"} == {role.user for role in ROLES}
    assert [row[1] for row in rows if row and row[0] == "g"] == [GROUP]
    assert {row[2] for row in rows if row and row[0] == "u"} == {f"-:{GROUP}"}


def test_the_target_starts_every_role() -> None:
    wanted = " ".join(_settings("egressguard.target")["Wants"]).split()
    names = [*(role.name for role in ROLES), "keeper", "wall"]
    assert sorted(wanted) == sorted(f"egressguard-{name}.service" for name in names)


def _needs_systemd() -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze (Debian package systemd)")


def _analyze(*words: str, at: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", "--no-pager", *words], cwd=at, capture_output=True, text=True, timeout=60, check=False
    )


def test_systemd_finds_nothing_wrong_in_the_units(tmp_path: Path) -> None:
    """The program is not installed here: `env` stands in its place, as systemd looks for executables too."""
    _needs_systemd()
    units = [path for path in UNITS.iterdir() if path.suffix in {".service", ".socket", ".target", ".timer"}]
    for path in units:
        text = re.sub(r"/opt/egressguard/\.venv/bin/\w+", "/usr/bin/env", path.read_text())
        (tmp_path / path.name).write_text(text)
    done = _analyze("verify", "--man=no", *(f"./{path.name}" for path in units), at=tmp_path)
    ours = [line for line in (done.stdout + done.stderr).splitlines() if "egressguard" in line]
    assert ours == []


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_little_exposed(name: str) -> None:
    _needs_systemd()
    done = _analyze("security", "--offline=true", name, at=UNITS)
    score = re.search(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)
    assert score, done.stderr
    assert float(score[1]) < MOST_EXPOSED
