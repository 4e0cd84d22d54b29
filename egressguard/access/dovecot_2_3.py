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


def render_2_3(model: AccessModel) -> str:
    return render(
        instance(model),
        (f"protocols = {' '.join(protocols(model))}",),
        security(model),
        _tls_and_login(model),
        _accounts(model),
        delivering(model),
        _mail(model),
        own_namespace(),
        _quarantine(model),
        _plugin(model),
        _protocols(model),
        services(model),
        lmtp_service(model),
    )


def render_quota_users(model: AccessModel) -> str:
    """A line an account with a quota of its own; one without limits has none, whatever all others have."""
    return "".join(f"{name}:::::::userdb_quota_rule={_rule(quota) or '*:storage=0'}\n" for name, quota in model.quotas)


def _rule(quota: Quota) -> str:
    octets = "" if quota.octets is None else f":storage={quota.octets}B"
    return f"*{octets}" + ("" if quota.messages is None else f":messages={quota.messages}") if quota.limits else ""


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
    # LMTP and doveadm ask without a mechanism, so that no passdb would know anybody; we ask them about accounts only.
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
        *_own_quotas(model),
        *block("userdb", ("driver = static", f"args = {_whose(model)} allow_all_users=yes")),
    )


def _whose(model: AccessModel) -> str:
    return f"uid={model.user} gid={model.group} home={model.mailbox_root}/%u"


def _own_quotas(model: AccessModel) -> Lines:
    if not model.quotas:
        return ()
    args = f"args = username_format=%u {model.quota_users}"
    return block("userdb", ("driver = passwd-file", args, f"override_fields = {_whose(model)}"))


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
    plugins = (*(("acl",) if model.shows_quarantine else ()), *_plugins(model))
    return ("mail_location = maildir:~", f"mail_plugins = {' '.join(plugins)}")


def _plugins(model: AccessModel) -> tuple[str, ...]:
    """Of every protocol."""
    return ("notify", "mail_log", *(("quota",) if model.has_quotas else ()))


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
    quota: Lines = ()
    if model.has_quotas:
        rule = _rule(model.quota)
        # Virtual sizes, of the files as they are: what mailbox.quota sums, too.
        quota = ("quota = count:User quota", "quota_vsizes = yes", *((f"quota_rule = {rule}",) if rule else ()))
    sieve: Lines = ()
    if model.sieve:
        # What a script sends on is the account's, and so are its bounces; none of a bounce has another.
        sieve = (f"sieve = file:{model.sieve_scripts}/%u.sieve", "sieve_redirect_envelope_from = recipient")
    return block("plugin", (*rights, *audit, *quota, *sieve))


def _protocols(model: AccessModel) -> Lines:
    return (*_imap(model), *_pop3(model), *_lmtp(model))


def _imap(model: AccessModel) -> Lines:
    if "imap" not in model.ports.protocols or not model.has_quotas:
        return ()
    return block("protocol imap", ("mail_plugins = $mail_plugins imap_quota",))


def _lmtp(model: AccessModel) -> Lines:
    if not model.lmtp:
        return ()
    plugins = " ".join((*_plugins(model), *(("sieve",) if model.sieve else ())))
    return block(
        "protocol lmtp",
        (
            f"mail_plugins = {plugins}",
            "lmtp_add_received_header = no",
            "auth_username_format = %Ln",
            f"auth_username_chars = {RECIPIENT_CHARACTERS}",
            *sending(model, "%u"),
        ),
    )


def _pop3(model: AccessModel) -> Lines:
    if "pop3" not in model.ports.protocols:
        return ()
    return block(
        "protocol pop3",
        (
            f"mail_plugins = {' '.join(_plugins(model))}",
            "pop3_uidl_format = %g",  # the file's own name: no client downloads all again after a re-index
            "pop3_no_flag_updates = yes",
            "pop3_lock_session = yes",  # RFC 1939 s4: exclusive
        ),
    )
