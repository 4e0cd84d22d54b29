"""The real clamd, rspamd and spamd, private: own folder, own rules, an ordinary user, a Unix socket. Skips by name."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
MARKER = b"a marker of ours alone"
"""What each daemon's only rule looks for."""
STREAM_OCTETS = 200_000
"""clamd's StreamMaxLength here."""

_RSPAMD = """
options {{
  pidfile = "{0}/pid"; tempdir = "{0}"; url_tld = "{0}/tld"; history_file = "{0}/history";
  hs_cache_dir = "{0}/"; disable_hyperscan = true; filters = ""; rrd = ""; cache_file = "{0}/symbols";
  dns {{ nameserver = ["127.0.0.1:1:10"]; timeout = 0.1s; retransmits = 1; }}
}}
logging {{ type = "console"; level = "error"; }}
metric {{ name = "default"; actions {{ reject = 15; }} }}
lua = "{0}/rules.lua";
worker "normal" {{ bind_socket = "{0}/s mode=0666"; count = 1; }}
"""
_RSPAMD_LEARNS = """
classifier "bayes" {{
  tokenizer {{ name = "osb"; }}
  backend = "sqlite3"; min_learns = 1; min_tokens = 5;
  cache {{ type = "sqlite3"; path = "{0}/learned"; }}
  statfile {{ symbol = "BAYES_HAM"; spam = false; path = "{0}/ham"; }}
  statfile {{ symbol = "BAYES_SPAM"; spam = true; path = "{0}/spam"; }}
}}
worker "controller" {{
  bind_socket = "{0}/c mode=0666"; bind_socket = "127.0.0.1:{1}"; count = 1; password = "{2}"; secure_ip = "192.0.2.1";
}}
"""
PASSWORD = "of rspamd"
_RSPAMD_RULES = """
rspamd_config.OUR_MARKER = {
  callback = function(task) return tostring(task:get_content()):find('a marker of ours alone', 1, true) ~= nil end,
  score = 7.5
}
rspamd_config.ENVELOPE_SEEN = {
  callback = function(task)
    local from, rcpt = task:get_from('smtp'), task:get_recipients('smtp')
    return from and from[1] and from[1].addr == 'anna@example.org' and rcpt and #rcpt == 2
      and tostring(task:get_ip()) == '192.0.2.7' and task:get_helo() == 'pc.example.org'
      and task:get_user() == 'anna' and task:get_queue_id() == 'Q1'
  end,
  score = 1.25
}
"""
_SPAMD = """
use_bayes 0
skip_rbl_checks 1
dns_available no
body OUR_MARKER /a marker of ours alone/
score OUR_MARKER 7.5
"""


@contextlib.contextmanager
def clamd() -> Iterator[str]:
    """Its address."""
    with _folder("clamav") as folder:
        (folder / "db").mkdir()
        (folder / "db" / "test.ndb").write_text(f"Egress.Test:0:*:{MARKER.hex()}\n")
        os.chown(folder / "db", 65534, 65534)
        lines = [f"LocalSocket {folder}/s", f"DatabaseDirectory {folder}/db", "Foreground yes", "User nobody"]
        lines += [f"TemporaryDirectory {folder}", f"StreamMaxLength {STREAM_OCTETS}", "MaxThreads 4"]
        (folder / "conf").write_text("\n".join(lines) + "\n")
        with _running(folder, ["clamav", "clamd", "--config-file", f"{folder}/conf"]) as address:
            yield address


@contextlib.contextmanager
def rspamd() -> Iterator[str]:
    with _folder("rspamd") as folder, _rspamd(folder, _RSPAMD.format(folder)) as address:
        yield address


@contextlib.contextmanager
def rspamd_that_learns() -> Iterator[tuple[str, str]]:
    """Its controller's addresses: a Unix socket, where it asks for no password, and TCP, where it asks for PASSWORD."""
    with _folder("rspamd") as folder:
        port = free_port()
        configuration = _RSPAMD.format(folder) + _RSPAMD_LEARNS.format(folder, port, PASSWORD)
        with _rspamd(folder, configuration, "c"):
            yield f"unix:{folder}/c", f"127.0.0.1:{port}"


@contextlib.contextmanager
def _rspamd(folder: Path, configuration: str, waits_for: str = "s") -> Iterator[str]:
    (folder / "conf").write_text(configuration)
    (folder / "rules.lua").write_text(_RSPAMD_RULES)
    (folder / "tld").write_text("com\norg\nnet\n")
    command = ["rspamd", "rspamd", "-f", "-u", "nobody", "-g", "nogroup", "-c", f"{folder}/conf"]
    with _running(folder, command, waits_for) as address:
        yield address


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@contextlib.contextmanager
def spamd(*, learns: bool = False, allows: bool = True) -> Iterator[str]:
    """`learns`: it has a memory of its own; `allows`: it was started so that it may be told."""
    plugins = ["Check", "Bayes"] if learns else ["Check"]
    with _folder("spamassassin") as folder:
        (folder / "conf").mkdir()
        lines = [f"loadplugin Mail::SpamAssassin::Plugin::{name}\n" for name in plugins]
        (folder / "conf" / "local.pre").write_text("".join(lines))
        memory = f"use_bayes 1\nbayes_path {folder}/bayes\n" if learns else ""
        (folder / "conf" / "local.cf").write_text(_SPAMD + memory)
        command = ["spamassassin", "spamd", "-L", "-x", "-s", "stderr", "-m", "2", "-u", "nobody"]
        command += [f"--socketpath={folder}/s", "--socketmode=666", "-r", f"{folder}/pid", "-H", str(folder)]
        command += ["-C", f"{folder}/conf", f"--siteconfigpath={folder}/conf"]
        command += ["--allow-tell"] if learns and allows else []
        with _running(folder, command) as address:
            yield address


@contextlib.contextmanager
def _folder(peer: str) -> Iterator[Path]:
    if os.geteuid() != 0 or not (ROOT / ".peers" / peer / "usr").exists():
        pytest.skip(f"needs root and {peer} in .peers: run scripts/peers")
    with tempfile.TemporaryDirectory(prefix="eg-engine-") as name:  # short: a socket's path has 108 octets
        folder = Path(name)
        folder.chmod(0o755)
        os.chown(folder, 65534, 65534)
        yield folder


@contextlib.contextmanager
def _running(folder: Path, command: list[str], waits_for: str = "s") -> Iterator[str]:
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([str(ROOT / "scripts" / "peer"), *command], stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 60
        while not _listens(folder / waits_for):
            assert process.poll() is None and time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.02)
        yield f"unix:{folder}/s"
    finally:
        process.terminate()
        process.wait(20)


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as sock, contextlib.suppress(OSError):
        sock.connect(str(path))
        return True
    return False


@contextlib.contextmanager
def impostor(answer: bytes | None) -> Iterator[str]:
    """A daemon that takes what it is given and says `answer` to everyone; None: nothing, and it hangs."""
    with tempfile.TemporaryDirectory(prefix="eg-engine-") as name, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{name}/s")
        listener.listen()
        player = threading.Thread(target=_play, args=(listener, answer))
        player.start()
        try:
            yield f"unix:{name}/s"
        finally:
            listener.shutdown(socket.SHUT_RDWR)  # its accept ends
            player.join()


def _play(listener: socket.socket, answer: bytes | None) -> None:
    with contextlib.ExitStack() as hanging:
        while True:
            try:
                client = hanging.enter_context(listener.accept()[0])
            except OSError:
                return
            if answer is None:
                continue
            with client, contextlib.suppress(OSError):
                client.recv(65536)
                client.sendall(answer)
                client.shutdown(socket.SHUT_WR)
                while client.recv(65536):  # whoever is cut off while he speaks does not listen
                    pass
