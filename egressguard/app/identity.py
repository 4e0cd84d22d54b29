"""What the gateway calls itself: its host name, its certificate, the user and group it runs as."""

from __future__ import annotations

import datetime
import grp
import os
import pwd
import socket
from pathlib import Path

from egressguard.app.children import ROLES
from egressguard.app.places import Places
from egressguard.policy.model import Policy
from egressguard.smtp.tls import ensure_certificate


def hostname_of(policy: Policy) -> str:
    """The relay's name: from the rules, else the machine's."""
    return policy.site.relay.hostname or socket.getfqdn() or "localhost"


def certificate_of(policy: Policy, places: Places) -> tuple[Path, Path]:
    """(certificate, private key): the ones the rules name, else the self-signed pair, made when it is missing."""
    tls = policy.site.relay.tls
    if tls.certificate is not None and tls.private_key is not None:
        return Path(tls.certificate), Path(tls.private_key)
    return ensure_certificate(places.tls, hostname_of(policy), datetime.datetime.now(datetime.UTC))


def running_user() -> str:
    return pwd.getpwuid(os.geteuid()).pw_name


def access_user_id() -> int:
    """Whom Dovecot runs as: the access role's user, where this process runs as its own role's; else this one's, whose
    all roles are then."""
    users = {role.name: role.user for role in ROLES}
    if running_user() not in users.values():
        return os.geteuid()
    return pwd.getpwnam(users["access"]).pw_uid


def running_group() -> str:
    return grp.getgrgid(os.getegid()).gr_name
