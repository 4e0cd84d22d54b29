"""A site of realistic size: its files are what its maker writes, its rules load, its expectations watch them."""

from __future__ import annotations

from pathlib import Path

import pytest

from egressguard.app.expectations import load_expectations
from egressguard.app.rules import read_rules
from egressguard.policy.model import Policy
from egressguard.policy.mutate import mutate
from egressguard.policy.trial import run_trials
from tests.sites.make import CAMPUS, LISTED, ZONES, files


def campus(site: str = "") -> Policy:
    loaded, _ = read_rules(CAMPUS, site)
    assert loaded.policy is not None, loaded.faults[:3]
    return loaded.policy


def test_the_files_are_what_the_maker_writes() -> None:
    written = {str(path.relative_to(CAMPUS)): path.read_text() for path in CAMPUS.rglob("*") if path.is_file()}
    assert written == files(), "run: python -m tests.sites.make"


def test_its_size_is_that_of_a_real_site() -> None:
    policy = campus()
    assert len(policy.site.zones) == len(ZONES) == 5 and len(policy.devices) == 40
    assert len(policy.flows) >= 200 and len(policy.mail) >= 300
    assert len(policy.site.sets["bad-networks"]) == LISTED == 20_000


@pytest.mark.parametrize("site", ["", "north"])
def test_its_expectations_hold(site: str) -> None:
    policy = campus(site)
    loaded = load_expectations(CAMPUS, policy, site)
    assert not loaded.faults
    assert [result.name for result in run_trials(policy, loaded.trials) if not result.is_green] == []


def test_the_overlay_changes_what_it_names_and_nothing_else() -> None:
    base, north = campus(), campus("north")
    assert (base.site.relay.hostname, north.site.relay.hostname) == ("gateway.campus.example", "north.campus.example")
    assert len(north.site.zones["labs"].networks) == 3 and north.site.zones["staff"] == base.site.zones["staff"]
    assert north.flows[0].name == "north-labs-own-mx" and north.flows[1:] == base.flows
    assert [route.name for route in north.routes] == [route.name for route in base.routes]
    assert north.flows[0].at.startswith("sites/north/site.yaml:") and north.revision != base.revision


def test_nearly_every_rule_is_watched() -> None:
    policy = campus()
    found = mutate(policy, load_expectations(Path(CAMPUS), policy).trials)
    assert found.percent >= 95, [f"{m.at} {m.rule} {m.change}" for m in found.survivors]
