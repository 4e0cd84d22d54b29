"""python -m tests.fuzz.run [--seconds N] [--grow] [TARGET...]: look for octets that a target falls over.

Contract
    Each target runs in a process of its own under atheris, for N seconds, from its corpus; one line tells what came
    of it. What is found lies in the corpus as `crash-...` (or `timeout-...`, `oom-...`, `slow-unit-...`), where the
    tests replay it.
    --grow adds to the corpus what reaches new code, smallest inputs first.
    Exit status: 0 nothing found, 1 something was, 2 atheris is not there.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"
TARGETS = (
    *("command", "path", "address", "parameters", "data", "bdat", "stuffing", "seven_bit"),
    *("auth", "scram", "proxy", "session", "host", "message"),
    *("archive", "document"),
)
MOST_OCTETS = 4096
UNIT_SECONDS = 25
FOUND = ("crash-", "timeout-", "oom-", "slow-unit-")
"""What libFuzzer calls it: a slow unit is one that takes more than ten seconds."""
MEMORY_MB = 1024
_ONE, _AGAIN = "_ONE_TARGET", "_ONE_TARGET_AGAIN"


def main() -> int:
    if (name := os.environ.pop(_ONE, None)) is not None:
        return _fuzz(name)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--grow", action="store_true")
    parser.add_argument("targets", nargs="*", metavar="TARGET", choices=[*TARGETS, []])
    given = parser.parse_args()
    if importlib.util.find_spec("atheris") is None:
        print("fuzz: atheris is not there (x86-64, Python 3.11 to 3.13: scripts/test installs it)", file=sys.stderr)
        return 2
    return max(_run(name, given.seconds, grow=given.grow) for name in given.targets or TARGETS)


def _run(name: str, seconds: int, *, grow: bool) -> int:
    kept = CORPUS / name
    kept.mkdir(parents=True, exist_ok=True)
    before = set(kept.iterdir())
    with tempfile.TemporaryDirectory(prefix="eg-fuzz-") as folder:
        found = Path(folder) / "found"
        found.mkdir()
        said = _atheris(name, f"-max_total_time={seconds}", f"-artifact_prefix={kept}/", str(found), str(kept))
        if grow:
            merged, again = Path(folder) / "merged", Path(folder) / "again"
            merged.mkdir()
            again.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m tests.fuzz.run "$@"\n')
            again.chmod(0o755)
            _atheris(name, "-merge=1", str(merged), str(kept), str(found), again=again)
            _keep(merged, kept)
    findings = [path for path in set(kept.iterdir()) - before if path.name.startswith(FOUND)]
    runs = re.findall(rb"Done (\d+) runs|#(\d+)", said)
    edges = re.findall(rb"cov: (\d+) ft: (\d+)", said)
    number = max((int(a or b) for a, b in runs), default=0)
    edge, feature = (x.decode() for x in edges[-1]) if edges else ("no", "no")
    print(f"{name}: {number} runs, {edge} edges, {feature} features, {len(findings)} findings", flush=True)
    if findings or not number:
        words = said.decode(errors="replace")
        _, raised, why = words.partition("=== Uncaught")
        print(why.partition("\nINFO: ")[0][:4000] if raised else words[-4000:])
    return 1 if findings or not number else 0


def _keep(merged: Path, kept: Path) -> None:
    """What the merge found worth keeping, and what was kept by hand or because it was a finding."""
    held = {path.read_bytes() for path in kept.iterdir()}
    for path in merged.iterdir():
        if path.read_bytes() not in held:
            shutil.copy(path, kept / path.name)


def _atheris(name: str, *words: str, again: Path | None = None) -> bytes:
    """What it said. `again` is the program that libFuzzer starts for each attempt at a merge."""
    limits = [f"-max_len={MOST_OCTETS}", f"-timeout={UNIT_SECONDS}", f"-rss_limit_mb={MEMORY_MB}"]
    dictionary = CORPUS.parent / "smtp.dict"
    command = [sys.executable, "-m", "tests.fuzz.run", f"-dict={dictionary}", *limits, *words]
    environment = {**os.environ, _ONE: name} | ({_AGAIN: str(again)} if again else {})
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    return done.stdout + done.stderr


def _fuzz(name: str) -> int:
    import atheris

    with atheris.instrument_imports(include=["egressguard", "aiosmtplib"]):
        from tests.fuzz.targets import TARGETS as known
    os.environ[_ONE] = name  # a merge starts this again
    atheris.Setup([os.environ.get(_AGAIN, sys.argv[0]), *sys.argv[1:]], known[name])
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
