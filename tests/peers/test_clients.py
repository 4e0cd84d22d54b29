"""Real mail clients submit on 587 (STARTTLS) and 465 (TLS), log in, and their mail is in the mailbox, word for word."""

from __future__ import annotations

import json
import shutil
import smtplib
import ssl
from collections.abc import Callable

import pytest

from tests.peers.conftest import ACCOUNT, FAR, HOST, PASSWORD, RECIPIENT, ROOT, SENDER, WRONG, Gateway, peer_of

pytestmark = pytest.mark.peers

BODY = ".begins with a dot\n..with two\nand goes on, in UTF-8: Gr\u00fc\u00dfe, \u65e5\u672c\n.\nbehind a lonely dot\n"
Client = Callable[[Gateway, str, str, str, str], tuple[bool, str]]
"""(gateway, listener, password, marker, recipient) -> whether it was sent, and what the client said"""
LISTENERS = ("submission", "submissions")


def message(marker: str, to: str = RECIPIENT) -> bytes:
    head = (
        f"From: <{SENDER}>\nTo: <{to}>\nSubject: {marker}\nMIME-Version: 1.0\n"
        "Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit\n\n"
    )
    return (head + BODY).encode()


def swaks(gateway: Gateway, listener: str, password: str, marker: str, to: str) -> tuple[bool, str]:
    tls = "--tls-on-connect" if listener == "submissions" else "--tls"
    words = ["swaks", "--server", HOST, "--port", str(gateway.port(listener)), tls, "--tls-verify"]
    words += ["--tls-ca-path", str(gateway.ca), "--tls-sni", HOST, "--auth", "PLAIN", "--auth-user", ACCOUNT]
    words += ["--auth-password", password, "--from", SENDER, "--to", to, "--data", "-", "--no-data-fixup"]
    crlf = message(marker, to).replace(b"\n", b"\r\n").replace(b"\r\n.", b"\r\n..") + b".\r\n"
    done = gateway.run(peer_of("swaks", "clients"), *words, given=crlf)
    return done.returncode == 0, done.stdout.decode(errors="replace")


def curl(gateway: Gateway, listener: str, password: str, marker: str, to: str) -> tuple[bool, str]:
    scheme = "smtps" if listener == "submissions" else "smtp"
    words = [
        "curl",
        "--silent",
        "--show-error",
        "--verbose",
        f"{scheme}://{HOST}:{gateway.port(listener)}",
        "--ssl-reqd",
    ]
    words += ["--cacert", str(gateway.ca), "--user", f"{ACCOUNT}:{password}", "--mail-from", SENDER]
    words += ["--mail-rcpt", to, "--upload-file", "-", "--crlf"]
    done = gateway.run(peer_of("curl", "clients"), *words, given=message(marker, to))
    return done.returncode == 0, done.stderr.decode(errors="replace")


def msmtp(gateway: Gateway, listener: str, password: str, marker: str, to: str) -> tuple[bool, str]:
    starttls = "off" if listener == "submissions" else "on"
    config = gateway.folder / f"msmtprc.{marker}"
    config.write_text(
        f"account default\nhost {HOST}\nport {gateway.port(listener)}\nfrom {SENDER}\ntls on\ntls_starttls {starttls}\n"
        f"tls_trust_file {gateway.ca}\nauth on\nuser {ACCOUNT}\npassword {password}\n"
    )
    config.chmod(0o600)
    words = ["msmtp", "--debug", f"--file={config}", to]
    done = gateway.run(peer_of("msmtp", "msmtp"), *words, given=message(marker, to))
    return done.returncode == 0, (done.stdout + done.stderr).decode(errors="replace")


def s_nail(gateway: Gateway, listener: str, password: str, marker: str, to: str) -> tuple[bool, str]:
    scheme = "submissions" if listener == "submissions" else "submission"
    url = f"{scheme}://{ACCOUNT}:{password}@{HOST}:{gateway.port(listener)}"
    words = ["s-nail", "-:/", "-Sv15-compat", "-Ssendwait", f"-Smta={url}", "-Ssmtp-auth=plain"]
    words += ["-Ssmtp-use-starttls"] if listener == "submission" else []
    words += [f"-Stls-ca-file={gateway.ca}", "-Stls-verify=strict", "-Sttycharset=utf-8", f"-r{SENDER}"]
    words += [f"-s{marker}", to]
    done = gateway.run(peer_of("s-nail", "clients"), *words, given=BODY.encode(), env={"HOME": str(gateway.folder)})
    return done.returncode == 0, done.stderr.decode(errors="replace")


def mutt(gateway: Gateway, listener: str, password: str, marker: str, to: str) -> tuple[bool, str]:
    scheme = "smtps" if listener == "submissions" else "smtp"
    config = gateway.folder / f"muttrc.{marker}"
    config.write_text(
        f'set smtp_url="{scheme}://{ACCOUNT}@{HOST}:{gateway.port(listener)}/"\nset smtp_pass="{password}"\n'
        f'set ssl_force_tls=yes\nset certificate_file="{gateway.ca}"\nset ssl_usesystemcerts=no\n'
        f'set from="{SENDER}"\nset copy=no\nset use_envelope_from=yes\nset charset="utf-8"\nset send_charset="utf-8"\n'
        'set allow_8bit=yes\nset sendmail_wait=0\nset smtp_authenticators="plain"\n'
    )
    words = ["mutt", "-n", "-F", str(config), "-s", marker, "--", to]
    env = {"HOME": str(gateway.folder), "LC_ALL": "C.UTF-8", "TERM": "dumb"}
    done = gateway.run(peer_of("mutt", "clients"), *words, given=BODY.encode(), env=env)
    return done.returncode == 0, (done.stdout + done.stderr).decode(errors="replace")


def nodemailer(gateway: Gateway, listener: str, password: str, marker: str, to: str) -> tuple[bool, str]:
    module = ROOT / ".peers" / "nodemailer" / "node_modules" / "nodemailer"
    if not module.exists() or shutil.which("node") is None:
        pytest.skip("needs node and nodemailer: run scripts/peers on a machine with npm")
    options = {
        "host": HOST,
        "port": gateway.port(listener),
        "secure": listener == "submissions",
        "requireTLS": True,
        "auth": {"user": ACCOUNT, "pass": password},
        "tls": {"servername": HOST},
    }
    letter = {"from": SENDER, "to": to, "subject": marker, "text": BODY}
    program = (
        f"const options = {json.dumps(options)};"
        f"options.tls.ca = require('fs').readFileSync({json.dumps(str(gateway.ca))});"
        f"require({json.dumps(str(module))}).createTransport(options).sendMail({json.dumps(letter)})"
        ".then((sent) => console.log(sent.response), (wrong) => { console.error(wrong.message); process.exit(1) })"
    )
    done = gateway.run(None, "node", "-e", program)
    return done.returncode == 0, (done.stdout + done.stderr).decode(errors="replace")


def python_smtplib(gateway: Gateway, listener: str, password: str, marker: str, to: str) -> tuple[bool, str]:
    context = ssl.create_default_context(cafile=str(gateway.ca))
    context.check_hostname = False  # smtplib asks for the name it dials, which is an address here
    place = ("127.0.0.1", gateway.port(listener))
    try:
        if listener == "submissions":
            client: smtplib.SMTP = smtplib.SMTP_SSL(*place, context=context, timeout=30)
        else:
            client = smtplib.SMTP(*place, timeout=30)
            client.starttls(context=context)
        with client:
            client.login(ACCOUNT, password)
            client.sendmail(SENDER, [to], message(marker, to).replace(b"\n", b"\r\n"), mail_options=["BODY=8BITMIME"])
    except smtplib.SMTPException as wrong:
        return False, str(wrong)
    return True, ""


def nullmailer(gateway: Gateway, listener: str, password: str, marker: str, to: str) -> tuple[bool, str]:
    """Its protocol program, as nullmailer-send runs it: options and the message on standard input."""
    tls = "ssl" if listener == "submissions" else "starttls"
    options = f"host={HOST}\nport={gateway.port(listener)}\nuser={ACCOUNT}\npass={password}\n"
    options += f"{tls}\nx509cafile={gateway.ca}\n\n"
    queued = gateway.folder / marker
    queued.write_bytes(f"{SENDER}\n{to}\n\n".encode() + message(marker, to))
    words = ["sh", "-c", f'exec "$@" 3<{queued}', "sh", "/usr/lib/nullmailer/smtp"]
    env = {"HELOHOST": "client.test.example"}
    done = gateway.run(peer_of("nullmailer-send", "clients"), *words, given=options.encode(), env=env)
    return done.returncode == 0, (done.stdout + done.stderr).decode(errors="replace")


CLIENTS: tuple[Client, ...] = (
    swaks,
    curl,
    msmtp,
    s_nail,
    mutt,
    nodemailer,
    nullmailer,
    python_smtplib,
)
COMPOSERS = (s_nail, mutt, nodemailer)
"""They make the message themselves, of a text."""


def text_of(content: bytes) -> str:
    import email
    import email.policy

    part = email.message_from_bytes(content, policy=email.policy.default).get_body()
    assert part is not None
    return str(part.get_content()).replace("\r\n", "\n")


@pytest.mark.parametrize("listener", LISTENERS)
@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.__name__)
def test_mail_is_submitted_and_arrives_word_for_word(client: Client, listener: str, gateway: Gateway) -> None:
    marker = f"{client.__name__}-{listener}"
    sent, said = client(gateway, listener, PASSWORD, marker, RECIPIENT)
    assert sent, said[-2000:]
    assert text_of(gateway.arrived(f"Subject: {marker}")).rstrip("\n") == BODY.rstrip("\n")


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.__name__)
def test_mail_goes_through_to_another_host_octet_for_octet(client: Client, gateway: Gateway) -> None:
    marker = f"{client.__name__}-far"
    sent, said = client(gateway, "submission", PASSWORD, marker, FAR)
    assert sent, said[-2000:]
    envelope_from, paths, content = gateway.went_out(f"Subject: {marker}")
    assert envelope_from.startswith(f"MAIL FROM:<{SENDER}>") and paths == [FAR]
    if client in COMPOSERS:
        assert text_of(content).rstrip("\n") == BODY.rstrip("\n")
    else:
        assert content.endswith(message(marker, FAR).replace(b"\n", b"\r\n"))  # behind the fields that we added


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.__name__)
def test_a_wrong_password_is_told(client: Client, gateway: Gateway) -> None:
    marker = f"{client.__name__}-wrong"
    sent, said = client(gateway, "submission", WRONG, marker, RECIPIENT)
    assert not sent
    assert "535" in said or "credentials" in said.lower() or "auth" in said.lower(), said[-500:]
    assert not gateway.has(f"Subject: {marker}")


def test_exim_hands_mail_over_and_hears_of_each_recipient(gateway: Gateway) -> None:
    """By BDAT, which it uses wherever CHUNKING is offered; the unknown recipient fails alone."""
    peer = peer_of("exim4", "exim")
    folder = gateway.folder / "exim"
    (folder / "spool").mkdir(parents=True)
    for place in (folder, folder / "spool"):
        place.chmod(0o777)
    config = folder / "exim.conf"
    config.write_text(
        f"primary_hostname = exim.test.example\nspool_directory = {folder}/spool\nlog_file_path = {folder}/%slog\n"
        "never_users =\ntrusted_users = root\nlog_selector = +smtp_confirmation\n"
        "begin routers\nout:\n driver = manualroute\n route_list = * 127.0.0.1 byname\n transport = smtp\n"
        " self = send\n ignore_target_hosts =\n"
        f"begin transports\nsmtp:\n driver = smtp\n port = {gateway.port('lan')}\n hosts_require_tls =\n"
        " hosts_avoid_tls = *\n allow_localhost = true\n"
    )
    config.chmod(0o644)
    words = ["exim4", "-C", str(config), "-odf", "-oi", "-f", "x@elsewhere.example", RECIPIENT, "nobody@test.example"]
    done = gateway.run(peer, *words, given=message("from-exim"))
    log = "".join(path.read_text() for path in folder.glob("*log"))
    assert done.returncode in {0, 2}, (done.stderr.decode(), log)
    assert BODY.replace("\n", "\r\n").encode() in gateway.arrived("Subject: from-exim")
    assert f"=> {RECIPIENT}" in log and " K " in log  # K: CHUNKING was used
    assert "** nobody@test.example" in log and "550 5.1.1" in log
