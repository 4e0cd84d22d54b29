"""Dovecot 2.3's configuration (Debian 12)."""

from __future__ import annotations

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


def render_2_3(model: AccessModel) -> str:
    return render(
        instance(model),
        (f"protocols = {' '.join(model.ports.protocols)}",),
        security(),
        _tls_and_login(model),
        _accounts(model),
        _mail(model),
        own_namespace(),
        _quarantine(model),
        _plugin(model),
        _protocols(model),
        services(model),
    )


def render_rights(model: AccessModel) -> str:
    """The global ACL file: one line a folder pattern and admin. 2.4 has no such file."""
    return "".join(
        f"{pattern} user={admin} {ADMIN_RIGHTS}\n"
        for pattern in (QUARANTINE, f"{QUARANTINE}/*")
        for admin in model.quarantine_admins
    )


def _tls_and_login(model: AccessModel) -> Lines:
    return (
        f"ssl_cert = <{model.certificate}",
        f"ssl_key = <{model.private_key}",
        "disable_plaintext_auth = yes",
        "auth_username_format = %Lu",
        'login_log_format_elements = "user=<%u> method=%m rip=%r %c"',
    )


def _accounts(model: AccessModel) -> Lines:
    return (
        *block(
            "passdb",
            ("driver = passwd-file", f"args = scheme=ARGON2ID username_format=%u {model.accounts}"),
        ),
        *block(
            "userdb",
            ("driver = static", f"args = uid={model.user} gid={model.group} home={model.mailbox_root}/%u"),
        ),
    )


def _mail(model: AccessModel) -> Lines:
    plugins = ("acl", "notify", "mail_log") if model.quarantine_admins else ("notify", "mail_log")
    return ("mail_location = maildir:~", f"mail_plugins = {' '.join(plugins)}")


def _quarantine(model: AccessModel) -> Lines:
    if not model.quarantine_admins:
        return ()
    state = model.quarantine_state
    location = (
        f"maildir:{model.quarantine_root}",
        f"CONTROL={state}/control",
        f"INDEX={state}/index",
        f"INDEXPVT={state}/seen/%u",
    )
    return block(
        "namespace quarantine",
        (
            "type = public",
            "separator = /",
            f"prefix = {QUARANTINE}/",
            f"location = {':'.join(location)}",
            "list = children",
            "subscriptions = no",
        ),
    )


def _plugin(model: AccessModel) -> Lines:
    rights = (f"acl = vfile:{model.rights}", "acl_globals_only = yes") if model.quarantine_admins else ()
    audit = (f"mail_log_events = {' '.join(AUDIT_EVENTS)}", "mail_log_fields = uid box size")
    return block("plugin", (*rights, *audit))


def _protocols(model: AccessModel) -> Lines:
    if "pop3" not in model.ports.protocols:
        return ()
    return block(
        "protocol pop3",
        (
            "mail_plugins = notify mail_log",
            "pop3_uidl_format = %g",  # the file's own name: no client downloads all again after a re-index
            "pop3_no_flag_updates = yes",
            "pop3_lock_session = yes",  # RFC 1939 s4: exclusive
        ),
    )
