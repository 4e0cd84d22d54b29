"""Mail programs that people use read what was delivered, octet for octet, by IMAP and POP3 of the running gateway."""

from __future__ import annotations

import asyncio
import base64
import imaplib
import json
import os
import poplib
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.peers.reading import HOST, PASSWORD, ROOT, Gateway, node, until
from tests.smtp.scram_client import ScramClient

pytestmark = pytest.mark.peers

LETTERS = (
    b"From: <x@far.example>\r\nSubject: plain\r\n\r\n.dot\r\n..two dots\r\n.\r\nend\r\n",
    b"From: <x@far.example>\r\nSubject: eight bits\r\nContent-Type: text/plain; charset=x-unknown\r\n\r\n"
    b"\xff\xfe \xc3\xbc \x80\r\nFrom the start of a line\r\n",
    b"From: <x@far.example>\r\nSubject: long\r\n\r\n" + b"x" * 990 + b"\r\n\r\n\r\n",
)
Reader = Callable[[Gateway, str], list[bytes]]
"""(gateway, account) -> the messages of its inbox, as the program stored or told them"""


def program(name: str, folder: str) -> str | None:
    """Where it is: in .peers/FOLDER, or on the machine itself (None). Skips when it is nowhere."""
    if (ROOT / ".peers" / folder / "usr" / "bin" / name).exists():
        return folder
    if shutil.which(name):
        return None
    pytest.skip(f"needs {name}: run scripts/peers")


def from_maildir(path: Path) -> list[bytes]:
    return [file.read_bytes() for part in ("new", "cur") for file in (path / part).iterdir()]


def python_imaplib(gateway: Gateway, name: str) -> list[bytes]:
    with imaplib.IMAP4_SSL("127.0.0.1", gateway.port("imaps"), ssl_context=gateway.context()) as client:
        client.login(name, PASSWORD)
        client.select()
        answer = client.fetch("1:*", "(BODY.PEEK[])")[1]
        return [part[1] for part in answer if isinstance(part, tuple)]


def python_poplib(gateway: Gateway, name: str) -> list[bytes]:
    client = poplib.POP3_SSL("127.0.0.1", gateway.port("pop3s"), context=gateway.context())
    client.user(name)
    client.pass_(PASSWORD)
    found = [client.retr(number)[1] for number in range(1, client.stat()[0] + 1)]
    client.quit()
    return [b"".join(line + b"\r\n" for line in lines) for lines in found]


def imapclient(gateway: Gateway, name: str) -> list[bytes]:
    library = pytest.importorskip("imapclient")
    context = gateway.context()
    with library.IMAPClient("127.0.0.1", gateway.port("imap"), ssl=False) as client:
        client.starttls(context)
        client.login(name, PASSWORD)
        client.select_folder("INBOX", readonly=True)
        return [found[b"BODY[]"] for found in client.fetch(client.search(), ["BODY.PEEK[]"]).values()]


def aioimaplib(gateway: Gateway, name: str) -> list[bytes]:
    library = pytest.importorskip("aioimaplib")

    async def read() -> list[bytes]:
        client = library.IMAP4_SSL("127.0.0.1", gateway.port("imaps"), ssl_context=gateway.context(), timeout=30)
        await client.wait_hello_from_server()
        assert (await client.login(name, PASSWORD)).result == "OK"
        await client.select("INBOX")
        lines = (await client.fetch("1:*", "(BODY.PEEK[])")).lines
        await client.logout()
        return [bytes(line) for line in lines if isinstance(line, bytearray)]

    return asyncio.run(read())


def imapflow(gateway: Gateway, name: str) -> list[bytes]:
    module = ROOT / ".peers" / "imapflow" / "node_modules" / "imapflow"
    if not module.exists() or shutil.which("node") is None:
        pytest.skip("needs node and imapflow: run scripts/peers on a machine with npm")
    options = {"host": HOST, "port": gateway.port("imaps"), "secure": True, "logger": False}
    options["auth"] = {"user": name, "pass": PASSWORD}
    told = node(
        gateway,
        f"const {{ ImapFlow }} = require({json.dumps(str(module))});"
        f"(async () => {{ const client = new ImapFlow({json.dumps(options)}); await client.connect();"
        "await client.mailboxOpen('INBOX'); const found = [];"
        "for await (const one of client.fetch('1:*', { source: true })) found.push(one.source.toString('base64'));"
        "await client.logout(); console.log(JSON.stringify(found)); })()",
    )
    return [base64.b64decode(text) for text in told]


def mbsync(gateway: Gateway, name: str) -> list[bytes]:
    box = gateway.folder / f"{name}.mbsync"
    box.mkdir()
    config = gateway.folder / f"{name}.mbsyncrc"
    config.write_text(
        f"IMAPAccount gw\nHost {HOST}\nPort {gateway.port('imaps')}\nUser {name}\nPass {PASSWORD}\nSSLType IMAPS\n"
        f"CertificateFile {gateway.ca}\n\nIMAPStore far\nAccount gw\n\n"
        f"MaildirStore near\nPath {box}/\nInbox {box}/INBOX\n\n"
        "Channel all\nFar :far:\nNear :near:\nPatterns * !Quarantine*\nCreate Near\nSync Pull\nSyncState *\n"
    )
    done = gateway.run(program("mbsync", "readers"), "mbsync", "-c", str(config), "all")
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    assert {"Drafts", "Junk", "Sent", "Trash"} <= {path.name for path in box.iterdir()}
    return from_maildir(box / "INBOX")


def offlineimap(gateway: Gateway, name: str) -> list[bytes]:
    box = gateway.folder / f"{name}.offlineimap"
    config = gateway.folder / f"{name}.offlineimaprc"
    config.write_text(
        f"[general]\naccounts = gw\nmetadata = {gateway.folder}/{name}.metadata\nui = basic\n"
        "[Account gw]\nlocalrepository = near\nremoterepository = far\n"
        f"[Repository near]\ntype = Maildir\nlocalfolders = {box}\n"
        f"[Repository far]\ntype = IMAP\nremotehost = {HOST}\nremoteport = {gateway.port('imaps')}\n"
        f"remoteuser = {name}\nremotepass = {PASSWORD}\nssl = yes\nsslcacertfile = {gateway.ca}\nreadonly = true\n"
    )
    done = gateway.run(program("offlineimap", "readers"), "offlineimap", "-o", "-c", str(config))
    assert done.returncode == 0, (done.stdout + done.stderr).decode(errors="replace")[-2000:]
    return from_maildir(box / "INBOX")


def _getmail(gateway: Gateway, name: str, retriever: str, service: str) -> list[bytes]:
    """It delivers nothing as root."""
    box = gateway.folder / f"{name}.getmail"
    for part in ("", "new", "cur", "tmp"):
        (box / part).mkdir()
        shutil.chown(box / part, "nobody")
    config = gateway.folder / f"{name}.getmailrc"
    config.write_text(
        f"[retriever]\ntype = {retriever}\nserver = {HOST}\nport = {gateway.port(service)}\nusername = {name}\n"
        f"password = {PASSWORD}\nca_certs = {gateway.ca}\n"
        f"[destination]\ntype = Maildir\npath = {box}/\nuser = nobody\n"
        "[options]\ndelivered_to = false\nreceived = false\nread_all = true\ndelete = false\nverbose = 1\n"
    )
    config.chmod(0o600)
    words = ["getmail", f"--getmaildir={gateway.folder}", f"--rcfile={config}"]
    done = gateway.run(program("getmail", "readers"), *words)
    assert done.returncode == 0, (done.stdout + done.stderr).decode(errors="replace")[-2000:]
    return from_maildir(box)


def getmail_by_imap(gateway: Gateway, name: str) -> list[bytes]:
    return _getmail(gateway, name, "SimpleIMAPSSLRetriever", "imaps")


def getmail_by_pop3(gateway: Gateway, name: str) -> list[bytes]:
    return _getmail(gateway, name, "SimplePOP3SSLRetriever", "pop3s")


def _fetchmail(gateway: Gateway, name: str, protocol: str, service: str) -> list[bytes]:
    box = gateway.folder / f"{name}.fetchmail"
    box.mkdir()
    config = gateway.folder / f"{name}.fetchmailrc"
    config.write_text(
        f'poll {HOST} protocol {protocol} port {gateway.port(service)} user "{name}" password "{PASSWORD}" ssl '
        f'sslcertck sslcertfile "{gateway.ca}" no rewrite keep fetchall mda "cat >{box}/$$.$(date +%N)"\n'
    )
    config.chmod(0o600)
    words = ["fetchmail", "-f", str(config), "--nosyslog", "--pidfile", f"{box}.pid", "--idfile", f"{box}.ids"]
    done = gateway.run(program("fetchmail", "readers"), *words)
    assert done.returncode == 0, (done.stdout + done.stderr).decode(errors="replace")[-2000:]
    return [path.read_bytes() for path in box.iterdir()]


def fetchmail_by_imap(gateway: Gateway, name: str) -> list[bytes]:
    return _fetchmail(gateway, name, "imap", "imaps")


def fetchmail_by_pop3(gateway: Gateway, name: str) -> list[bytes]:
    return _fetchmail(gateway, name, "pop3", "pop3s")


def mutt(gateway: Gateway, name: str) -> list[bytes]:
    """Reads and saves all; it has to be shown a terminal. Where SCRAM is offered it takes nothing else."""
    until(lambda: scram_lets_in(gateway, name))
    box = gateway.folder / f"{name}.mutt"
    config = gateway.folder / f"{name}.muttrc"
    url = f"imaps://{name}@{HOST}:{gateway.port('imaps')}/"
    config.write_text(
        f'set folder="{url}"\nset spoolfile="+INBOX"\nset imap_pass="{PASSWORD}"\nset certificate_file="{gateway.ca}"\n'
        "set ssl_force_tls=yes\nset confirmcreate=no\nset confirmappend=no\nset move=no\n"
        "set mbox_type=Maildir\nset wait_key=no\nset delete=no\nset sleep_time=0\nset header_cache=\n"
        f'push "<tag-pattern>~A<enter><tag-prefix><copy-message><kill-line>{box}<enter><exit>"\n'
    )
    words = ["script", "-qec", f"mutt -n -F {config}", "/dev/null"]
    done = gateway.run(program("mutt", "clients"), *words, env={"TERM": "xterm", "LC_ALL": "C.UTF-8"})
    assert done.returncode == 0, (done.stdout + done.stderr).decode(errors="replace")[-2000:]
    return from_maildir(box)


def scram_lets_in(gateway: Gateway, name: str) -> bool:
    """Dovecot looks at its files once a second."""
    client = imaplib.IMAP4_SSL("127.0.0.1", gateway.port("imaps"), ssl_context=gateway.context())
    peer = ScramClient(name, PASSWORD)

    def answer(said: bytes) -> bytes:
        return b"" if said.startswith(b"v=") else peer.final(said) if said else peer.first()

    try:
        return client.authenticate("SCRAM-SHA-256", answer)[0] == "OK"
    except imaplib.IMAP4.error:
        return False


EXACT: tuple[Reader, ...] = (python_imaplib, python_poplib, imapclient, aioimaplib, imapflow)
"""They tell the octets as they came."""
STORING: tuple[Reader, ...] = (
    *(mbsync, offlineimap, getmail_by_imap, getmail_by_pop3, fetchmail_by_imap, fetchmail_by_pop3),
    mutt,
)
"""They store lines with a line feed, and fields of their own."""


@pytest.mark.parametrize("reader", EXACT, ids=lambda reader: reader.__name__)
def test_what_was_delivered_is_read_octet_for_octet(reader: Reader, readable: Gateway) -> None:
    name = readable.account()
    stored = readable.deliver(name, *LETTERS)

    assert reader(readable, name) == stored


ALWAYS = (mbsync, fetchmail_by_imap)


@pytest.mark.parametrize("reader", STORING, ids=lambda reader: reader.__name__)
def test_what_was_delivered_is_stored_by_mail_programs(reader: Reader, readable: Gateway) -> None:
    if reader not in ALWAYS and "EGRESSGUARD_READERS" not in os.environ:
        pytest.skip("one of the long versions: make system, or EGRESSGUARD_READERS=all")
    name = readable.account()
    stored = readable.deliver(name, *LETTERS)
    found = [body_of(content) for content in reader(readable, name)]

    assert sorted(found) == sorted(body_of(content) for content in stored)


def body_of(content: bytes) -> bytes:
    _, _, body = content.replace(b"\r\n", b"\n").partition(b"\n\n")
    return body.rstrip(b"\n")
