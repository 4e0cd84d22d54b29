"""YARA rules that do not compile are faults of the rules, with file, line and column."""

from __future__ import annotations

from collections.abc import Mapping

from egressguard.policy.document import Fault
from egressguard.policy.load import yara_files
from egressguard.policy.model import Policy
from egressguard.scan.yara import RulesBroken, compiled


def yara_faults(policy: Policy, files: Mapping[str, bytes]) -> list[Fault]:
    """`files` by their names relative to the rules directory."""
    rules = {name: files[name] for name in yara_files(policy, files)}
    if not rules:
        return []
    try:
        compiled(rules)
    except RulesBroken as wrong:
        return [Fault(fault.file, fault.line, fault.column, fault.words) for fault in wrong.faults]
    return []
