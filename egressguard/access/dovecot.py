"""One model, two languages: Dovecot's configuration for the version that is installed.

Contract
    Pure. A version whose language we have not seen is refused, not guessed at.
"""

from __future__ import annotations

import re

from egressguard.access import dovecot_2_3, dovecot_2_4
from egressguard.access.model import AccessModel

Version = tuple[int, int]

_VERSION = re.compile(r"\s*(\d{1,4})\.(\d{1,4})\b")


class UnknownVersion(ValueError):
    """A Dovecot that we have no renderer for."""


def parse_version(text: str) -> Version:
    """The first two numbers of `dovecot --version`'s answer. Raises UnknownVersion."""
    found = _VERSION.match(text)
    if found is None:
        raise UnknownVersion(f"not a Dovecot version: {text[:40]!r}")
    return int(found[1]), int(found[2])


def render_dovecot(model: AccessModel, version: Version) -> str:
    """The whole configuration file. Raises UnknownVersion outside 2.3 and 2.4."""
    if version == (2, 3):
        return dovecot_2_3.render_2_3(model)
    if version == (2, 4):
        return dovecot_2_4.render_2_4(model)
    raise UnknownVersion(f"Dovecot {version[0]}.{version[1]} is not supported; 2.3 and 2.4 are")


def render_quota_users(model: AccessModel, version: Version) -> str:
    """The file of those with a quota of their own, for a version that has passed `render_dovecot`."""
    return dovecot_2_3.render_quota_users(model) if version == (2, 3) else dovecot_2_4.render_quota_users(model)
