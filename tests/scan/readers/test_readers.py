"""No other reader of MIME finds a file in a message that is clean here: tests/scan's tricks, changed at random.

EGRESSGUARD_MUTATIONS is how many messages the long version makes, of a seed that it prints. That has a known rest
(docs/decisions/0024): some programs guess at what is damaged beyond any structure.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from egressguard.policy.site import Scan
from egressguard.policy.verdict import Verdict
from egressguard.scan.examine import examine
from tests.scan.readers.asking import FAMILIES, START_SECONDS, Family, Found, Readers, lacking
from tests.scan.readers.making import FILES, made
from tests.scan.samples import EICAR_ZIP
from tests.scan.tricks import File, multipart

pytestmark = pytest.mark.peers

SETTINGS = Scan(denied_names=("*.exe",))
SEED, MESSAGES = 1, 300
MUTATIONS = int(os.environ.get("EGRESSGUARD_MUTATIONS", "0"))
MAX_MISSED_SHARE = 0.001
"""Of the messages in which a reader found the file"""


@dataclass(slots=True)
class Compared:
    """`found`: the messages in which some reader found the file; `missed`: a line for each that is clean here."""

    found: int = 0
    missed: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def readers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Readers]:
    there = [family for family in FAMILIES if not lacking(family)]
    started = Readers(there, tmp_path_factory.mktemp("readers"))
    yield started
    started.close()


def offers(found: Found, file: File) -> bool:
    """Whether somebody could open the file: by its octets, or a denied name alone."""
    if file is EICAR_ZIP:
        return any(file.content in content for _, content in found)
    return any(name.strip().lower().endswith(b".exe") for name, _ in found)


def compare(readers: Readers, seed: int, count: int, folder: Path) -> Compared:
    """Messages that were missed are kept in `folder`."""
    compared = Compared()
    for number in range(count):
        one = made(seed, number)
        answers = readers.ask(one.message)
        finders = [name for name, found in answers.items() if offers(found, one.file)]
        compared.found += bool(finders)
        if finders and examine(one.message, SETTINGS).verdict is Verdict.CLEAN:
            path = folder / f"missed-{seed}-{number}"
            path.write_bytes(one.message)
            compared.missed.append(f"seed {seed}, number {number} ({one.trick}): {', '.join(finders)}; {path}")
    return compared


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_reader_finds_the_file_in_a_plain_message(family: Family, readers: Readers) -> None:
    if reason := lacking(family):
        pytest.skip(reason)
    for file in FILES:
        answers = readers.ask(multipart(file), START_SECONDS)
        assert [name for name in family.readers if not offers(answers[name], file)] == [], file.name


def test_no_reader_finds_a_file_in_what_is_clean(readers: Readers, tmp_path: Path) -> None:
    compared = compare(readers, SEED, MESSAGES, tmp_path)

    assert compared.missed == []
    assert compared.found > MESSAGES / 4  # Python's alone find it in a third


@pytest.mark.skipif(not MUTATIONS, reason="many messages only where EGRESSGUARD_MUTATIONS says how many")
def test_hardly_a_reader_finds_a_file_in_what_is_clean(readers: Readers, tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(1_000_000)
    print(f"\nseed {seed}")
    compared = compare(readers, seed, MUTATIONS, tmp_path)

    print(
        f"{compared.found} of {MUTATIONS} found by a reader, {len(compared.missed)} missed", *compared.missed, sep="\n"
    )
    assert len(compared.missed) <= MAX_MISSED_SHARE * compared.found, "\n".join(compared.missed)
