"""What the rules promise of themselves and do not keep: expectations that are red, invariants that do not hold.

Contract
    Invariants are proven of the rules, for all packets (policy.proof); `egressguard prove` does so of a ruleset.
    What every site is asked besides (port 25 is open by name only) is no promise of these rules: it is noted.
    Rules without invariants cost no proof where only promises are asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from egressguard.app.expectations import red_expectations
from egressguard.policy.model import Policy
from egressguard.policy.proof import BUILT_IN, Proof, prove_rules
from egressguard.policy.space.flows import FlowRegions
from egressguard.policy.space.region import Space
from egressguard.policy.space.witness import packet_in_words


@dataclass(frozen=True, slots=True)
class Promises:
    """In words: those that are `broken`, and what was `noted` besides; `proven` counts the invariants that hold."""

    broken: list[str]
    noted: list[str]
    proven: int = 0


def promises(directory: Path, policy: Policy, site: str) -> Promises:
    """All of it, for a reviewer."""
    proofs = prove_rules(FlowRegions(Space(), policy))
    failed = [proof for proof in proofs if not proof.holds]
    broken = [_words(proof) for proof in failed if proof.at != BUILT_IN]
    noted = [_words(proof) for proof in failed if proof.at == BUILT_IN]
    return Promises([*red_expectations(directory, policy, site), *broken], noted, len(proofs) - len(failed))


def broken_promises(directory: Path, policy: Policy, site: str) -> list[str]:
    """Why rules should not be taken."""
    if not policy.invariants:
        return red_expectations(directory, policy, site)
    return promises(directory, policy, site).broken


def _words(proof: Proof) -> str:
    packet = packet_in_words(proof.witness) if proof.witness is not None else ""
    return f"{proof.at}: invariant {proof.name} does not hold ({proof.says})\n    by the packet {packet}"
