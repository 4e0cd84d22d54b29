"""nft(8) as a subprocess: load, delete, list, probe. Never libnftables in this process: it can abort.

Contract
    A failed load leaves the old table as it was. Only `table inet egressguard` is ever named.
    Every trouble is an NftError of one line.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from typing import Any, BinaryIO

from egressguard.firewall.host import QueueBackend
from egressguard.firewall.table import OPEN_QUEUE_CHAIN, OWNER, QUEUE_CHAIN, TABLE
from egressguard.firewall.xt_queue import insert_queue_rule

TIMEOUT_SECONDS = 60
_PROBE = "egressguard-probe"


class NftError(Exception):
    """nft is missing, or said no; the message is its first line."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """`may_change` False comes with `why`: what is missing, and the cure."""

    may_change: bool
    queue: QueueBackend
    why: str = ""


async def load(ruleset: str, queue: QueueBackend, queue_number: int) -> None:
    """Replace our table by `ruleset` in one transaction; on "xt" kernels, then insert the NFQUEUE rules.

    A table of our name that is not ours stays, and is an NftError."""
    await _refuse_a_strangers_table()
    await _run("-f", "-", given=ruleset)
    if queue == "xt":
        try:
            insert_queue_rule(TABLE, QUEUE_CHAIN, queue_number)
            insert_queue_rule(TABLE, OPEN_QUEUE_CHAIN, queue_number + 1, bypass=True)
        except OSError as wrong:
            raise NftError(f"NFQUEUE: {wrong.strerror or wrong}; flows that need thought are dropped") from wrong


async def delete() -> bool:
    """Remove our table; False when there was none. Raises NftError, also when the table is not ours."""
    if not await exists():
        return False
    await _refuse_a_strangers_table()
    await _run("delete", "table", "inet", TABLE)
    return True


async def exists() -> bool:
    listed = json.loads(await _run("-j", "list", "tables", "inet"))
    return any(item.get("table", {}).get("name") == TABLE for item in listed["nftables"])


async def check(ruleset: str) -> None:
    """Ask the kernel whether it would take the ruleset; nothing changes. Raises NftError."""
    await _run("--check", "-f", "-", given=ruleset)


async def fingerprint() -> str:
    """A digest of what our table says: all but counts, handles, and what the kernel fills in. "" = no such table."""
    if not await exists():
        return ""
    listed = json.loads(await _run("-s", "-j", "list", "table", "inet", TABLE))["nftables"]
    return hashlib.sha256(json.dumps([_lasting(item) for item in listed], sort_keys=True).encode()).hexdigest()


def _lasting(item: dict[str, Any]) -> object:
    """What of a listed object nobody changes but by a command."""
    ((kind, value),) = item.items()
    if kind in {"metainfo", "counter"}:
        return [kind, value.get("name", "")]
    kept = {key: part for key, part in value.items() if key != "handle"}
    if kind == "set" and "timeout" in kept.get("flags", ()):
        kept.pop("elem", None)
    return [kind, kept]


async def list_table() -> str:
    """Our table as nft lists it in JSON, numbers for names. Raises NftError, also when it is not there."""
    return await _run(*_LISTING)


async def list_apart(ruleset: str) -> str:
    """The same of a ruleset that is loaded into a network namespace of its own. It needs no rights, but without them
    the kernel takes no long sets ("Message too long")."""
    script = f"nft -f - && nft {' '.join(_LISTING)}"
    rights = [] if os.geteuid() == 0 else ["--map-root-user"]
    return await _execute(["unshare", *rights, "--net", "sh", "-c", script], ruleset)


_LISTING = ("-n", "-j", "list", "table", "inet", TABLE)


async def read_set(name: str) -> dict[str, int]:
    """Element -> packets counted, of one of our sets with counters; empty when it is not there."""
    try:
        listed = json.loads(await _run("-j", "list", "set", "inet", TABLE, name))
    except NftError:
        return {}
    elements: list[Any] = next((item["set"].get("elem", []) for item in listed["nftables"] if "set" in item), [])
    counted = (element["elem"] for element in elements if isinstance(element, dict) and "elem" in element)
    return {str(each["val"]): int(each.get("counter", {}).get("packets", 0)) for each in counted}


async def _refuse_a_strangers_table() -> None:
    """Only the comment tells whose it is: nft's JSON does not have it."""
    if not await exists():
        return
    lines = (await _run("-t", "list", "table", "inet", TABLE)).splitlines()[:3]
    if not any(line.strip().startswith(f'comment "{OWNER}') for line in lines):
        raise NftError(
            f"another program's table inet {TABLE} is loaded (it has no comment of ours): rename it, or remove it "
            f"with `nft delete table inet {TABLE}`"
        )


async def change(commands: str) -> None:
    """Run commands that change our table's sets, in one transaction."""
    await _run("-f", "-", given=commands)


async def read_counters() -> dict[str, tuple[int, int]]:
    """Name -> (packets, octets) of our named counters; empty when the table is not there."""
    try:
        listed = json.loads(await _run("-j", "list", "counters", "table", "inet", TABLE))
    except NftError:
        return {}
    counters: list[dict[str, Any]] = [item["counter"] for item in listed["nftables"] if "counter" in item]
    return {c["name"]: (int(c["packets"]), int(c["bytes"])) for c in counters}


async def probe() -> Capabilities:
    """What this process may do to this kernel; changes nothing but a scratch table, which is gone after it."""
    if shutil.which("nft") is None:
        return Capabilities(False, "none", "nft is not installed: apt install nftables")
    try:
        await check(_scratch("drop"))
    except NftError as wrong:
        return Capabilities(False, "none", f"the ruleset may not be changed here ({wrong}): run as root")
    return Capabilities(True, await _probe_queue())


def _scratch(statement: str) -> str:
    return f"table inet {_PROBE} {{\n\tchain c {{\n\t\t{statement}\n\t}}\n}}\n"


async def _probe_queue() -> QueueBackend:
    try:
        await check(_scratch("queue num 1"))
        return "native"
    except NftError:
        pass
    await _run("-f", "-", given=_scratch("drop"))
    try:
        insert_queue_rule(_PROBE, "c", 1)
        return "xt"
    except OSError:
        return "none"
    finally:
        await _run("delete", "table", "inet", _PROBE)


async def check_unprivileged(ruleset: str) -> None:
    """Let nft check `ruleset` in a user and network namespace of its own; needs no rights. Raises NftError."""
    await _execute(["unshare", "--map-root-user", "--net", "nft", "--check", "-f", "-"], ruleset)


async def _run(*arguments: str, given: str = "") -> str:
    return await _execute(["nft", *arguments], given)


def _file_of(text: str) -> BinaryIO:
    """`text` to be read, without a name. (A pipe to a program that has ended already is RuntimeError in uvloop.)"""
    file = os.fdopen(os.memfd_create("egressguard-nft"), "w+b")
    file.write(text.encode())
    file.seek(0)
    return file


async def _execute(command: list[str], given: str) -> str:
    try:
        with _file_of(given) as standard_input:
            process = await asyncio.create_subprocess_exec(
                *command,
                env=os.environ | {"TZ": "UTC"},  # times in a ruleset are UTC, and nft translates from local time
                stdin=standard_input,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
    except OSError as wrong:
        raise NftError(f"{command[0]}: {wrong.strerror}") from wrong
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            out, err = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise NftError(f"nft gave no answer within {TIMEOUT_SECONDS} s") from None
    if process.returncode != 0:
        lines = [line for line in err.decode("utf-8", "replace").splitlines() if line.strip()]
        raise NftError(lines[0] if lines else f"nft ended with status {process.returncode}")
    return out.decode()
