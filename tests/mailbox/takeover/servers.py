"""Real mail servers over pipes: no port, no network, no account. Each reads one home directory and is logged in.

Dovecot's imap and pop3, Courier's, and UW IMAP's mailutil (the latter two from .peers). As root they run as nobody.
"""

from __future__ import annotations

import contextlib
import imaplib
import os
import pwd
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

PEERS = Path(__file__).parents[3] / ".peers"
IS_ROOT = os.geteuid() == 0
USER = pwd.getpwnam("nobody") if IS_ROOT else pwd.getpwuid(os.geteuid())
AS_USER = ("setpriv", f"--reuid={USER.pw_uid}", f"--regid={USER.pw_gid}", "--clear-groups") if IS_ROOT else ()
OWNER = (USER.pw_uid, USER.pw_gid) if IS_ROOT else None
DOVECOT = Path("/usr/lib/dovecot")
SPECIAL = {b"\\Recent"}
AT_ONCE = 200
"""Messages that are fetched with one command."""


def needs_dovecot():
    if not (DOVECOT / "imap").exists():
        pytest.skip("needs Dovecot: apt install dovecot-imapd dovecot-pop3d")


def peer(name, file):
    tree = PEERS / name
    if not (tree / file).exists():
        pytest.skip(f"needs {name}: run scripts/peers")
    return tree


def give(path):
    """To the user that the servers run as."""
    if IS_ROOT:
        subprocess.run(["chown", "-R", f"{USER.pw_uid}:{USER.pw_gid}", str(path)], check=True)
    return path


class Session(imaplib.IMAP4):
    """IMAP over a program's pipes."""

    def __init__(self, command, env, cwd):
        self.command, self.env, self.cwd = command, env, cwd
        super().__init__()
        self.state = "AUTH"  # Courier does not say PREAUTH

    def open(self, host="", port=0, timeout=None):
        self.program = subprocess.Popen(
            self.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=self.env,
            cwd=self.cwd,
        )

    def read(self, size):
        return self.program.stdout.read(size)

    def readline(self):
        return self.program.stdout.readline()

    def send(self, data):
        self.program.stdin.write(data)
        self.program.stdin.flush()

    def shutdown(self):
        for pipe in (self.program.stdin, self.program.stdout):
            with contextlib.suppress(OSError):
                pipe.close()
        self.program.wait()


@dataclass
class Dovecot:
    """`location` as mail_location has it; `home` is the user's, and where our configuration lies."""

    home: Path
    location: str
    separator: str = "."
    uidl_format: str = "%08Xu%08Xv"
    prefix: str = ""

    def __post_init__(self):
        needs_dovecot()
        for name in ("base", "state"):
            (self.home.parent / f"{self.home.name}.{name}").mkdir(exist_ok=True)
        self.config.write_text(
            f"base_dir = {self.home}.base\nstate_dir = {self.home}.state\nlog_path = /dev/stderr\nssl = no\n"
            f"mail_location = {self.location}\nfirst_valid_uid = 0\npop3_uidl_format = {self.uidl_format}\n"
            f"default_internal_user = {USER.pw_name}\ndefault_login_user = {USER.pw_name}\n"
        )
        give(f"{self.home}.base")
        give(f"{self.home}.state")

    @property
    def config(self):
        return self.home.parent / f"{self.home.name}.conf"

    @property
    def env(self):
        return {"USER": USER.pw_name, "HOME": str(self.home)}

    @property
    def command(self):
        return [*AS_USER, str(DOVECOT / "imap"), "-c", str(self.config)]

    def imap(self):
        return Session(self.command, self.env, self.home)

    def uidls(self):
        done = subprocess.run(
            [*AS_USER, str(DOVECOT / "pop3"), "-c", str(self.config)],
            input=b"UIDL\r\nQUIT\r\n",
            capture_output=True,
            env=self.env,
            check=True,
        )
        return _uidls(done.stdout)


@dataclass
class Courier:
    """Maildir is HOME/Maildir."""

    home: Path
    separator: str = "."
    prefix: str = "INBOX."

    def __post_init__(self):
        self.tree = peer("courier", "usr/bin/imapd")
        for part in ("tmp", "new", "cur"):
            (self.home / "Maildir" / part).mkdir(parents=True, exist_ok=True)
        give(self.home)

    @property
    def env(self):
        libraries = (
            self.tree / "usr/lib",
            self.tree / "usr/lib/x86_64-linux-gnu",
            self.tree / "usr/lib/courier-authlib",
        )
        return {
            "USER": USER.pw_name,
            "HOME": str(self.home),
            "MAILDIR": str(self.home / "Maildir"),
            "AUTHENTICATED": USER.pw_name,
            "AUTHADDR": USER.pw_name,
            "IMAP_KEYWORDS": "1",
            "IMAP_USELOCKS": "0",  # it asks a daemon that is not there, a second each time
            "IMAP_CAPABILITY": "IMAP4rev1 UIDPLUS",
            "LD_LIBRARY_PATH": ":".join(map(str, libraries)),
        }

    @property
    def command(self):
        return [*AS_USER, str(self.tree / "usr/bin/imapd"), "Maildir"]

    def imap(self):
        return Session(self.command, self.env, self.home)

    def uidls(self):
        done = subprocess.run(
            [*AS_USER, str(self.tree / "usr/lib/courier/courier/courierpop3d"), "Maildir"],
            input=b"UIDL\r\nQUIT\r\n",
            capture_output=True,
            env=self.env,
            cwd=self.home,
            check=True,
        )
        return _uidls(done.stdout)


def mailutil(home, *words):
    """UW IMAP's mailutil with `home` as its user's home directory (it asks passwd(5), so: a private mount)."""
    if not IS_ROOT:
        pytest.skip("needs root: UW IMAP takes the home directory from passwd(5)")
    tree = peer("uw", "usr/bin/mailutil")
    passwd = home.parent / "passwd"
    lines = Path("/etc/passwd").read_text()
    passwd.write_text(re.sub(r"(?m)^nobody:.*$", f"nobody:x:{USER.pw_uid}:{USER.pw_gid}::{home}:/bin/sh", lines))
    libraries = f"{tree}/usr/lib:{tree}/usr/lib/x86_64-linux-gnu"
    script = f'mount --make-rprivate /; mount --bind {passwd} /etc/passwd; exec "$@"'
    command = ["unshare", "-m", "sh", "-ec", script, "-", *AS_USER, str(tree / "usr/bin/mailutil"), *words]
    env = {"HOME": str(home), "USER": USER.pw_name, "LD_LIBRARY_PATH": libraries, "PATH": os.environ["PATH"]}
    return subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout


def _uidls(answer):
    lines = answer.replace(b"\r", b"").split(b"\n.\n")[0].split(b"\n")
    return [line.split(b" ", 1)[1].decode() for line in lines if re.match(rb"\d+ ", line)]


def seen_by_a_client(server, kept=bytes):
    """All that a mail program knows of a mailbox: what must not change when the server does.

    `kept`: what becomes of a message's octets."""
    client = server.imap()
    folders = {}
    for line in client.list()[1]:
        if line is None:
            continue
        flags, name = re.match(rb'\((.*?)\) "." "?(.*?)"?$', line).groups()
        if b"\\Noselect" in flags or b"\\NonExistent" in flags:
            continue
        told = name.decode().removeprefix(server.prefix)
        folders[told.replace(server.separator, "/")] = _folder(client, name.decode(), kept)
    listed = [re.match(rb'\((.*?)\) "." "?(.*?)"?$', line).groups() for line in client.lsub()[1] if line]
    names = [name.decode().removeprefix(server.prefix) for flags, name in listed if b"\\Noselect" not in flags]
    subscribed = {name.replace(server.separator, "/") for name in names} - {"INBOX"}
    client.logout()
    return folders, subscribed


def _folder(client, name, kept):
    status = client.status(f'"{name}"', "(UIDVALIDITY UIDNEXT)")[1][0]
    validity, following = (re.search(rb"%s (\d+)" % word, status)[1] for word in (b"UIDVALIDITY", b"UIDNEXT"))
    answer, count = client.select(f'"{name}"', readonly=True)
    assert answer == "OK", count
    messages = {}
    for first in range(1, int(count[0]) + 1, AT_ONCE):
        wanted = f"{first}:{min(first + AT_ONCE - 1, int(count[0]))}"
        for answer in client.fetch(wanted, "(UID FLAGS INTERNALDATE BODY.PEEK[])")[1]:
            if isinstance(answer, tuple):
                head, content = answer
                flags = set(re.search(rb"FLAGS \((.*?)\)", head)[1].split()) - SPECIAL
                date = re.search(rb'INTERNALDATE "(.*?)"', head)[1]
                messages[int(re.search(rb"UID (\d+)", head)[1])] = (frozenset(flags), date, kept(content))
    return int(validity), int(following), messages
