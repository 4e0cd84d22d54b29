"""`make lab`'s scenarios as tests: one world, every scenario in its order, one test each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lab.internet import ROOT
from tests.lab.network import missing_parts
from tests.lab.scenarios import SCENARIOS, play
from tests.lab.world import Lab, lab

pytestmark = [pytest.mark.system, pytest.mark.peers]


@pytest.fixture(scope="module")
def world() -> Iterator[Lab]:
    if missing := missing_parts(ROOT):
        pytest.skip(missing)
    with lab() as built:
        yield built


@pytest.mark.timeout(150)
@pytest.mark.parametrize("name", list(SCENARIOS))
def test_scenario(world: Lab, name: str) -> None:
    wrong = [f"{row.tried}: expected {row.expected}, seen {row.seen}" for row in play(world, name) if not row.ok]

    assert not wrong, "\n".join([*wrong, world.gateway.log.read_text()[-3000:]])
