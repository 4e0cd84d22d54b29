"""Make the gateway's directories, each owned by the role that writes it and closed to all others."""

from __future__ import annotations

import grp
import os
import pwd
from pathlib import Path

from egressguard.app.children import GROUP, ROLES
from egressguard.app.places import Places
from egressguard.store.passwd import scram_file


def prepare_directories(places: Places, *, as_root: bool) -> None:
    """Create what is missing and set owner and mode; as an ordinary user everything is the user's own."""
    for path, role, mode in _wanted(places):
        path.mkdir(parents=True, exist_ok=True)
        if as_root:
            os.chown(path, *_owner(role))
        path.chmod(mode)
    if as_root:
        _share_secrets(places)


def _share_secrets(places: Places) -> None:
    """What the administrator wrote is root's, and readable for the roles' group; signing keys are not."""
    group_id = grp.getgrnam(GROUP).gr_gid
    files = (places.accounts, scram_file(places.accounts))
    for path in (*files, *_files_in(places.secrets), *_files_in(places.mailbox_rules)):
        if path.exists():
            os.chown(path, 0, group_id)
            path.chmod(0o640)
    for path in _files_in(places.signing_keys):
        os.chown(path, *_owner("relay"))
        path.chmod(0o600)


def _files_in(directory: Path) -> list[Path]:
    return [path for path in directory.iterdir() if path.is_file() and not path.is_symlink()]


def _wanted(places: Places) -> list[tuple[Path, str, int]]:
    """(directory, owning role or "", mode). 2xxx: new files take the group, which Dovecot needs."""
    return [
        (places.runtime, "", 0o2751),
        *((places.role(role.name), role.name, 0o2750) for role in ROLES),
        (places.role("keeper"), "", 0o2750),
        (places.state, "", 0o2751),
        (places.policy, "", 0o2750),
        (places.policy / "generations", "", 0o2750),
        (places.journals, "", 0o2770),
        (places.spool, "relay", 0o2700),
        (places.drop, "relay", 0o3777),
        (places.quarantine, "relay", 0o2770),
        (places.mailboxes, "relay", 0o2770),
        (places.scan_memory.parent, "", 0o2770),
        (places.secrets, "", 0o2750),
        (places.signing_keys, "", 0o2750),
        (places.tls, "", 0o2750),
        (places.accounts.parent, "", 0o2750),
        (places.mailbox_rules, "", 0o2750),
        (places.dovecot_state, "access", 0o2770),
    ]


def _owner(role_name: str) -> tuple[int, int]:
    user = next((role.user for role in ROLES if role.name == role_name), "root")
    return pwd.getpwnam(user).pw_uid, grp.getgrnam(GROUP).gr_gid
