"""Secrets that rule files only name: "file:PATH", relative to a directory that only the gateway reads."""

from __future__ import annotations

from pathlib import Path

SECRET_OCTETS = 4096


def read_secret(reference: str, directory: Path) -> str:
    """The first line of the file. Blocks; raises OSError, ValueError (no UTF-8)."""
    with (directory / reference.removeprefix("file:")).open(encoding="utf-8") as file:
        return file.readline(SECRET_OCTETS).rstrip("\r\n")
