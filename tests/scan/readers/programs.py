"""Programs that unpack one message into a folder and end: programs.py NAME; the contract is in __init__.py.

Stands alone, for the system's Python.
"""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

SECONDS = 1.5
"""Less than the asker waits: so the program's end is seen, and what it had written until then is the answer."""

MOST_SECTIONS = 20
UNPACKERS = {
    "ripmime": ("ripmime", "-i", "MESSAGE", "-d", ".", "--overwrite"),
    "munpack": ("munpack", "-q", "-f", "-t", "-C", ".", "MESSAGE"),
    "uudeview": ("uudeview", "-q", "-i", "-o", "-p", ".", "MESSAGE"),
    "mshow": ("mshow", "-x", "MESSAGE"),
}
_SECTION = re.compile(rb"^section: (\S+)$", re.MULTILINE)
_NAME = re.compile(rb"^content-(?:disposition-filename|name): (.*)$", re.MULTILINE)
Found = Iterator[tuple[bytes, bytes]]
"""Names and contents"""


def unpacked(name: str, path: str, folder: Path) -> Found:
    run(*(path if word == "MESSAGE" else word for word in UNPACKERS[name]), folder=folder)
    for file in folder.rglob("*"):
        if file.is_file() and not file.is_symlink():
            yield bytes(file.relative_to(folder)), file.read_bytes()


def by_reformime(path: str, folder: Path) -> Found:
    """It tells of the sections first, and takes out one at a time."""
    for section in run("reformime", "-i", message=path, folder=folder).split(b"\n\n")[:MOST_SECTIONS]:
        number = _SECTION.search(section)
        if number is None:
            continue
        is_leaf = b"content-type: multipart/" not in section
        words = ("reformime", "-s", number[1].decode(), "-e")
        yield b"", run(*words, message=path, folder=folder) if is_leaf else b""
        yield from ((name, b"") for name in _NAME.findall(section))


def run(*words: str, folder: Path, message: str = "/dev/null") -> bytes:
    """What it printed; b"" = it did not end in time, or could not be run."""
    with Path(message).open("rb") as given:
        try:
            done = subprocess.run(
                words,
                check=False,
                stdin=given,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd=folder,
                timeout=SECONDS,
            )
        except (OSError, subprocess.TimeoutExpired):
            return b""
    return done.stdout


def found(name: str, path: str) -> list[tuple[str, str]]:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        files = by_reformime(path, Path(folder)) if name == "reformime" else unpacked(name, path, Path(folder))
        return [(base64.b64encode(each).decode(), base64.b64encode(content).decode()) for each, content in files]


def main() -> None:
    for line in sys.stdin:
        try:
            answer = found(sys.argv[1], line.rstrip("\n"))
        except OSError:
            answer = []
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
