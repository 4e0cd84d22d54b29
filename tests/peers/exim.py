"""Exim. Each message is delivered as it is taken; `flush` is a queue run by hand."""

from __future__ import annotations

from collections.abc import Sequence

from tests.peers.mta import RAW, REFUSED, SECURE, Mta


class Exim(Mta):
    peer, program = "exim", "exim4"
    OFFERS = frozenset({"8bitmime", "smtputf8", "dsn", "starttls", "pipelining", "chunking", "size"})
    VERIFIED = "CV=yes"
    TOO_LARGE = (f"** large@{RAW}",)

    def _configure(self) -> None:
        folder = self.place.folder
        (folder / "spool").mkdir()
        for place in (folder, folder / "spool"):
            place.chmod(0o777)
        self._config = folder / "exim.conf"
        self._config.write_text(self._text())
        self._config.chmod(0o644)

    def _text(self) -> str:
        folder, port = self.place.folder, self.place.next_port
        common = f" driver = smtp\n port = {port}\n allow_localhost = true\n message_linelength_limit = 1000000\n"
        tls = f" hosts_require_tls = *\n tls_verify_certificates = {self.place.ca}\n tls_verify_hosts = *\n"
        route = " driver = manualroute\n route_list = * 127.0.0.1 byname\n self = send\n"
        return (
            f"primary_hostname = exim.test.example\nspool_directory = {folder}/spool\n"
            f"local_interfaces = 127.0.0.1\ndaemon_smtp_ports = {self.place.port}\npid_file_path = {folder}/pid\n"
            f"tls_certificate = {self.place.certificate}\ntls_privatekey = {self.place.key}\ntls_advertise_hosts = *\n"
            f"log_file_path = {folder}/%slog\nnever_users =\ntrusted_users = root\n"
            "log_selector = +smtp_confirmation\nkeep_environment =\n"
            "acl_smtp_rcpt = rcpt\nacl_smtp_data = accept\nsmtputf8_advertise_hosts = *\ndsn_advertise_hosts = *\n"
            "pipelining_connect_advertise_hosts =\nmessage_size_limit = 10M\nrfc1413_query_timeout = 0s\n"
            f"begin acl\nrcpt:\n deny local_parts = {REFUSED}\n message = 5.1.1 nobody here\n accept\n"
            f"begin routers\nnotices:\n driver = redirect\n domains = elsewhere.example\n data = :blackhole:\n"
            f"secure:\n{route} domains = {SECURE}\n transport = secure\nplain:\n{route} transport = plain\n"
            f"begin transports\nplain:\n{common} hosts_avoid_tls = *\n"
            f"secure:\n{common}{tls} tls_verify_cert_hostnames =\n"
            "begin retry\n* * F,1d,1h\n"
        )

    def _daemon(self) -> Sequence[str]:
        return ("exim4", "-C", str(self._config), "-bdf")

    def flush(self) -> None:
        self._run("exim4", "-C", str(self._config), "-qff")
