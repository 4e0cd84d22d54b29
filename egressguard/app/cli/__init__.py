"""The `egressguard` command. Verbs come after nouns (`queue list`); each module here is one noun.

Exit codes: 0 done, 1 failed or faults found, 2 wrong usage, 3 the daemon does not answer,
4 permission denied, 5 not found, 6 refused by policy, 75 temporary trouble: try again.
"""

from __future__ import annotations

from egressguard.app.cli.main import main

__all__ = ["main"]
