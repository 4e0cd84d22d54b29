"""What a server's processes use: processor time and memory, read from /proc (proc(5)).

Contract
    A server is one process and all its descendants. Nothing here stops them or slows them more than reading does.
    A process that ends while it is looked at counts as nothing; its processor time is then its parent's to report.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")


def family(root: int) -> list[int]:
    """The process `root` and its descendants, as far as they live."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (stat := _stat(int(entry.name))):
            children.setdefault(int(stat[1]), []).append(int(entry.name))
    found = [root]
    for pid in found:  # grows while it is walked
        found += children.get(pid, [])
    return found


def cpu_seconds(root: int) -> float:
    """User and system time of the family, with that of the children that it has reaped."""
    ticks = 0
    for pid in family(root):
        if stat := _stat(pid):
            ticks += sum(map(int, stat[11:15]))  # utime, stime, cutime, cstime
    return ticks / _TICKS_A_SECOND


def memory_octets(pids: list[int]) -> int:
    """The sum of the proportional set sizes: a page that n processes share counts 1/n for each."""
    return sum(_kilobytes(pid, "smaps_rollup", "Pss:") for pid in pids) * 1024


def reset_peak(pid: int) -> int:
    """Let VmHWM begin anew; the resident octets now."""
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/clear_refs").write_text("5")
    return _kilobytes(pid, "status", "VmRSS:") * 1024


def peak_octets(pid: int) -> int:
    """The most octets that were resident since `reset_peak`."""
    return _kilobytes(pid, "status", "VmHWM:") * 1024


def command_line(pid: int) -> list[str]:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    return []


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat behind the name: state, parent, ..."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    return []


def _kilobytes(pid: int, file: str, name: str) -> int:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/{file}").read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1])
    return 0
