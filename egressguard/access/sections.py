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

QUARANTINE, EVERYTHING = "Quarantine", "Quarantine-all"
"""The user's own view of what is held, and the admins'. Neither name may be the beginning of the other's pattern."""
ORDERS = ("Release", "Delete")
SHOWN_RIGHTS = "lrwse"
"""RFC 4314: look up, read, write flags, \\Seen, and e, which MOVE needs; without t nothing can be marked \\Deleted, so
EXPUNGE finds nothing. What MOVE takes away is a link."""
ORDER_RIGHTS = "lrsi"
"""i: COPY and MOVE to here. APPEND needs the same; what was appended is nothing that is held, and goes."""

# Upper case is allowed here and lowered after: the passwd-file has lower-case names only.
USER_NAME_CHARACTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"

RECIPIENT_CHARACTERS = f"{USER_NAME_CHARACTERS}@"
"""LMTP is given addresses: the account is what stands before the "@"."""

AUDIT_EVENTS = ("copy", "save", "delete", "undelete", "expunge", "mailbox_delete", "mailbox_rename")


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
        f"mail_max_userip_connections = {model.max_user_sessions}",
        f"default_client_limit = {_client_limit(model)}",
    )


def security(model: AccessModel) -> Lines:
    """`ssl = required` also refuses plaintext AUTH before TLS, whatever the client's address but loopback."""
    return (
        "ssl = required",
        "ssl_min_protocol = TLSv1.2",  # RFC 8996 forbids what is older
        f"auth_mechanisms = {PASSWORDS} {SCRAM}" if model.offers_scram else f"auth_mechanisms = {PASSWORDS}",
        f"auth_username_chars = {USER_NAME_CHARACTERS}",
    )


PASSWORDS = "plain login"
SCRAM = "scram-sha-256"


def whom_it_is_shown(model: AccessModel) -> tuple[str, ...]:
    """ACL identifiers of those who have a folder "Quarantine"."""
    return ("authenticated",) if model.owners_see else admins(model)


def admins(model: AccessModel) -> tuple[str, ...]:
    return tuple(f"user={admin}" for admin in model.quarantine_admins)


def own_namespace() -> Lines:
    folders = (
        line
        for folder in FOLDERS
        for line in block(f"mailbox {folder}", ("auto = subscribe", f"special_use = \\{folder}"))
    )
    return block("namespace inbox", ("inbox = yes", "separator = /", "prefix =", *folders))


def protocols(model: AccessModel) -> tuple[str, ...]:
    return (*model.ports.protocols, *(("lmtp",) if model.lmtp else ()))


def delivering(model: AccessModel) -> Lines:
    """What LMTP and quotas need of the whole. A full account makes mail wait (452), as at our RCPT."""
    separator = (f'recipient_delimiter = "{model.separator}"',) if model.lmtp else ()
    postmaster = (f"postmaster_address = {model.postmaster}",) if model.lmtp and model.postmaster else ()
    return (*separator, *postmaster, *(("quota_full_tempfail = yes",) if model.has_quotas else ()))


def sending(model: AccessModel, account: str) -> Lines:
    """How what a Sieve script sends gets to the relay; `account` is how the language writes whose script it is."""
    return (f"sendmail_path = {' '.join(model.sends)} {account}",) if model.sieve and model.sends else ()


def lmtp_service(model: AccessModel) -> Lines:
    """A socket for the relay, which is of our group."""
    if not model.lmtp:
        return ()
    owner = ("mode = 0660", f"user = {model.user}", f"group = {model.group}")
    return block("service lmtp", block("unix_listener lmtp", owner))


def services(model: AccessModel) -> Lines:
    """One login service a protocol. Empty `chroot`: an ordinary user may not call chroot(2)."""
    parts = [part for protocol in model.ports.protocols for part in _services_of(model, protocol)]
    # Dovecot's own penalty would make all people behind an address wait for one stale password: see access.shut_out.
    parts.append(block("service anvil", ("chroot =", *block("unix_listener anvil-auth-penalty", ("mode = 0",)))))
    return tuple(line for part in parts for line in part)


def _services_of(model: AccessModel, protocol: str) -> tuple[Lines, Lines]:
    """A process each for a connection and its session: what one client breaks is its own.

    A listener that is left out would get Dovecot's default port: port 0 turns it off."""
    ports = dict(model.ports.items())
    plain = block(f"inet_listener {protocol}", (f"port = {ports.get(protocol, 0)}",))
    implicit = block(f"inet_listener {protocol}s", (f"port = {ports.get(f'{protocol}s', 0)}", "ssl = yes"))
    most = f"process_limit = {model.max_sessions}"
    login = block(f"service {protocol}-login", ("chroot =", most, *plain, *implicit))
    return login, block(f"service {protocol}", (most,))


def _client_limit(model: AccessModel) -> int:
    """What anvil and auth must be able to hold: each login process and each session is their client."""
    return max(1000, 4 * model.max_sessions * len(model.ports.protocols) + 100)
