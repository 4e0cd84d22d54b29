"""Postfix. Its notices go nowhere: what became of a recipient is in the log."""

from __future__ import annotations

from collections.abc import Sequence

from tests.peers.mta import OURS, PLAIN, RAW, REFUSED, SECURE, Mta

_QUEUES = "incoming active deferred maildrop bounce corrupt defer flush hold private saved trace pid public"
_MASTER = """\
127.0.0.1:{port} inet n - n - - smtpd
pickup    unix n - n 60 1 pickup
cleanup   unix n - n - 0 cleanup
qmgr      unix n - n 300 1 qmgr
tlsmgr    unix - - n 1000? 1 tlsmgr
rewrite   unix - - n - - trivial-rewrite
bounce    unix - - n - 0 bounce
defer     unix - - n - 0 bounce
trace     unix - - n - 0 bounce
flush     unix n - n 1000? 0 flush
proxymap  unix - - n - - proxymap
smtp      unix - - n - - smtp
plain     unix - - n - - smtp -o smtp_tls_security_level=none
raw       unix - - n - - smtp -o smtp_discard_ehlo_keywords=size -o smtp_line_length_limit=0
showq     unix n - n - - showq
error     unix - - n - - error
retry     unix - - n - - error
discard   unix - - n - - discard
anvil     unix - - n - 1 anvil
scache    unix - - n - 1 scache
postlog   unix-dgram n - n - 1 postlogd
"""


class Postfix(Mta):
    peer, program = "postfix", "postfix"
    OFFERS = frozenset({"8bitmime", "smtputf8", "dsn", "starttls", "pipelining", "chunking", "size"})
    VERIFIED = "Verified TLS connection"
    TOO_LARGE = ("exceeds size limit", "552 5.3.4")

    def _configure(self) -> None:
        self._config, self._queue = self.place.folder / "config", self.place.folder / "queue"
        for place in (self._config, self.place.folder / "data", *(self._queue / name for name in _QUEUES.split())):
            place.mkdir(parents=True)
        main = "".join(f"{name} = {value}\n" for name, value in self._main().items())
        (self._config / "main.cf").write_text(main)
        (self._config / "master.cf").write_text(_MASTER.format(port=self.place.port))

    def _main(self) -> dict[str, object]:
        next_hop = f"[127.0.0.1]:{self.place.next_port}"
        return {
            "compatibility_level": "3.6",
            "myhostname": "postfix.test.example",
            "mydestination": "",
            "local_transport": "discard",
            "default_transport": "discard",
            "alias_maps": "",
            "mynetworks": "127.0.0.0/8",
            "inet_interfaces": "127.0.0.1",
            "inet_protocols": "ipv4",
            "transport_maps": f"inline:{{ {{ {PLAIN} = plain:{next_hop} }}, {{ {RAW} = raw:{next_hop} }},"
            f" {{ {SECURE} = smtp:{next_hop} }} }}",
            "smtp_tls_security_level": "verify",
            "smtp_tls_verify_cert_match": OURS,
            "smtp_tls_CAfile": self.place.ca,
            "smtp_tls_loglevel": "1",
            "smtpd_tls_security_level": "may",
            "smtpd_tls_cert_file": self.place.certificate,
            "smtpd_tls_key_file": self.place.key,
            "smtpd_recipient_restrictions": f"check_recipient_access inline:{{ {{ {REFUSED}@ = reject }} }}",
            "message_size_limit": "10000000",
            "minimal_backoff_time": "3000s",
            "queue_directory": self._queue,
            "data_directory": self.place.folder / "data",
            "command_directory": "/usr/sbin",
            "daemon_directory": "/usr/lib/postfix/sbin",
            "maillog_file": self.place.folder / "postfix.log",
            "maillog_file_prefixes": self.place.folder,
        }

    def _daemon(self) -> Sequence[str]:
        script = (
            f"chown -R postfix {self._queue} {self.place.folder}/data && chown root {self._queue} {self._queue}/pid && "
            f"chgrp postdrop {self._queue}/maildrop {self._queue}/public && "
            f"exec /usr/lib/postfix/sbin/master -c {self._config} -d"
        )
        return ("sh", "-c", script)

    def flush(self) -> None:
        self._run("/usr/sbin/postqueue", "-c", str(self._config), "-f")
