"""Read a directory of rule files from disk; what they mean is policy.load's matter."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from egressguard.policy.document import Fault
from egressguard.policy.load import Loaded, parse_rules

MAX_FILES = 1000
MAX_FILE_OCTETS = 8 * 1024 * 1024


def read_rules(directory: Path) -> tuple[Loaded, Mapping[str, bytes]]:
    """Parse every *.yaml of `directory`. What cannot be read is a fault at line 1, like any other."""
    files: dict[str, bytes] = {}
    faults: list[Fault] = []
    try:
        paths = sorted(p for p in directory.iterdir() if p.suffix in {".yaml", ".yml"})
    except OSError as wrong:
        fault = Fault(str(directory), 1, 1, f"{wrong.strerror}; expected a directory of rule files (*.yaml)")
        return Loaded(None, (fault,)), files
    if not paths:
        fault = Fault(str(directory), 1, 1, "no rule files; expected at least one *.yaml with a `site:` section")
        return Loaded(None, (fault,)), files
    for path in paths[:MAX_FILES]:
        try:
            files[str(path)] = _read(path)
        except OSError as wrong:
            faults.append(Fault(str(path), 1, 1, f"{wrong.strerror or wrong}; expected a readable rule file"))
    loaded = parse_rules(files)
    return (Loaded(None, (*faults, *loaded.faults)) if faults else loaded), files


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        if not os.fstat(file.fileno()).st_size <= MAX_FILE_OCTETS:
            raise OSError(0, f"larger than {MAX_FILE_OCTETS} octets")
        return file.read(MAX_FILE_OCTETS + 1)


def write_snapshot(files: Mapping[str, bytes], directory: Path) -> None:
    """Replace `directory` by a readable copy of `files`, so that all roles load the same policy."""
    fresh = directory.with_name(f"{directory.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(mode=0o755)
    for name, content in files.items():
        target = fresh / Path(name).name
        target.write_bytes(content)
        target.chmod(0o644)
    old = directory.with_name(f"{directory.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if directory.exists():
        directory.rename(old)
    fresh.rename(directory)
    shutil.rmtree(old, ignore_errors=True)
