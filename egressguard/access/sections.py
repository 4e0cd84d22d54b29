"""What both generations of Dovecot's configuration language share: blocks, and the settings that kept their names.

Contract
    Pure. Text comes out in one order for one model: golden files and "did it change" both rest on it.
"""

from __future__ import annotations

from collections.abc import Iterable

from egressguard.access.model import AccessModel

Lines = tuple[str, ...]

FOLDERS = ("Drafts", "Junk", "Sent", "Trash")
"""Made and subscribed for every account; each has the SPECIAL-USE attribute of its name (RFC 6154)."""

QUARANTINE = "Quarantine"
ADMIN_RIGHTS = "lrws"  # RFC 4314: look up, read, write flags, \Seen; neither insert (i) nor delete (t, e)

# Upper case is allowed here and lowered after: the passwd-file has lower-case names only.
USER_NAME_CHARACTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"
CONNECTIONS_PER_USER_AND_ADDRESS = 20  # Dovecot's 10 is soon used up by one desktop program with many folders

AUDIT_EVENTS = ("delete", "undelete", "expunge", "mailbox_delete", "mailbox_rename")


def block(head: str, lines: Iterable[str]) -> Lines:
    """`head { lines }`, indented."""
    return (f"{head} {{", *(f"  {line}" for line in lines), "}")


def render(*parts: Lines) -> str:
    return "".join(f"{line}\n" for part in parts for line in part)


def instance(model: AccessModel) -> Lines:
    """Where it lives, whom it runs as, where it listens. Nothing is written outside base_dir and state_dir."""
    return (
        f"base_dir = {model.base_dir}",
        f"state_dir = {model.state_dir}",
        f"mail_temp_dir = {model.temporary_dir}",
        "instance_name = egressguard",
        "log_path = /dev/stderr",
        'log_timestamp = ""',
        f"listen = {', '.join(model.addresses)}",
        "login_greeting = ready",
        f"default_login_user = {model.user}",
        f"default_internal_user = {model.user}",
        f"default_internal_group = {model.group}",
        "first_valid_uid = 1",  # a system user is right here; root never is
        "first_valid_gid = 1",
        f"mail_max_userip_connections = {CONNECTIONS_PER_USER_AND_ADDRESS}",
    )


def security() -> Lines:
    """`ssl = required` also refuses plaintext AUTH before TLS, whatever the client's address but loopback."""
    return (
        "ssl = required",
        "ssl_min_protocol = TLSv1.2",  # RFC 8996 forbids what is older
        "auth_mechanisms = plain login",
        f"auth_username_chars = {USER_NAME_CHARACTERS}",
    )


def own_namespace() -> Lines:
    folders = (
        line
        for folder in FOLDERS
        for line in block(f"mailbox {folder}", ("auto = subscribe", f"special_use = \\{folder}"))
    )
    return block("namespace inbox", ("inbox = yes", "separator = /", "prefix =", *folders))


def services(model: AccessModel) -> Lines:
    """One login service a protocol. Empty `chroot`: an ordinary user may not call chroot(2)."""
    parts = [_login_service(model, protocol) for protocol in model.ports.protocols]
    parts.append(block("service anvil", ("chroot =",)))
    return tuple(line for part in parts for line in part)


def _login_service(model: AccessModel, protocol: str) -> Lines:
    """A listener that is left out would get Dovecot's default port: port 0 turns it off."""
    ports = dict(model.ports.items())
    plain = block(f"inet_listener {protocol}", (f"port = {ports.get(protocol, 0)}",))
    implicit = block(f"inet_listener {protocol}s", (f"port = {ports.get(f'{protocol}s', 0)}", "ssl = yes"))
    return block(f"service {protocol}-login", ("chroot =", *plain, *implicit))
