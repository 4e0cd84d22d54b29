"""With what a message was looked at: another text as soon as other code, settings or signatures may judge it."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

from egressguard.policy.site import Clamd, Scan
from egressguard.scan.clamd import clamd_version
from egressguard.scan.examine import ScannerDown


def edition(settings: Scan) -> str:
    """Blocks for as long as the engines are given to answer. One that does not say its version is "?"."""
    told = [f"reader {_reader()}", f"settings {_short(settings.model_dump_json().encode())}"]
    if settings.clamd is not None:
        told.append(f"clamd {_version(settings.clamd)}")
    return ", ".join(told)


def _version(clamd: Clamd) -> str:
    try:
        return clamd_version(clamd)
    except ScannerDown:
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
