"""Scanning mail that lies on a disk: beside clamdscan, beside a second run, and what the worst messages take.

    sudo .venv/bin/python -m benchmarks.scan [--quick]

10,000 messages (quick: 1000) are made from tests/data/mail and from generated ones. `first_scan`: `egressguard scan`
that knows nothing, and `clamdscan --multiscan --fdpass`, in turn, both asking the same private clamd; its cache is off
and its database has one signature; ours reads every message itself besides. Its byte code is there, as where it is
installed. `rescan`: the same command again over the same unchanged files, ours against ours; its ratio is how many
times faster it is, `target` how many it should be. `new_signatures`: once more, as if clamd had been another then,
beside clamdscan.
`memory_*`: the most that a worker has resident, for a ZIP bomb of a gigabyte and a mail of 200 MB; the peer is the aim.
The last line is JSON; a ratio over 1 means that ours is better.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import shutil
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from base64 import encodebytes
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.relay_usage import command_line, family, peak_octets

ROOT = Path(__file__).parents[1]
SAMPLES = ROOT / "tests" / "data" / "mail"
PEERS = ROOT / ".peers"
MB = 1_000_000
RESCAN_TIMES, MEMORY_MB = 50, 150
ROUNDS = 3
AGAIN_RUNS = 5
"""In each round: a run is so short that what the round before has left to write disturbs a single one."""

READY_SECONDS = 60
WORKSHOP = ("PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED")
"""What developers set, and what makes a program slower that starts often or says much."""
HEAD = b"From: a@b.example\r\nTo: c@d.example\r\nSubject: number %d\r\nMIME-Version: 1.0\r\n"
TEXT = b"Dear all,\r\n\r\n" + b"the quarterly figures are as follows, see below for the details.\r\n" * 40
CLAMD = """
LocalSocket {folder}/clamd.sock
LocalSocketMode 666
DatabaseDirectory {folder}/signatures
TemporaryDirectory {folder}/temporary
LogFile {folder}/clamd.log
Foreground yes
DisableCache yes
MaxThreads 4
"""
SIGNATURE = "EgressGuard.Bench.Marker:0:*:" + b"EGRESSGUARD-BENCHMARK-MARKER".hex() + "\n"


def fill(folder: Path, count: int) -> None:
    """Every second message is one of the samples with a number, the others are a text, or a text and a file."""
    folder.mkdir()
    samples = [path.read_bytes() for path in sorted(SAMPLES.iterdir())]
    for number in range(count):
        name = folder / f"{number:05}.eml"
        if number % 2:
            name.write_bytes(b"X-Number: %d\r\n" % number + samples[number // 2 % len(samples)])
        else:
            name.write_bytes(generated(number))


def generated(number: int) -> bytes:
    head = HEAD % number
    if number % 4:
        return head + b"\r\n" + TEXT
    file = encodebytes(os.urandom(4000)).replace(b"\n", b"\r\n")
    return (
        head
        + b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n\r\n" % (number, number)
        + TEXT
        + b'--b%d\r\nContent-Disposition: attachment; filename="figures.dat"\r\n' % number
        + b"Content-Transfer-Encoding: base64\r\n\r\n"
        + file
        + b"--b%d--\r\n" % number
    )


def bomb(path: Path) -> None:
    """A ZIP that unpacks to a gigabyte."""
    inner = path.with_suffix(".zip")
    with zipfile.ZipFile(inner, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("zeros", "w") as file:
        for _ in range(1024):
            file.write(bytes(1 << 20))
    boundary = b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n"
    part = b'Content-Disposition: attachment; filename="x.zip"\r\nContent-Transfer-Encoding: base64\r\n\r\n'
    path.write_bytes(HEAD % 0 + boundary + part + encodebytes(inner.read_bytes()) + b"--b--\r\n")
    inner.unlink()


def large(path: Path) -> None:
    """200 MB, most of it one attachment; what must be found stands at its end."""
    part = b'--b\r\nContent-Disposition: attachment; filename="x.bin"\r\nContent-Transfer-Encoding: base64\r\n\r\n'
    line = encodebytes(os.urandom(57 * 1000)).replace(b"\n", b"\r\n")
    with path.open("wb") as file:
        file.write(HEAD % 0 + b"Content-Type: multipart/mixed; boundary=b\r\n\r\n" + part)
        while file.tell() < 200 * MB:
            file.write(line)
        file.write(b'--b\r\nContent-Disposition: attachment; filename="eicar.zip"\r\n')
        file.write(b"Content-Transfer-Encoding: base64\r\n\r\n" + encodebytes(eicar_zip()) + b"--b--\r\n")


def eicar_zip() -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("eicar.com", b"X5O!P%@AP[4\\PZX54(P^)7CC)7}$" + b"EICAR-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*")
    return packed.getvalue()


@contextlib.contextmanager
def clamd(folder: Path) -> Iterator[Path]:
    """A clamd of our own; gives its configuration."""
    for part in ("signatures", "temporary"):
        (folder / part).mkdir(mode=0o777)
        (folder / part).chmod(0o777)
    (folder / "signatures" / "bench.ndb").write_text(SIGNATURE)
    configuration = folder / "clamd.conf"
    configuration.write_text(CLAMD.format(folder=folder))
    command = [str(ROOT / "scripts" / "peer"), "clamav", "clamd", "-c", str(configuration)]
    with (folder / "clamd.out").open("wb") as out, subprocess.Popen(command, stdout=out, stderr=out) as running:
        try:
            wait_for(folder / "clamd.sock", running)
            yield configuration
        finally:
            running.terminate()


def wait_for(path: Path, running: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline and running.poll() is None:
        with socket.socket(socket.AF_UNIX) as sock, contextlib.suppress(OSError):
            sock.connect(str(path))
            return
        time.sleep(0.05)
    raise RuntimeError("clamd does not come up")


def rules(folder: Path, address: str | None) -> Path:
    """The shipped rules' site, with or without clamd."""
    place = folder / ("rules-clamd" if address else "rules")
    scan: dict[str, Any] = {"denied_names": ["*.exe", "*.scr", "*.js"], "timeout_seconds": 60}
    if address:
        scan["clamd"] = {"address": address}
    site = {
        "zones": {"lan": {"networks": "127.0.0.0/8"}},
        "relay": {"hostname": "gw.example", "listeners": {"lan": {"kind": "smtp", "port": 25}}},
        "scan": scan,
    }
    mail = [{"name": "lan", "match": {"client": "lan"}, "action": "accept"}]
    place.mkdir()
    (place / "site.yaml").write_text(json.dumps({"site": site, "mail": mail}))  # JSON is YAML
    return place


def ours(rule_files: Path, memory: Path, mail: Path) -> list[str]:
    words = ["--json", "--rules", str(rule_files), "--memory", str(memory), str(mail)]
    return [sys.executable, "-m", "egressguard", "scan", *words]


def clamdscan(configuration: Path, mail: Path) -> list[str]:
    words = ["--multiscan", "--fdpass", "--no-summary", "--infected", "-c", str(configuration), str(mail)]
    return [str(ROOT / "scripts" / "peer"), "clamdscan", "clamdscan", *words]


def as_installed(folder: Path, rule_files: Path) -> dict[str, str]:
    """The environment of a program that is installed: its byte code is there, and nothing makes Python flush lines."""
    kept = {name: value for name, value in os.environ.items() if name not in WORKSHOP}
    environment = {**kept, "PYTHONPYCACHEPREFIX": str(folder / "bytecode")}
    modules = [sys.executable, "-m", "compileall", "-q", str(ROOT / "egressguard")]
    subprocess.run(modules, env=environment, check=True)
    (folder / "one").write_bytes(generated(0))
    seconds(ours(rule_files, folder / "memory-one", folder / "one"), 1, environment)  # of the libraries, too
    return environment


def seconds(command: list[str], expected: int, environment: dict[str, str] | None = None) -> float:
    """How long it takes; of ours, which has an environment, a run that did not look at every message does not count."""
    is_ours = environment is not None
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, check=False, env=environment)
    took = time.perf_counter() - started
    told = [json.loads(line) for line in done.stdout.splitlines()] if is_ours else []
    is_whole = len(told) == expected and all(row["verdict"] != "error" for row in told)
    if done.returncode not in {0, 1} or (is_ours and not is_whole):
        raise RuntimeError(f"{command[:4]}: {done.returncode}: {done.stderr[-500:]!r}")
    return took


def first_and_again(folder: Path, count: int) -> dict[str, dict[str, Any]]:
    mail = folder / "mail"
    fill(mail, count)
    first: list[float] = []
    again: list[float] = []
    newer: list[float] = []
    peer: list[float] = []
    with clamd(folder) as configuration:
        rule_files = rules(folder, f"unix:{folder}/clamd.sock")
        environment = as_installed(folder, rule_files)
        for turn in range(ROUNDS):
            memory = folder / f"memory-{turn}"
            first.append(seconds(ours(rule_files, memory, mail), count, environment))
            if (PEERS / "clamdscan" / ".unpacked").exists():
                peer.append(seconds(clamdscan(configuration, mail), count))
            again += [seconds(ours(rule_files, memory, mail), count, environment) for _ in range(AGAIN_RUNS)]
            forget_clamd(memory)
            newer.append(seconds(ours(rule_files, memory, mail), count, environment))
            repeated = ", ".join(f"{took:.2f}" for took in again[-AGAIN_RUNS:])
            words = f"first {first[-1]:.2f} s, again {repeated} s, new signatures {newer[-1]:.2f} s"
            print(f"{words}, clamdscan {peer[-1:]} s", file=sys.stderr)
    results = {"rescan": against(statistics.median(again), statistics.median(first), RESCAN_TIMES)}
    if peer:
        for name, found in (("first_scan", first), ("new_signatures", newer)):
            results[name] = case(count / statistics.median(found), count / statistics.median(peer), "messages/s")
    else:
        print("first_scan and new_signatures left out: needs clamdscan in .peers: run scripts/peers", file=sys.stderr)
    return results


def forget_clamd(memory: Path) -> None:
    """What was found was found by another clamd than this one. (Its version is that of the signatures of ClamAV itself,
    which are signed: a private database has none.)"""
    with contextlib.closing(sqlite3.connect(memory)) as db, db:
        db.execute("UPDATE edition SET words = replace(words, 'clamd ClamAV', 'clamd an earlier ClamAV')")


def case(mine: float, other: float, unit: str) -> dict[str, Any]:
    return {"ours": round(mine, 2), "peer": round(other, 2), "ratio": round(mine / other, 3), "unit": unit}


def against(mine: float, first: float, target: float) -> dict[str, Any]:
    """`ratio` is how many times faster than the first scan it is, `target` how many it should be."""
    return {
        "ours": round(mine, 3),
        "peer": round(first, 3),
        "ratio": round(first / mine, 1),
        "unit": "s",
        "target": target,
    }


def most_resident(command: list[str]) -> tuple[float, float, list[dict[str, Any]]]:
    """(MB that a worker had at its peak, seconds, what was said)."""
    peak, started = 0, time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as running:
        said: list[bytes] = []
        reader = threading.Thread(target=lambda: said.extend(running.stdout or ()))
        reader.start()
        while running.poll() is None:
            workers = [pid for pid in family(running.pid) if "forkserver" in " ".join(command_line(pid))]
            peak = max([peak, *(peak_octets(pid) for pid in workers)])
            time.sleep(0.005)
        reader.join()
    return peak / MB, time.monotonic() - started, [json.loads(line) for line in said]


def memory_cases(folder: Path) -> dict[str, dict[str, Any]]:
    results = {}
    rule_files = rules(folder, None)
    for name, make, verdict in (("bomb", bomb, "denied"), ("200m", large, "infected")):
        mail = folder / name
        mail.mkdir()
        make(mail / "message")
        command = [*ours(rule_files, folder / f"memory-{name}", mail), "--jobs", "1"]
        megabytes, took, rows = most_resident(command)
        words = ", ".join(f"{row['verdict']} {row['findings']}" for row in rows)
        print(f"memory_{name}: {megabytes:.0f} MB, {took:.1f} s, {words:.200}", file=sys.stderr)
        if [row["verdict"] for row in rows] != [verdict]:
            raise RuntimeError(f"memory_{name}: {words:.200}; expected {verdict}")
        case_ = {"ours": round(megabytes, 1), "peer": MEMORY_MB, "ratio": round(MEMORY_MB / max(megabytes, 1), 3)}
        results[f"memory_{name}"] = case_ | {"unit": "MB"}
        shutil.rmtree(mail)
    return results


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a thousand messages instead of ten")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="eg-scan-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)
        results: dict[str, dict[str, Any]] = {}
        if os.geteuid() == 0 and (PEERS / "clamav" / ".unpacked").exists():
            results |= first_and_again(folder, 1_000 if options.quick else 10_000)
        else:
            print("first_scan and rescan left out: need root, and clamd in .peers: run scripts/peers", file=sys.stderr)
        results |= memory_cases(folder)
    print(json.dumps({"benchmark": "scan", "results": results}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
