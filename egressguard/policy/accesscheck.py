"""What does not fit in `site.access`: zones that are not there, accounts that cannot be, folders that are orders."""

from __future__ import annotations

import re
from collections.abc import Iterator

from egressguard.policy.document import Path
from egressguard.policy.model import Policy
from egressguard.policy.words import did_you_mean, one_of, quote

Found = Iterator[tuple[Path, str]]

ORDER_FOLDERS = frozenset({"Release", "Delete"})
"""Moving a message there is an order (quarantine.moves): nothing can be held in a folder of this name."""
_ACCOUNT = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


def check_access(policy: Policy) -> Found:
    access, path = policy.site.access, ("site", "access")
    for index, zone in enumerate(access.zones):
        if zone not in policy.site.zones:
            hint = did_you_mean(zone, policy.site.zones)
            words = f"unknown zone {quote(zone)}{hint}; expected {one_of(sorted(policy.site.zones))}"
            yield (*path, "zones", index), words
    for index, name in enumerate(access.quarantine_admins):
        if not _ACCOUNT.fullmatch(name):
            words = f"{quote(name)} is no account's name; expected one such as anna, in lower case"
            yield (*path, "quarantine_admins", index), words
    yield from _folders(policy)


def _folders(policy: Policy) -> Found:
    named: list[tuple[Path, str]] = [(("mail", i, "folder"), rule.folder) for i, rule in enumerate(policy.mail)]
    named += [(("limits", i, "folder"), limit.folder) for i, limit in enumerate(policy.limits)]
    if (own := policy.site.access.own_quarantine) is not None:
        named += [(("site", "access", "own_quarantine", "folders", i), folder) for i, folder in enumerate(own.folders)]
    for path, folder in named:
        if folder in ORDER_FOLDERS:
            yield path, f"moving a message to {folder} is an order; expected another folder, such as Held"
