"""The lab's Internet: nsd with real zones, a Postfix that is everybody's MX, a Postfix that is a smart host.

Both Postfixes keep each message in a Maildir of ours, so that counts and octets can be checked.
"""

from __future__ import annotations

import datetime
import os
import pwd
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.lab.network import DNS_4, MX_4, MX_6, NET_6, SMART_4, Network

ROOT = Path(__file__).parent.parent.parent
SMART_USER, SMART_PASSWORD = "site-1234", "a long enough secret"
SMART_NAME = "smtp.provider.example"

_ZONES = {
    "mx.example": f"@ IN MX 10 mail\nmail IN A {MX_4}\nmail IN AAAA {MX_6}\n",
    "six.example": f"@ IN MX 10 mail\nmail IN AAAA {MX_6}\n",
    # No host answers at this MX: mail for it must leave by the smart host.
    "partner.example": "@ IN MX 10 nowhere\nnowhere IN A 203.0.113.254\n",
    "provider.example": f"smtp IN A {SMART_4}\n",
    "null.example": "@ IN MX 0 .\n",
    "site.example": "@ IN MX 10 gateway\ngateway IN A 198.51.100.2\n",
}

_MASTER = """\
{listeners}
cleanup   unix n - n - 0 cleanup
qmgr      unix n - n 300 1 qmgr
tlsmgr    unix - - n 1000? 1 tlsmgr
rewrite   unix - - n - - trivial-rewrite
bounce    unix - - n - 0 bounce
defer     unix - - n - 0 bounce
trace     unix - - n - 0 bounce
verify    unix - - n - 1 verify
flush     unix n - n 1000? 0 flush
proxymap  unix - - n - - proxymap
smtp      unix - - n - - smtp
error     unix - - n - - error
retry     unix - - n - - error
discard   unix - - n - - discard
virtual   unix - n n - - virtual
anvil     unix - - n - 1 anvil
postlog   unix-dgram n - n - 1 postlogd
"""

_QUEUE_FOLDERS = "active bounce corrupt defer deferred flush hold incoming private saved trace pid maildrop public"


def write_certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """A self-signed certificate for `name`, as a smart host's CA file and key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=30))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem, private = folder / f"{name}.pem", folder / f"{name}.key"
    pem.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    pem.chmod(0o644)
    return pem, private


def wait_for(network: Network, name: str, address: str, port: int, seconds: float = 20) -> None:
    """Until something accepts at address:port, seen from namespace `name`."""
    probe = f"import socket; socket.create_connection(({address!r}, {port}), 1).close()"
    deadline = time.monotonic() + seconds
    while network.run(name, sys.executable, "-I", "-c", probe).returncode:
        if time.monotonic() > deadline:
            raise TimeoutError(f"nothing listens on {address} port {port} in {name} after {seconds} s")
        time.sleep(0.05)


class Internet:
    """Starts its servers in the namespace "internet"; `close()` ends them."""

    def __init__(self, network: Network, folder: Path) -> None:
        self._network = network
        self._folder = folder
        self._processes: list[subprocess.Popen[bytes]] = []
        self._uid = pwd.getpwnam("nobody").pw_uid
        self.smart_ca, self._smart_key = write_certificate(folder, SMART_NAME)

    def start(self) -> None:
        self._start_nsd()
        self._start_postfix("mx", [MX_4, MX_6], "25 inet n - n - - smtpd")
        options = (
            "-o smtpd_tls_security_level=encrypt -o smtpd_sasl_auth_enable=yes -o smtpd_tls_auth_only=yes "
            "-o smtpd_recipient_restrictions=permit_sasl_authenticated,reject"
        )
        listeners = f"587 inet n - n - - smtpd {options}\n2525 inet n - n - - smtpd {options}"
        self._start_postfix("smart", [SMART_4], listeners)
        wait_for(self._network, "internet", MX_4, 25)
        wait_for(self._network, "internet", SMART_4, 2525)
        wait_for(self._network, "internet", DNS_4, 53)

    def close(self) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def messages(self, host: str) -> list[bytes]:
        """Every message that arrived at "mx" or "smart"."""
        return [path.read_bytes() for path in sorted(self.maildir(host).glob("new/*"))]

    def counted(self, host: str, prefix: str) -> Counter[str]:
        """How often each message arrived whose X-Lab field starts with `prefix`."""
        field = re.compile(rb"^X-Lab: (%s\S*)" % re.escape(prefix).encode(), re.MULTILINE)
        found = (field.search(message) for message in self.messages(host))
        return Counter(match[1].decode() for match in found if match)

    def arrived(self, host: str, marker: str) -> int:
        """How many messages with `marker` in them arrived."""
        return sum(marker.encode() in message for message in self.messages(host))

    def wait_arrived(self, host: str, marker: str, count: int = 1, seconds: float = 20) -> int:
        deadline = time.monotonic() + seconds
        while (seen := self.arrived(host, marker)) < count and time.monotonic() < deadline:
            time.sleep(0.1)
        return seen

    def maildir(self, host: str) -> Path:
        """Where the messages that arrived at "mx" or "smart" lie."""
        return self._folder / host / "mail" / "inbox"

    def _peer(self, name: str, *words: str) -> None:
        command = self._network.command("internet", str(ROOT / "scripts" / "peer"), name, *words)
        log = (self._folder / f"{name}-{len(self._processes)}.log").open("wb")
        self._processes.append(
            subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True)
        )

    def _start_nsd(self) -> None:
        folder = self._folder / "nsd"
        folder.mkdir()
        zones = ""
        for name, records in _ZONES.items():
            head = f"$ORIGIN {name}.\n$TTL 60\n@ IN SOA ns hostmaster 1 3600 600 86400 60\n@ IN NS ns\n"
            (folder / name).write_text(f"{head}ns IN A {DNS_4}\n{records}")
            zones += f'zone:\n  name: "{name}"\n  zonefile: "{folder / name}"\n'
        server = (
            f'server:\n  ip-address: {DNS_4}\n  ip-address: {NET_6}53\n  username: "nobody"\n  zonesdir: "{folder}"\n'
            f'  pidfile: ""\n  database: ""\n  xfrdfile: "{folder}/xfrd.state"\n  zonelistfile: "{folder}/zone.list"\n'
            f'  server-count: 1\n  xfrdir: "{folder}"\n  hide-version: yes\n'
            "remote-control:\n  control-enable: no\n"
        )
        (folder / "nsd.conf").write_text(server + zones)
        os.chown(folder, self._uid, -1)
        self._peer("nsd", "nsd", "-d", "-c", str(folder / "nsd.conf"))

    def _start_postfix(self, host: str, addresses: list[str], listeners: str) -> None:
        folder = self._folder / host
        for name in ("config", "data", "mail"):
            (folder / name).mkdir(parents=True)
        for name in _QUEUE_FOLDERS.split():
            (folder / "queue" / name).mkdir(parents=True)
        os.chown(folder / "mail", self._uid, -1)
        domains = "mx.example, six.example, partner.example, elsewhere.example"
        main = {
            "compatibility_level": "3.6",
            "queue_directory": folder / "queue",
            "data_directory": folder / "data",
            "command_directory": "/usr/sbin",
            "daemon_directory": "/usr/lib/postfix/sbin",
            "mail_owner": "postfix",
            "setgid_group": "postdrop",
            "myhostname": SMART_NAME if host == "smart" else "mail.mx.example",
            "inet_interfaces": ", ".join(addresses),
            "mydestination": "",
            "mynetworks": "127.0.0.0/8",
            "virtual_mailbox_domains": domains,
            "virtual_mailbox_base": folder / "mail",
            "virtual_mailbox_maps": "static:inbox/",
            "virtual_uid_maps": f"static:{self._uid}",
            "virtual_gid_maps": f"static:{pwd.getpwnam('nobody').pw_gid}",
            "virtual_minimum_uid": "1",
            "smtputf8_enable": "no",
            "smtpd_client_connection_count_limit": "0",
            "smtpd_client_connection_rate_limit": "0",
            "default_process_limit": "30",
            "smtpd_peername_lookup": "no",
            "maillog_file": folder / "postfix.log",
            "maillog_file_prefixes": folder,
            "alias_maps": "",
            "local_recipient_maps": "",
            "smtpd_relay_restrictions": "permit_sasl_authenticated, reject_unauth_destination",
            "smtpd_tls_cert_file": self.smart_ca,
            "smtpd_tls_key_file": self._smart_key,
            "smtpd_tls_security_level": "may",
            "smtpd_tls_received_header": "yes",
            "smtpd_sasl_authenticated_header": "yes",
            "smtpd_sasl_local_domain": "lab",
            "cyrus_sasl_config_path": folder / "config" / "sasl",
        }
        (folder / "config" / "main.cf").write_text("".join(f"{key} = {value}\n" for key, value in main.items()))
        (folder / "config" / "master.cf").write_text(_MASTER.format(listeners=listeners))
        sasldb = folder / "config" / "sasldb2"
        (folder / "config" / "sasl").mkdir()
        (folder / "config" / "sasl" / "smtpd.conf").write_text(
            f"pwcheck_method: auxprop\nauxprop_plugin: sasldb\nmech_list: PLAIN LOGIN\nsasldb_path: {sasldb}\n"
        )
        script = (
            f"chown -R postfix {folder}/queue {folder}/data && chown root {folder}/queue {folder}/queue/pid && "
            f"chgrp postdrop {folder}/queue/maildrop {folder}/queue/public && "
            f"echo '{SMART_PASSWORD}' | saslpasswd2 -p -c -f {sasldb} -u lab {SMART_USER} && chmod 644 {sasldb} && "
            f"exec /usr/lib/postfix/sbin/master -c {folder}/config -d"
        )
        self._peer("postfix", "sh", "-c", script)
