"""Sendmail, configured by its own macros. What it says to whom is its log."""

from __future__ import annotations

import socket
from collections.abc import Sequence

from tests.peers.mta import PLAIN, REFUSED, SECURE, Mta

_CF = "/usr/share/sendmail/cf"


class Sendmail(Mta):
    peer, program = "sendmail", "sendmail"
    OFFERS = frozenset({"8bitmime", "dsn", "starttls", "pipelining", "size"})
    PLAIN_IS_PLAIN = False
    VERIFIED = "STARTTLS"  # and where it asks for VERIFY, it does not send without
    TOO_LARGE = ("552 5.3.4",)

    def _configure(self) -> None:
        folder = self.place.folder
        (folder / "queue").mkdir(mode=0o700)
        self.place.key.chmod(0o600)
        (folder / "service.switch").write_text("hosts files\naliases files\n")
        name = socket.gethostname()  # one without a domain would be looked for, for a minute
        (folder / "hosts").write_text(f"127.0.0.1 {name}.test.example {name} localhost\n")
        refused = "".join(f"To:{REFUSED}@{domain} ERROR:5.1.1:550 nobody here\n" for domain in (PLAIN, SECURE))
        (folder / "access").write_text(f"{refused}TLS_Rcpt:{SECURE} VERIFY\n")
        (folder / "mailertable").write_text("elsewhere.example esmtp:[127.0.0.2]\n")  # nobody there: for its notices
        (folder / "sendmail.mc").write_text(self._text())
        script = (
            f"m4 -D_CF_DIR_={_CF}/ {_CF}/m4/cf.m4 {folder}/sendmail.mc >{folder}/sendmail.cf && "
            f"cd {folder} && for map in access mailertable; do "
            "/usr/libexec/sendmail/makemap -C sendmail.cf hash $map <$map; done"
        )
        self._run("sh", "-c", script)

    def _text(self) -> str:
        folder = self.place.folder
        settings = {
            "confDOMAIN_NAME": "sendmail.test.example",
            "QUEUE_DIR": f"{folder}/queue",
            "STATUS_FILE": f"{folder}/statistics",
            "HELP_FILE": "",
            "confPID_FILE": f"{folder}/pid",
            "confDONT_PROBE_INTERFACES": "True",
            "confDONT_BLAME_SENDMAIL": "TrustStickyBit",  # of the directory for temporary files
            "confSERVICE_SWITCH_FILE": f"{folder}/service.switch",
            "confTO_IDENT": "0",
            "confDELIVERY_MODE": "background",
            "confMAX_MESSAGE_SIZE": "10000000",
            "confCACERT": str(self.place.ca),
            "confCACERT_PATH": str(folder),
            "confSERVER_CERT": str(self.place.certificate),
            "confSERVER_KEY": str(self.place.key),
            "SMTP_MAILER_LL": "20000",
            "SMART_HOST": "esmtp:[127.0.0.1]",
            "ESMTP_MAILER_ARGS": f"TCP $h {self.place.next_port}",
        }
        return (
            "OSTYPE(`linux')\n"
            + "".join(f"define(`{name}', `{value}')\n" for name, value in settings.items())
            + f"DAEMON_OPTIONS(`Name=MTA, Addr=127.0.0.1, Port={self.place.port}')\n"
            + "FEATURE(`no_default_msa')\nFEATURE(`nouucp', `reject')\nFEATURE(`promiscuous_relay')\n"
            + "FEATURE(`accept_unresolvable_domains')\nFEATURE(`accept_unqualified_senders')\nFEATURE(`nocanonify')\n"
            + f"FEATURE(`access_db', `hash -T<TMPF> {folder}/access')\nFEATURE(`blocklist_recipients')\n"
            + f"FEATURE(`mailertable', `hash {folder}/mailertable')\n"
            + "MAILER(`smtp')\n"
        )

    def _in_its_world(self, *words: str) -> list[str]:
        script = f'mount --bind {self.place.folder}/hosts /etc/hosts && exec "$@"'
        return super()._in_its_world("sh", "-c", script, "sh", *words)

    def _program(self, *words: str) -> Sequence[str]:
        folder = self.place.folder
        return ("/usr/libexec/sendmail/sendmail", f"-C{folder}/sendmail.cf", "-X", f"{folder}/traffic.log", *words)

    def _daemon(self) -> Sequence[str]:
        return self._program("-bD")

    def flush(self) -> None:
        self._run(*self._program("-q"))
