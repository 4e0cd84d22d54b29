"""Find the installed Dovecot, and ask it what it is and whether it takes a configuration."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from egressguard.access.dovecot import Version, parse_version

HOW_TO_GET_IT = "apt install dovecot-imapd dovecot-pop3d"

_SYSTEM_DIRECTORIES = ("/usr/sbin", "/usr/local/sbin", "/usr/bin", "/usr/local/bin")
_ANSWER_SECONDS = 20
_ANSWER_OCTETS = 4096
_END_SECONDS = 2
# Nothing of our environment (NOTIFY_SOCKET, lifelines, proxies) is the mail server's business.
ENVIRONMENT = {"PATH": ":".join((*_SYSTEM_DIRECTORIES, "/bin", "/sbin")), "LC_ALL": "C"}


@dataclass(frozen=True, slots=True)
class Programs:
    dovecot: Path
    doveconf: Path
    doveadm: Path


class ProgramFailed(Exception):
    """A program did not do what it was asked; the message has its own words."""


def find_programs() -> Programs | None:
    """Dovecot's programs on PATH or in the usual system directories; None = not installed."""
    found = [_program(name) for name in ("dovecot", "doveconf", "doveadm")]
    return Programs(*(one for one in found if one)) if all(found) else None


def find_sievec() -> Path | None:
    """Pigeonhole's compiler, which knows what is wrong with a script; of dovecot-sieve."""
    return _program("sievec")


def _program(name: str) -> Path | None:
    found = shutil.which(name, path=os.pathsep.join((os.environ.get("PATH", ""), *_SYSTEM_DIRECTORIES)))
    return Path(found) if found else None


def offers_lmtp(programs: Programs) -> bool:
    """Whether its package is there: dovecot-lmtpd."""
    return (_library(programs) / "lmtp").exists()


def offers_sieve(programs: Programs) -> bool:
    """dovecot-sieve."""
    return (_library(programs) / "modules" / "lib90_sieve_plugin.so").exists()


def _library(programs: Programs) -> Path:
    return programs.dovecot.resolve().parent.parent / "lib" / "dovecot"


async def ask_version(programs: Programs) -> Version:
    """Raises ProgramFailed, UnknownVersion."""
    return parse_version(await answer_of(programs.dovecot, "--version"))


async def check_config(programs: Programs, config: Path) -> None:
    """Have doveconf(1) read `config`. Raises ProgramFailed with the line it stumbled over."""
    await answer_of(programs.doveconf, "-c", str(config), "-n")


async def answer_of(*command: str | Path, fine: Collection[int] = (0,), most_octets: int = _ANSWER_OCTETS) -> str:
    """What a command writes to standard output. Raises ProgramFailed: a status that is not `fine`, or no end."""
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=ENVIRONMENT,
        )
    except OSError as wrong:
        raise ProgramFailed(f"{command[0]}: {wrong.strerror}") from wrong
    try:
        async with asyncio.timeout(_ANSWER_SECONDS):
            out, err = await process.communicate()
    except TimeoutError:
        raise ProgramFailed(f"{command[0]}: no answer in {_ANSWER_SECONDS} seconds") from None
    finally:
        if process.returncode is None:
            await _end(process)
    if process.returncode not in fine:
        words = err[:_ANSWER_OCTETS].decode("utf-8", "replace").strip() or f"status {process.returncode}"
        raise ProgramFailed(words)
    return out[:most_octets].decode("utf-8", "replace")


async def _end(process: asyncio.subprocess.Process) -> None:
    """Kill it, and see it gone with its pipes closed: a loop that is about to close has nothing left of it."""
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    await asyncio.wait({asyncio.create_task(process.communicate())}, timeout=_END_SECONDS)
