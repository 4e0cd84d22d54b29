"""Dovecot 2.4's configuration (Debian 13): another language for the same model."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from egressguard.access.model import AccessModel
from egressguard.access.sections import (
    AUDIT_EVENTS,
    EVERYTHING,
    ORDER_RIGHTS,
    ORDERS,
    PASSWORDS,
    QUARANTINE,
    RECIPIENT_CHARACTERS,
    SCRAM,
    SHOWN_RIGHTS,
    Lines,
    admins,
    block,
    delivering,
    instance,
    lmtp_service,
    own_namespace,
    protocols,
    render,
    security,
    sending,
    services,
    whom_it_is_shown,
)
from egressguard.policy.mailboxes import Quota


def render_2_4(model: AccessModel) -> str:
    return render(
        # Both must be the first settings. Storage stays at the first 2.4: an older 2.4 can then read it too.
        ("dovecot_config_version = 2.4.0", "dovecot_storage_version = 2.4.0"),
        instance(model),
        _switches("protocols", protocols(model)),
        security(model),
        _tls_and_login(model),
        _accounts(model),
        delivering(model),
        _mail(model),
        own_namespace(),
        _quarantine(model),
        _protocols(model),
        services(model),
        lmtp_service(model),
    )


def render_quota_users(model: AccessModel) -> str:
    """A line an account with a quota of its own, which takes the place of the one of all."""
    return "".join(
        f"{name}:::::::{' '.join(f'userdb_{setting}' for setting in _limits(quota, none='0'))}\n"
        for name, quota in model.quotas
    )


def _limits(quota: Quota, none: str = "unlimited") -> Lines:
    octets = none if quota.octets is None else f"{quota.octets}B"
    messages = none if quota.messages is None else str(quota.messages)
    return (f"quota_storage_size={octets}", f"quota_message_count={messages}")


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
    """Asked in this order; the first that says yes lets in, and the shut-out's word is final."""
    fields = (
        f"uid = {model.user}",
        f"gid = {model.group}",
        f"home = {model.mailbox_root}/%{{user}}",
    )
    # LMTP and doveadm ask without a mechanism, so that no passdb would know anybody; we ask them about accounts only.
    return (
        *_passdb("shut-out", "deny = yes", _file(model.shut_out), "auth_username_format = %{remote_ip | md5}"),
        *_passdb(
            "accounts",
            f"mechanisms_filter = {PASSWORDS}",
            _file(model.accounts),
            "default_password_scheme = ARGON2ID",
        ),
        *_passdb(
            "scram", f"mechanisms_filter = {SCRAM}", _file(model.scram), "default_password_scheme = SCRAM-SHA-256"
        ),
        *_people_of_the_system(model),
        *(_own_quotas(model, fields) if model.quotas else ()),
        *block("userdb static", ("allow_all_users = yes", *block("fields", fields))),
    )


def _own_quotas(model: AccessModel, fields: Lines) -> Lines:
    return block("userdb quotas", ("driver = passwd-file", _file(model.quota_users), *block("fields", fields)))


def _people_of_the_system(model: AccessModel) -> Lines:
    """Names that the accounts' file has are the file's alone, disabled or not."""
    if model.pam_service is None:
        return ()
    pam = ("driver = pam", f"mechanisms_filter = {PASSWORDS}", f"service_name = {model.pam_service}")
    return (*_passdb("not-ours", "deny = yes", _file(model.accounts)), *block("passdb pam", pam))


def _passdb(name: str, *settings: str) -> Lines:
    return block(f"passdb {name}", ("driver = passwd-file", *settings))


def _file(path: Path) -> str:
    return f"passwd_file_path = {path}"


def _mail(model: AccessModel) -> Lines:
    rights = ("acl_driver = vfile", "acl_globals_only = yes") if model.shows_quarantine else ()
    plugins = (*(("acl",) if model.shows_quarantine else ()), "notify", "mail_log")
    # Its driver is count, of virtual sizes: what mailbox.quota sums, too.
    quota = (*_limits_of_all(model), *block('quota "User quota"', ())) if model.has_quotas else ()
    return (
        "mail_driver = maildir",
        "mail_path = ~",
        *_switches("mail_plugins", (*plugins, *(("quota",) if model.has_quotas else ()))),
        *rights,
        *quota,
        *_switches("mail_log_events", AUDIT_EVENTS),
        *_switches("mail_log_fields", ("uid", "box", "size")),
    )


def _limits_of_all(model: AccessModel) -> Lines:
    return tuple(setting.replace("=", " = ") for setting in _limits(model.quota))


def _quarantine(model: AccessModel) -> Lines:
    state = model.quarantine_state
    own = _view(
        QUARANTINE,
        f"{model.views_root}/own/%{{user}}",
        f"{state}/own/%{{user}}",
        _rights(whom_it_is_shown(model), SHOWN_RIGHTS),
        *(block(f"mailbox {order}", _rights(whom_it_is_shown(model), ORDER_RIGHTS)) for order in ORDERS),
    )
    everything = _view(
        EVERYTHING,
        f"{model.views_root}/all",
        f"{state}/all",
        (f"mail_index_private_path = {state}/seen/%{{user}}",),
        _rights(admins(model), SHOWN_RIGHTS),
    )
    return (*(own if model.shows_quarantine else ()), *(everything if model.quarantine_admins else ()))


def _view(prefix: str, maildir: str, state: str, *more: Lines) -> Lines:
    return block(
        f"namespace {prefix.lower()}",
        (
            "type = public",
            "separator = /",
            f"prefix = {prefix}/",
            f"mail_path = {maildir}",
            f"mail_control_path = {state}/control",
            f"mail_index_path = {state}/index",
            "list = children",
            "subscriptions = no",
            *(line for lines in more for line in lines),
        ),
    )


def _rights(people: Iterable[str], rights: str) -> Lines:
    return tuple(line for who in people for line in block(f"acl {who}", (f"rights = {rights}",)))


def _protocols(model: AccessModel) -> Lines:
    return (*_imap(model), *_pop3(model), *_lmtp(model))


def _imap(model: AccessModel) -> Lines:
    if "imap" not in model.ports.protocols or not model.has_quotas:
        return ()
    return block("protocol imap", _switches("mail_plugins", ("imap_quota",)))


def _lmtp(model: AccessModel) -> Lines:
    if not model.lmtp:
        return ()
    acl = ("acl = no",) if model.shows_quarantine else ()
    sieve = ("sieve = yes",) if model.sieve else ()
    plugins = block("mail_plugins", (*acl, *sieve)) if acl or sieve else ()
    return block(
        "protocol lmtp",
        (
            *plugins,
            "lmtp_add_received_header = no",
            "auth_username_format = %{user | username | lower}",
            f"auth_username_chars = {RECIPIENT_CHARACTERS}",
            *sending(model, "%{user}"),
            *_script(model),
        ),
    )


def _script(model: AccessModel) -> Lines:
    if not model.sieve:
        return ()
    path = f"path = {model.sieve_scripts}/%{{user}}.sieve"
    # What a script sends on is the account's, and so are its bounces; none of a bounce has another.
    return ("sieve_redirect_envelope_from = recipient", *block("sieve_script personal", ("driver = file", path)))


def _pop3(model: AccessModel) -> Lines:
    if "pop3" not in model.ports.protocols:
        return ()
    acl = block("mail_plugins", ("acl = no",)) if model.shows_quarantine else ()
    return block(
        "protocol pop3",
        (
            *acl,
            "pop3_uidl_format = %{guid}",  # in a Maildir: the file's own name
            "pop3_no_flag_updates = yes",
            "pop3_lock_session = yes",  # RFC 1939 s4: exclusive
        ),
    )
