"""YARA rules, run by YARA-X over a message and over each file in it. yara-x is an extra: imported when it is needed.

Contract
    `compiled` says what is wrong with every rule file, by line and column, and raises nothing else than RulesBroken.
    Rule files include no other files. Each file's rules have a name space of their own.
    Private and global rules are YARA's own matter; every other rule that matches has found something.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from egressguard.policy.load import YARA_SUFFIXES
from egressguard.scan.archive import Member
from egressguard.scan.engine import MAX_NAMES, Answer, Seen, Subject
from egressguard.scan.engine_words import EngineDown, printable
from egressguard.scan.octets import Octets, file_of

MAX_FAULTS = 100
NOT_ALLOWED = (
    "YARA-X may not make memory executable here; expected MemoryDenyWriteExecute=no in this unit (docs/operate.md)"
)
NOT_INSTALLED = "the Python package yara-x is not installed; expected it, as `pip install egressguard[yara]` does"


@dataclass(frozen=True, slots=True)
class RuleFault:
    file: str
    line: int
    column: int
    words: str


class RulesBroken(Exception):
    def __init__(self, faults: tuple[RuleFault, ...]) -> None:
        first = faults[0]
        super().__init__(f"{first.file}:{first.line}: {first.words}")
        self.faults = faults


def compiled(files: Mapping[str, bytes]) -> Any:
    """The rules of `files` (names -> octets), to scan with. Raises RulesBroken."""
    try:
        import yara_x  # noqa: PLC0415  an extra, and large: only where rules name it
    except ImportError:
        raise RulesBroken((RuleFault(next(iter(files), ""), 1, 1, NOT_INSTALLED),)) from None
    try:
        return _compiled(yara_x, files)
    except BaseException as wrong:
        if not _is_panic(wrong):
            raise
        raise RulesBroken((RuleFault(min(files, default=""), 1, 1, NOT_ALLOWED),)) from wrong


def _is_panic(wrong: BaseException) -> bool:
    """What PyO3 raises where Rust panics: no Exception, and a class that cannot be imported."""
    return type(wrong).__name__ == "PanicException"


def _compiled(yara_x: Any, files: Mapping[str, bytes]) -> Any:
    compiler = yara_x.Compiler()
    compiler.enable_includes(False)
    faults: list[RuleFault] = []
    for name in sorted(files):
        compiler.new_namespace(name)
        told = len(compiler.errors())
        try:
            compiler.add_source(files[name].decode("utf-8"), origin=name)
        except UnicodeDecodeError:
            faults.append(RuleFault(name, 1, 1, "not UTF-8; expected a text of YARA rules"))
        except yara_x.CompileError:
            faults += [_fault(name, error) for error in compiler.errors()[told:]]
    if faults:
        raise RulesBroken(tuple(faults[:MAX_FAULTS]))
    return compiler.build()


def _fault(name: str, error: Mapping[str, Any]) -> RuleFault:
    labels = error.get("labels") or [{}]
    words = printable(f"{error.get('title', 'broken')}: {labels[0].get('text', '')}".rstrip(": "))
    return RuleFault(name, int(error.get("line") or 1), int(error.get("column") or 1), words)


def read_rule_files(folder: Path) -> dict[str, bytes]:
    """The rule files directly in `folder`, by their names. Raises OSError."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.name.endswith(YARA_SUFFIXES)}


class YaraEngine:
    """Compiled at once, so that a message does not wait for it; rules that are broken are an engine that is down."""

    def __init__(self, folder: Path) -> None:
        self._rules: Any = None
        self._digest = ""
        try:
            files = read_rule_files(folder)
            self._rules = compiled(files)
            self._digest = digest(files)
            self._trouble = ""
        except (OSError, RulesBroken) as wrong:
            self._trouble = printable(str(wrong))

    def see(self, member: Member, seen: Seen, seconds: float) -> None:
        """One file of a message, before `ask`; after trouble no further one is looked at."""
        if seen.trouble:
            return
        try:
            names = self._matches(member.content, seconds)
        except EngineDown as wrong:
            seen.trouble = str(wrong)
            return
        seen.found |= dict.fromkeys(printable(f"{name} in {' > '.join(member.path)}") for name in names)

    def ask(self, subject: Subject, seconds: float) -> Answer:
        seen = subject.seen or Seen()
        if seen.trouble:
            raise EngineDown(seen.trouble)
        found = dict.fromkeys(map(printable, self._matches(subject.content, seconds))) | seen.found
        return Answer(found=tuple(found)[:MAX_NAMES])

    def _matches(self, content: Octets, seconds: float) -> list[str]:
        if self._rules is None:
            raise EngineDown(self._trouble)
        if seconds <= 0:
            raise EngineDown("it took too long")
        import yara_x  # noqa: PLC0415

        scanner = yara_x.Scanner(self._rules)
        scanner.set_timeout(max(int(seconds), 1))
        try:
            return [rule.identifier for rule in _scanned(scanner, content).matching_rules]
        except (yara_x.ScanError, yara_x.TimeoutError) as wrong:
            raise EngineDown(printable(str(wrong))) from wrong

    def version(self, seconds: float) -> str:  # noqa: ARG002  it is known already
        if self._rules is None:
            raise EngineDown(self._trouble)
        return f"rules {self._digest}"


def _scanned(scanner: Any, content: Octets) -> Any:
    """A rule may ask for anything in a file: what is not in memory is mapped, and resident as far as it is read."""
    if isinstance(content, bytes):
        return scanner.scan(content)
    with file_of(content) as path:
        return scanner.scan_file(path)


def digest(files: Mapping[str, bytes]) -> str:
    whole = hashlib.sha256()
    for name in sorted(files):
        whole.update(b"%d %s %d\n" % (len(name.encode()), name.encode(), len(files[name])) + files[name])
    return whole.hexdigest()[:12]
