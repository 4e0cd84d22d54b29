"""OpenSMTPD. Its spool and socket have fixed places: it sees its own folder there."""

from __future__ import annotations

from collections.abc import Sequence

from tests.peers.mta import OURS, PLAIN, RAW, REFUSED, SECURE, Mta


class OpenSmtpd(Mta):
    peer, program = "opensmtpd", "smtpd"
    OFFERS = frozenset({"8bitmime", "dsn", "starttls", "size"})
    VERIFIED = "mta tls ciphers="  # and by its action, not without a certificate for the name it dials
    TOO_LARGE = ("message too large for peer",)

    def _configure(self) -> None:
        folder, next_hop = self.place.folder, f"127.0.0.1:{self.place.next_port}"
        for name in ("var/spool", "var/lib/opensmtpd/empty", "run"):
            (folder / name).mkdir(parents=True)
        (folder / "hosts").write_text(f"127.0.0.1 localhost {OURS}\n")
        self._config = folder / "smtpd.conf"
        self._config.write_text(
            f'pki own cert "{self.place.certificate}"\npki own key "{self.place.key}"\n'
            f"listen on 127.0.0.1 port {self.place.port} tls pki own hostname opensmtpd.test.example\n"
            f'action plain relay host "smtp+notls://{next_hop}" helo opensmtpd.test.example\n'
            f'action secure relay host "smtp+tls://{OURS}:{self.place.next_port}" tls helo opensmtpd.test.example\n'
            f'match from any for rcpt-to {{ "{REFUSED}@{PLAIN}" }} reject\n'
            f"match from any for domain {{ {PLAIN}, {RAW} }} action plain\n"
            f"match from any for domain {SECURE} action secure\n"
        )
        self._config.chmod(0o600)
        self.place.key.chmod(0o600)

    def _in_its_world(self, *words: str) -> list[str]:
        folder = self.place.folder
        script = (
            f"mount --bind {folder}/var /var && mount --bind {folder}/run /run && ln -sfn /run /var/run && "
            f"mount --bind {self.place.ca} /etc/ssl/certs/ca-certificates.crt && "
            f"mount --bind {folder}/hosts /etc/hosts && "
            'chmod 711 /var/spool && exec "$@"'
        )
        return super()._in_its_world("sh", "-c", script, "sh", *words)

    def _daemon(self) -> Sequence[str]:
        return ("smtpd", "-d", "-f", str(self._config))

    def flush(self) -> None:
        self._run("setpriv", "--egid", "opensmtpq", "--keep-groups", "smtpctl", "schedule", "all")
