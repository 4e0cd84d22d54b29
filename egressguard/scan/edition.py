"""With what a message was looked at: another text as soon as other code, settings or signatures may judge it.

Contract
    Told of are the engines that give a verdict: a spam filter that has learned makes no mail out of date.
    One that does not say its version is "?": what was scanned then is out of date once it does.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

from egressguard.scan.clamd_question import clamd_version
from egressguard.scan.engine_words import EngineDown

if TYPE_CHECKING:
    from egressguard.policy.site import Scan

ASK_SECONDS = 5.0
_CLAMD = re.compile(r", clamd [^,]*")


def edition(settings: Scan, rules: Path) -> str:
    """ "reader 3f2a..., settings 81c0..., clamd ClamAV 1.0.9/27810/...". Blocks for ASK_SECONDS at most."""
    return edition_of(settings.model_dump_json(), rules)


def edition_of(settings: str, rules: Path) -> str:
    """`settings` as Scan.model_dump_json has them: who has only these need not load what reads rules."""
    told = [f"reader {_reader()}", f"settings {_short(settings.encode())}"]
    named = json.loads(settings)
    if named["clamd"] is not None:
        told.append(f"clamd {_clamd(named['clamd']['address'])}")
    if named["yara"] is not None:
        told.append(f"yara {_yara(rules / named['yara']['folder'])}")
    return ", ".join(told)


def but_for_clamd(edition: str) -> str:
    """What it says of everything else that judges a message."""
    return _CLAMD.sub("", edition)


def _clamd(address: str) -> str:
    try:
        return clamd_version(address, ASK_SECONDS).replace(",", ";")
    except EngineDown:
        return "?"


def _yara(folder: Path) -> str:
    from egressguard.scan.yara import digest, read_rule_files  # noqa: PLC0415  not loaded where nobody has rules

    try:
        return digest(read_rule_files(folder))
    except OSError:
        return "?"


@functools.cache
def _reader() -> str:
    """Of the code that takes messages apart: a digest of this room's modules."""
    whole = hashlib.sha256()
    for module in sorted(Path(__file__).parent.glob("*.py")):
        whole.update(module.name.encode() + b"\n" + module.read_bytes())
    return whole.hexdigest()[:12]


def _short(octets: bytes) -> str:
    return hashlib.sha256(octets).hexdigest()[:12]
