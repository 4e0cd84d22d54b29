"""Regions beside an SMT solver: both find the same regions empty, and the same regions equal."""

from __future__ import annotations

import random
from ipaddress import IPv4Network
from typing import Any

import pytest

from egressguard.policy.networks import PrefixSet
from egressguard.policy.space.region import Region, Space

z3: Any = pytest.importorskip("z3", reason="needs z3-solver")


def drawn(space: Space, at: dict[str, Any], dice: random.Random, depth: int) -> tuple[Region, Any]:
    """A region and z3's formula for it: prefixes of two addresses, ports, and what they are joined by."""
    if depth == 0:
        which = dice.choice(["from", "to", "port"])
        if which == "port":
            port = dice.choice([25, 26, 465])
            return space.protocol("tcp") & space.to_ports([port]), at["port"] == port
        network = IPv4Network(
            (dice.getrandbits(32) & dice.choice([0xFF000000, 0xF0000000, 0xC0000000]), 4), strict=False
        )
        length = dice.randrange(0, 6)
        network = IPv4Network((int(network.network_address), length), strict=False)
        region = (space.source if which == "from" else space.destination)(PrefixSet.of([network]))
        inside = at[which] & z3.BitVecVal(int(network.netmask), 32) == z3.BitVecVal(int(network.network_address), 32)
        return region, inside
    one, is_one = drawn(space, at, dice, depth - 1)
    other, is_other = drawn(space, at, dice, depth - 1)
    match dice.randrange(3):
        case 0:
            return one | other, z3.Or(is_one, is_other)
        case 1:
            return one & other, z3.And(is_one, is_other)
    return one - other, z3.And(is_one, z3.Not(is_other))


def test_a_solver_finds_the_same_empty_and_the_same_equal() -> None:
    at = {"from": z3.BitVec("from", 32), "to": z3.BitVec("to", 32), "port": z3.BitVec("port", 16)}
    seen = set()
    for seed in range(200):
        dice, space = random.Random(seed), Space()
        of_tcp_4 = space.family(4) & space.protocol("tcp")
        one, is_one = drawn(space, at, dice, 3)
        other, is_other = drawn(space, at, dice, dice.choice([2, 3]))
        for region, formula in ((one, is_one), (one & other, z3.And(is_one, is_other))):
            assert bool(region & of_tcp_4) == _is_possible(formula), seed
            seen.add(bool(region & of_tcp_4))
        assert ((one & of_tcp_4) == (other & of_tcp_4)) == (not _is_possible(is_one != is_other)), seed
        assert ((one & of_tcp_4) <= other) == (not _is_possible(z3.And(is_one, z3.Not(is_other)))), seed
        seen.add((one & of_tcp_4) == (other & of_tcp_4))
    assert seen == {True, False}


def _is_possible(formula: Any) -> bool:
    solver = z3.Solver()
    solver.add(formula)
    return bool(solver.check() == z3.sat)
