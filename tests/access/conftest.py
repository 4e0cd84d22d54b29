"""A real Dovecot for tests: private directories, free ports on loopback, ended with the test.

As root Dovecot runs as nobody, in two ways: started by root, and started by nobody (wholly unprivileged).
Dovecot 2.4 comes from a Debian 13 root (.peers/trixie, or EGRESSGUARD_TRIXIE_ROOT), in a private mount namespace.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import grp
import imaplib
import ipaddress
import os
import poplib
import pwd
import shutil
import ssl
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from prometheus_client import CollectorRegistry

from egressguard.access.dovecot_process import Access
from egressguard.access.model import AccessModel, Ports
from egressguard.access.ports import choose_ports
from egressguard.access.programs import Programs, ask_version, find_programs
from egressguard.access.shut_out import Guesses
from egressguard.mailbox.accounts import Accounts
from egressguard.mailbox.delivery import MaildirDelivery
from egressguard.mailbox.deposit import Deposit
from egressguard.policy.model import Policy
from egressguard.quarantine.index import Held
from egressguard.quarantine.views import Shown, Views
from egressguard.store.content import Content

STARTS = ("2.3 by root", "2.3 by nobody", "2.4 by nobody", "as installed")
ADDRESS = "127.0.0.1"
START_SECONDS = 30
SPARE_ACCOUNTS = 9


TRIXIE = Path(os.environ.get("EGRESSGUARD_TRIXIE_ROOT") or Path(__file__).parent.parent.parent / ".peers" / "trixie")


def trixie_root() -> Path:
    if not (TRIXIE / "usr/sbin/dovecot").exists():
        pytest.skip("needs Dovecot 2.4: run scripts/peers, or name a Debian 13 root with EGRESSGUARD_TRIXIE_ROOT")
    return TRIXIE


def in_trixie(root: Path, directory: Path) -> str:
    """Shell words before a command that runs in the Debian 13 root, with `directory` at its own path."""
    (root / str(directory).lstrip("/")).mkdir(parents=True, exist_ok=True)
    steps = [
        "mount --make-rprivate /",
        f"mount -t proc proc {root}/proc",
        f"mount --rbind /dev {root}/dev",
        f"mount --bind {directory} {root}{directory}",
        f'exec chroot {root} "$@"',
    ]
    return f"unshare --mount sh -ec '{'; '.join(steps)}' -"


IN_TRIXIE = Programs(Path("/usr/sbin/dovecot"), Path("/usr/bin/doveconf"), Path("/usr/bin/doveadm"))
# Who becomes another user loses what the kernel was asked to send him at his parent's death: it is asked again.
AS_NOBODY = "setpriv --pdeathsig TERM --reuid nobody --regid nogroup --clear-groups --no-new-privs"


def wrapped(directory: Path, before: str, programs: Programs) -> Programs:
    """Scripts that run each program after the words `before`."""
    made = {}
    for name in ("dovecot", "doveconf", "doveadm"):
        script = directory / name
        script.write_text(f'#!/bin/sh\nexec {before} {getattr(programs, name)} "$@"\n')
        script.chmod(0o755)
        made[name] = script
    return Programs(**made)


def installed() -> Programs:
    programs = find_programs()
    if programs is None:
        pytest.skip("needs Dovecot: apt install dovecot-imapd dovecot-pop3d")
    return programs


def installed_version() -> str:
    return "{}.{}".format(*asyncio.run(ask_version(installed())))


def programs_for(start: str, directory: Path) -> Programs:
    """`start` is "VERSION by USER"; Debian 13 has 2.4 itself, Debian 12 has 2.3 and a Debian 13 root beside it."""
    if start == "as installed":
        if os.geteuid() == 0:
            pytest.skip("root tries each start by name")
        return installed()
    if os.geteuid() != 0:
        pytest.skip("needs root: to start Dovecot as root and as nobody")
    version = installed_version()
    if start.startswith("2.3") and version != "2.3":
        pytest.skip(f"needs Dovecot 2.3; this machine has {version}")
    if start == "2.4 by nobody" and version != "2.4":
        before = f"{in_trixie(trixie_root(), directory)} {AS_NOBODY}"
        return wrapped(
            directory, before, Programs(*map(Path, ("/usr/sbin/dovecot", "/usr/bin/doveconf", "/usr/bin/doveadm")))
        )
    return wrapped(directory, AS_NOBODY, installed()) if start.endswith("by nobody") else installed()


@pytest.fixture
def doveconf():
    """doveconf(version, directory): the real program of that generation, or a skip that says why not."""

    def find(version, directory):
        if version == (2, 3) and os.geteuid() != 0:
            return installed().doveconf
        return programs_for(f"{version[0]}.{version[1]} by nobody", directory).doveconf

    return find


@pytest.fixture(params=[start for start in STARTS if start != "as installed"])
def system_dovecot(request, house):
    """Each generation and start, for tests that need root anyway."""
    return programs_for(request.param, house.directory)


@pytest.fixture
def programs(house):
    """The installed Dovecot, as a test of our own process wants it: unprivileged."""
    start = f"{installed_version()} by nobody" if os.geteuid() == 0 else "as installed"
    return programs_for(start, house.directory)


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    """A self-signed pair for 127.0.0.1, as octets."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(ADDRESS))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return made.public_bytes(pem), private


@dataclass
class House:
    """The directories of one Dovecot, and the mail in them."""

    directory: Path
    user: str
    group: str
    certificate: bytes
    admins: tuple[str, ...] = ()
    records: list = field(default_factory=list)
    spare: list = field(default_factory=lambda: [f"user{number}" for number in range(SPARE_ACCOUNTS)])

    def __post_init__(self):
        for name in ("mailboxes", "quarantine", "accounts"):
            self._own(self.directory / name)
        for folder in ("", ".Held", ".Infected", ".Denied"):
            for part in ("", "tmp", "new", "cur"):
                self._own(self.directory / "quarantine" / folder / part)
        self.views = Views(self.directory / "quarantine" / "views")
        folders = ("Held", "Infected", "Denied")
        self.views.rebuild(Shown(frozenset({"anna", *self.admins}), ("Held",), bool(self.admins), folders), [])
        self._own_views()

    def _own_views(self):
        for path in self.views.root.parent.glob("views/**/*") if os.geteuid() == 0 else ():
            shutil.chown(path, self.user, self.group)
        if os.geteuid() == 0:
            shutil.chown(self.views.root, self.user, self.group)

    def _own(self, path):
        path.mkdir(exist_ok=True)
        if os.geteuid() == 0:
            shutil.chown(path, self.user, self.group)
        path.chmod(0o2770)

    def model(self, ports=None, addresses=(ADDRESS,), **more) -> AccessModel:
        paths = {name: self.directory / name for name in ("base_dir", "state_dir", "certificate", "private_key")}
        return AccessModel(
            **paths,
            mailbox_root=self.directory / "mailboxes",
            views_root=self.directory / "quarantine" / "views",
            accounts=self.directory / "accounts" / "passwd",
            user=self.user,
            group=self.group,
            ports=ports or choose_ports(Ports(0, 0, 0, 0), (ADDRESS,)),
            addresses=addresses,
            quarantine_admins=more.pop("admins", self.admins),
            owners_see=more.pop("owners_see", True),
            **more,
        )

    @property
    def accounts(self) -> Accounts:
        return Accounts(self.directory / "accounts" / "passwd")

    def add(self, name, password="secret"):
        self.accounts.add(name, password)
        if os.geteuid() == 0:
            shutil.chown(self.directory / "accounts" / "passwd", self.user, self.group)

    def deliver(self, queue_id, account, content):
        delivery = MaildirDelivery(self.directory / "mailboxes", grp.getgrnam(self.group).gr_gid)
        paths = ("x@example.net", f"{account}@example.org")
        deposit = Deposit(account, "INBOX", queue_id, *paths, Content.of(content), is_again=True)
        return asyncio.run(delivery.store(Policy.model_validate({"site": {"zones": {}}}), deposit))

    def hold(self, queue_id, content, folder=".Held", owners=()):
        path = self.directory / "quarantine" / folder / "new" / f"1700000000.Q{queue_id}.gw"
        path.write_bytes(content)
        path.chmod(0o660)
        if os.geteuid() == 0:
            shutil.chown(path, self.user, self.group)
        self.views.show(Held(1, queue_id, path, 1700000000, len(content), {}), owners)
        self._own_views()
        return path

    def ordered(self, account, order):
        """The files in an account's order folder."""
        return sorted((self.views.root / "own" / account / f".{order}").glob("*/*Q*"))


@contextlib.contextmanager
def house_at(certificate, admins=("boss",)):
    # Short: a Unix socket's path holds 107 octets, and pytest's own directories are long.
    directory = Path(tempfile.mkdtemp(prefix="eg-"))
    root = os.geteuid() == 0
    user = "nobody" if root else pwd.getpwuid(os.geteuid()).pw_name
    group = "nogroup" if root else grp.getgrgid(os.getegid()).gr_name
    try:
        directory.chmod(0o711)
        made = House(directory, user, group, certificate[0], admins)
        for name, content in zip(("certificate", "private_key"), certificate, strict=True):
            (directory / name).write_bytes(content)
            if root:
                shutil.chown(directory / name, user, group)
        yield made
    finally:
        shutil.rmtree(directory)
        with contextlib.suppress(OSError):
            Path(f"{TRIXIE}{directory}").rmdir()


class Running:
    """An Access in a thread with a loop of its own, as the blocking mail clients need it."""

    def __init__(
        self, house: House, programs: Programs, model: AccessModel | None = None, guesses: Guesses | None = None
    ):
        self.house = house
        self.registry = CollectorRegistry()
        self.guesses = guesses or Guesses(100, 600, 900)
        self.ordered = []
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()
        self.access = self.call(self._make(model or house.model(), programs))
        self.running = asyncio.run_coroutine_threadsafe(self.access.run(), self.loop)

    async def _make(self, model, programs):
        def record(kind, fields):
            self.house.records.append((kind, dict(fields)))

        async def ordered(users):
            self.ordered.extend(sorted(users))

        return Access(
            model,
            record=record,
            registry=self.registry,
            find=lambda: programs,
            guesses=self.guesses,
            ordered=ordered,
        )

    def call(self, coroutine, timeout=START_SECONDS):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(timeout)

    def wait_running(self):
        try:
            self.call(self.access.wait_running())
        except TimeoutError:
            pytest.fail(f"Dovecot did not start: {self.access.status()}")
        return self

    @property
    def ports(self):
        return self.access.status()["ports"]

    def metric(self, name, **labels):
        return self.registry.get_sample_value(f"egressguard_mailbox_{name}", labels)

    def stop(self):
        self.call(self.access.stop())
        self.running.result(START_SECONDS)

    def close(self):
        try:
            self.stop()
        finally:
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join()
            self.loop.close()

    def tls(self):
        return ssl.create_default_context(cadata=self.house.certificate.decode())

    def imap(self, user=None, password="secret"):
        client = imaplib.IMAP4_SSL(ADDRESS, self.ports["imaps"], ssl_context=self.tls(), timeout=30)
        if user:
            client.login(user, password)
        return client

    def pop3(self, user, password="secret"):
        client = poplib.POP3_SSL(ADDRESS, self.ports["pop3s"], context=self.tls(), timeout=30)
        client.user(user)
        client.pass_(password)
        return client


@pytest.fixture(scope="module", params=STARTS)
def server(request, certificate):
    """One Dovecot for a module's tests, with the accounts anna, bob, boss (a quarantine admin) and spares."""
    with house_at(certificate) as house:
        programs = programs_for(request.param, house.directory)
        for name in ("anna", "bob", "boss", *house.spare):
            house.add(name)
        running = Running(house, programs)
        try:
            yield running.wait_running()
        finally:
            running.close()


@pytest.fixture
def house(certificate):
    with house_at(certificate) as made:
        yield made


@pytest.fixture
def start(house):
    """Start an Access over `house`: start(programs, model, guesses)."""
    made = []

    def begin(programs, model=None, guesses=None):
        made.append(Running(house, programs, model, guesses))
        return made[-1]

    yield begin
    for running in made:
        running.close()
