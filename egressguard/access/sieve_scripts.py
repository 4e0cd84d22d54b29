"""Accounts' Sieve scripts: one file an account, which Dovecot runs for mail that comes by `deliver: lmtp`.

Contract
    Written whole or not at all; Dovecot takes a change with the next message.
    What is wrong with one Pigeonhole's own sievec says; where there is none, `check` says None.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import shutil
import tempfile
from pathlib import Path

from egressguard.access.dovecot import UnknownVersion
from egressguard.access.programs import ProgramFailed, answer_of, ask_version, find_programs, find_sievec
from egressguard.mailbox.account_name import is_account_name
from egressguard.mailbox.rule_files import read_bounded
from egressguard.policy.document import Fault
from egressguard.policy.mailbox_rules import MAX_OCTETS
from egressguard.store.durable import put, sync_directory

FILE_MODE = 0o640
NAME = "script"
MINIMAL = {(2, 3): "protocols =\n", (2, 4): "dovecot_config_version = 2.4.0\ndovecot_storage_version = 2.4.0\n"}
"""What sievec needs to know of Dovecot: nothing."""
_FAULT = re.compile(rf"^{NAME}: line (\d{{1,9}}): error: (.*)$", re.MULTILINE)
_MOST_FAULTS = 50


class SieveScripts:
    """Those in `directory`. All calls but `check` block."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def path(self, account: str) -> Path:
        if not is_account_name(account):
            raise ValueError(f"not an account name: {account[:80]!r}")
        return self._directory / f"{account}.sieve"

    def text(self, account: str) -> bytes | None:
        """The script as it is; None: there is none. Raises OSError."""
        try:
            return read_bounded(self.path(account))
        except FileNotFoundError:
            return None

    def write(self, account: str, content: bytes) -> None:
        """Raises OSError."""
        path = self.path(account)
        self._directory.mkdir(mode=0o2770, parents=True, exist_ok=True)
        put(path, content, temporary=path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp"), mode=FILE_MODE)
        self._forget_compiled(account)

    def clear(self, account: str) -> bool:
        """False: there was none. Raises OSError."""
        try:
            self.path(account).unlink()
        except FileNotFoundError:
            return False
        self._forget_compiled(account)
        sync_directory(self._directory)
        return True

    def _forget_compiled(self, account: str) -> None:
        """Dovecot keeps it beside the script, and goes by the two files' times."""
        with contextlib.suppress(FileNotFoundError):
            self.path(account).with_suffix(".svbin").unlink()


async def check(content: bytes, shown: str) -> list[Fault] | None:
    """What is wrong with a script, by its lines; None: nothing here can tell. Raises OSError, ProgramFailed."""
    if len(content) > MAX_OCTETS:
        return [Fault(shown, 1, 1, f"the script has more than {MAX_OCTETS} octets")]
    programs, sievec = find_programs(), find_sievec()
    if programs is None or sievec is None:
        return None
    try:
        minimal = MINIMAL[await ask_version(programs)]
    except (UnknownVersion, KeyError):
        return None
    directory = Path(tempfile.mkdtemp(prefix="egressguard-"))
    try:
        script, config = directory / f"{NAME}.sieve", directory / "dovecot.conf"
        script.write_bytes(content)
        config.write_text(minimal)
        await answer_of(sievec, "-c", config, script, directory / f"{NAME}.svbin")
    except ProgramFailed as wrong:
        if found := _faults(str(wrong), shown):
            return found
        raise
    finally:
        shutil.rmtree(directory)
    return []


def _faults(said: str, shown: str) -> list[Fault]:
    return [Fault(shown, int(line), 1, words) for line, words in _FAULT.findall(said)[:_MOST_FAULTS]]
