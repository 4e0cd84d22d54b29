"""Stand before a program that greets `* OK` though it is logged in, and say `* PREAUTH` for it: greet.py COMMAND."""

from __future__ import annotations

import os
import select
import subprocess
import sys


def main() -> None:
    program = subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE)
    assert program.stdout is not None
    greeting = program.stdout.readline()
    assert greeting.startswith(b"* OK"), greeting
    say(b"* PREAUTH ready\r\n")
    while octets := program.stdout.read1(65536):
        say(octets)


def say(octets: bytes) -> None:
    """mbsync's pipe does not block."""
    view = memoryview(octets)
    while view:
        select.select((), (1,), ())
        view = view[os.write(1, view) :]


if __name__ == "__main__":
    main()
