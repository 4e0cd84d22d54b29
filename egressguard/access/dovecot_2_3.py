"""Dovecot 2.3's configuration (Debian 12)."""

from __future__ import annotations

from egressguard.access.model import AccessModel
from egressguard.access.sections import (
    AUDIT_EVENTS,
    EVERYTHING,
    ORDER_RIGHTS,
    ORDERS,
    PASSWORDS,
    QUARANTINE,
    SCRAM,
    SHOWN_RIGHTS,
    Lines,
    admins,
    block,
    instance,
    own_namespace,
    render,
    security,
    services,
    whom_it_is_shown,
)


def render_2_3(model: AccessModel) -> str:
    return render(
        instance(model),
        (f"protocols = {' '.join(model.ports.protocols)}",),
        security(model),
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
    """The global ACL file: one line a folder pattern and identifier. 2.4 has no such file."""
    own = [(QUARANTINE, "l"), (f"{QUARANTINE}/*", SHOWN_RIGHTS)]
    own += [(f"{QUARANTINE}/{order}", ORDER_RIGHTS) for order in ORDERS]
    everything = [(EVERYTHING, "l"), (f"{EVERYTHING}/*", SHOWN_RIGHTS)]
    parts = ((own, whom_it_is_shown(model)), (everything, admins(model)))
    return "".join(
        f"{pattern} {who} {rights}\n" for patterns, people in parts for pattern, rights in patterns for who in people
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
    """Asked in this order; the first that says yes lets in, and the shut-out's word is final."""
    return (
        *_passdb("driver = passwd-file", "deny = yes", f"args = username_format=%Mr {model.shut_out}"),
        *_passdb(
            "driver = passwd-file",
            f"mechanisms = {PASSWORDS}",
            f"args = scheme=ARGON2ID username_format=%u {model.accounts}",
        ),
        *_passdb(
            "driver = passwd-file",
            f"mechanisms = {SCRAM}",
            f"args = scheme=SCRAM-SHA-256 username_format=%u {model.scram}",
        ),
        *_people_of_the_system(model),
        *block(
            "userdb",
            ("driver = static", f"args = uid={model.user} gid={model.group} home={model.mailbox_root}/%u"),
        ),
    )


def _people_of_the_system(model: AccessModel) -> Lines:
    """Names that the accounts' file has are the file's alone, disabled or not."""
    if model.pam_service is None:
        return ()
    return (
        *_passdb("driver = passwd-file", "deny = yes", f"args = username_format=%u {model.accounts}"),
        *_passdb("driver = pam", f"mechanisms = {PASSWORDS}", f"args = {model.pam_service}"),
    )


def _passdb(*settings: str) -> Lines:
    return block("passdb", settings)


def _mail(model: AccessModel) -> Lines:
    plugins = ("acl", "notify", "mail_log") if model.shows_quarantine else ("notify", "mail_log")
    return ("mail_location = maildir:~", f"mail_plugins = {' '.join(plugins)}")


def _quarantine(model: AccessModel) -> Lines:
    state = model.quarantine_state
    own = _view(QUARANTINE, f"{model.views_root}/own/%u", f"{state}/own/%u")
    private = f":INDEXPVT={state}/seen/%u"
    everything = _view(EVERYTHING, f"{model.views_root}/all", f"{state}/all", private)
    return (*(own if model.shows_quarantine else ()), *(everything if model.quarantine_admins else ()))


def _view(prefix: str, maildir: str, state: str, private: str = "") -> Lines:
    return block(
        f"namespace {prefix.lower()}",
        (
            "type = public",
            "separator = /",
            f"prefix = {prefix}/",
            f"location = maildir:{maildir}:CONTROL={state}/control:INDEX={state}/index{private}",
            "list = children",
            "subscriptions = no",
        ),
    )


def _plugin(model: AccessModel) -> Lines:
    rights = (f"acl = vfile:{model.rights}", "acl_globals_only = yes") if model.shows_quarantine else ()
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
