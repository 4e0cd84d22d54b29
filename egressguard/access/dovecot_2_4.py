"""Dovecot 2.4's configuration (Debian 13): another language for the same model."""

from __future__ import annotations

from collections.abc import Iterable

from egressguard.access.model import AccessModel
from egressguard.access.sections import (
    ADMIN_RIGHTS,
    AUDIT_EVENTS,
    QUARANTINE,
    Lines,
    block,
    instance,
    own_namespace,
    render,
    security,
    services,
)


def render_2_4(model: AccessModel) -> str:
    return render(
        # Both must be the first settings. Storage stays at the first 2.4: an older 2.4 can then read it too.
        ("dovecot_config_version = 2.4.0", "dovecot_storage_version = 2.4.0"),
        instance(model),
        _switches("protocols", model.ports.protocols),
        security(),
        _tls_and_login(model),
        _accounts(model),
        _mail(model),
        own_namespace(),
        _quarantine(model),
        _protocols(model),
        services(model),
    )


def _switches(name: str, words: Iterable[str]) -> Lines:
    return block(name, (f"{word} = yes" for word in words))


def _tls_and_login(model: AccessModel) -> Lines:
    return (
        f"ssl_server_cert_file = {model.certificate}",
        f"ssl_server_key_file = {model.private_key}",
        "auth_allow_cleartext = no",
        "auth_username_format = %{user | lower}",
        'login_log_format_elements = "user=<%{user}> method=%{mechanism} rip=%{remote_ip} %{secured}"',
    )


def _accounts(model: AccessModel) -> Lines:
    fields = (
        f"uid = {model.user}",
        f"gid = {model.group}",
        f"home = {model.mailbox_root}/%{{user}}",
    )
    return (
        *block(
            "passdb passwd-file",
            (f"passwd_file_path = {model.accounts}", "default_password_scheme = ARGON2ID"),
        ),
        *block("userdb static", block("fields", fields)),
    )


def _mail(model: AccessModel) -> Lines:
    rights = ("acl_driver = vfile", "acl_globals_only = yes") if model.quarantine_admins else ()
    plugins = ("acl", "notify", "mail_log") if model.quarantine_admins else ("notify", "mail_log")
    return (
        "mail_driver = maildir",
        "mail_path = ~",
        *_switches("mail_plugins", plugins),
        *rights,
        *_switches("mail_log_events", AUDIT_EVENTS),
        *_switches("mail_log_fields", ("uid", "box", "size")),
    )


def _quarantine(model: AccessModel) -> Lines:
    if not model.quarantine_admins:
        return ()
    state = model.quarantine_state
    return block(
        "namespace quarantine",
        (
            "type = public",
            "separator = /",
            f"prefix = {QUARANTINE}/",
            f"mail_path = {model.quarantine_root}",
            f"mail_control_path = {state}/control",
            f"mail_index_path = {state}/index",
            f"mail_index_private_path = {state}/seen/%{{user}}",
            "list = children",
            "subscriptions = no",
            *_rights(model),
        ),
    )


def _rights(model: AccessModel) -> Lines:
    return tuple(
        line for admin in model.quarantine_admins for line in block(f"acl user={admin}", (f"rights = {ADMIN_RIGHTS}",))
    )


def _protocols(model: AccessModel) -> Lines:
    if "pop3" not in model.ports.protocols:
        return ()
    acl = block("mail_plugins", ("acl = no",)) if model.quarantine_admins else ()
    return block(
        "protocol pop3",
        (
            *acl,
            "pop3_uidl_format = %{guid}",  # in a Maildir: the file's own name
            "pop3_no_flag_updates = yes",
            "pop3_lock_session = yes",  # RFC 1939 s4: exclusive
        ),
    )
