"""Read a directory of rule files from disk; what they mean is policy.load's matter."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from egressguard.policy.document import Fault
from egressguard.policy.expand import OVERLAYS
from egressguard.policy.load import Loaded, parse_rules

MAX_FILES = 2000
MAX_FILE_OCTETS = 8 * 1024 * 1024
MAX_TOTAL_OCTETS = 64 * 1024 * 1024
EXPECTATIONS = "expect"
"""The folder of expectations; what lies in it is no rule."""


def read_rules(directory: Path, site: str = "", *, compiles: bool = True) -> tuple[Loaded, Mapping[str, bytes]]:
    """The policy of a directory and the files it was read from, by their paths as faults name them.

    What cannot be read is a fault at line 1, like any other. `compiles`: YARA rules are compiled, to find their
    faults; not for a copy that was checked."""
    contents, faults = read_files(directory)
    loaded = Loaded(None) if faults and not contents else parse_rules(contents, site)
    if compiles and loaded.policy is not None and loaded.policy.site.scan.yara is not None:
        from egressguard.app.yara_faults import yara_faults  # noqa: PLC0415  most rules have none

        if broken := yara_faults(loaded.policy, contents):
            loaded = Loaded(None, tuple(broken))
    placed = tuple(replace(fault, file=_display(directory, fault.file)) for fault in loaded.faults)
    files = {str(directory / name): content for name, content in contents.items()}
    return (Loaded(None, (*faults, *placed)) if faults else Loaded(loaded.policy, placed)), files


def _display(directory: Path, name: str) -> str:
    return str(directory) if name == "(rules)" else str(directory / name)


def read_files_below(directory: Path) -> tuple[dict[str, bytes], list[Fault]]:
    """All files below `directory` but hidden ones, by their names relative to it; what cannot be read is a fault."""
    try:
        return _contents(directory, sorted(_walk(directory, directory.parent)))
    except OSError as wrong:
        return {}, [Fault(str(directory), 1, 1, f"{wrong.strerror}; expected a directory")]


def read_files(directory: Path) -> tuple[dict[str, bytes], list[Fault]]:
    """All files below `directory` that rules may name, by their names relative to it."""
    try:
        paths = sorted(_walk(directory, directory))
    except OSError as wrong:
        return {}, [Fault(str(directory), 1, 1, f"{wrong.strerror}; expected a directory of rule files (*.yaml)")]
    if not any(path.suffix in {".yaml", ".yml"} for path in paths):
        words = "no rule files; expected at least one *.yaml with a `site:` section"
        return {}, [Fault(str(directory), 1, 1, words)]
    return _contents(directory, paths)


def _contents(directory: Path, paths: Sequence[Path]) -> tuple[dict[str, bytes], list[Fault]]:
    contents: dict[str, bytes] = {}
    faults: list[Fault] = []
    room = MAX_TOTAL_OCTETS
    for path in paths[:MAX_FILES]:
        try:
            content = _read(path, min(room, MAX_FILE_OCTETS))
        except OSError as wrong:
            faults.append(Fault(str(path), 1, 1, f"{wrong.strerror or wrong}; expected a readable rule file"))
            continue
        contents[str(path.relative_to(directory))] = content
        room -= len(content)
    return contents, faults


def _walk(directory: Path, top: Path) -> Iterator[Path]:
    """Files below `directory`, less the hidden ones and the expectations."""
    for path in directory.iterdir():
        if path.name.startswith(".") or (path.name == EXPECTATIONS and _is_place_of_rules(directory, top)):
            continue
        if path.is_dir() and not path.is_symlink():
            yield from _walk(path, top)
        else:
            yield path


def _is_place_of_rules(directory: Path, top: Path) -> bool:
    """The rules directory itself, or an overlay in it: where a folder `expect` holds expectations."""
    return directory == top or directory.parent == top / OVERLAYS


def _read(path: Path, most: int) -> bytes:
    with path.open("rb") as file:
        if not os.fstat(file.fileno()).st_size <= most:
            raise OSError(0, f"larger than {most} octets")
        return file.read(most + 1)


def write_snapshot(files: Mapping[str, bytes], source: Path, directory: Path) -> None:
    """Replace `directory` by a readable copy of `files` (below `source`), so that all roles load the same policy."""
    fresh = directory.with_name(f"{directory.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(mode=0o755)
    for name, content in files.items():
        target = fresh / Path(name).relative_to(source)
        target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        target.write_bytes(content)
        target.chmod(0o644)
    old = directory.with_name(f"{directory.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if directory.exists():
        directory.rename(old)
    fresh.rename(directory)
    shutil.rmtree(old, ignore_errors=True)
