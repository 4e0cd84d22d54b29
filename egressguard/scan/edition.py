"""With what a message was looked at: another text as soon as other code, settings or signatures may judge it.

Contract
    Told of are the engines that give a verdict: a spam filter that has learned makes no mail out of date.
    One that does not say its version is "?": what was scanned then is out of date once it does.
"""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

from egressguard.policy.site import Scan
from egressguard.scan.clamd import ClamdEngine
from egressguard.scan.engine import EngineDown

ASK_SECONDS = 5.0


def edition(settings: Scan, rules: Path) -> str:
    """ "reader 3f2a..., settings 81c0..., clamd ClamAV 1.0.9/27810/...". Blocks for ASK_SECONDS at most."""
    told = [f"reader {_reader()}", f"settings {_short(settings.model_dump_json().encode())}"]
    if settings.clamd is not None:
        told.append(f"clamd {_clamd(ClamdEngine(settings.clamd))}")
    if settings.yara is not None:
        told.append(f"yara {_yara(rules / settings.yara.folder)}")
    return ", ".join(told)


def _clamd(engine: ClamdEngine) -> str:
    try:
        return engine.version(ASK_SECONDS)
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
