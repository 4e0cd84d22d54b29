"""Mailboxes beside Dovecot's own tools: mail that comes in, and mailboxes that are taken over. Same files, same run.

    sudo .venv/bin/python -m benchmarks.mailboxes [--quick] [--only CASE[,CASE]] [--messages N] [--rounds N]

Both sides of a case write to one temporary directory, take turns, and the median of each side's rounds counts. The last
line is JSON; a ratio over 1 means that ours is faster.

- deliver: deliveries a second, 20 connections at once, 4 KB. Ours is the whole way through a gateway that runs: SMTP
  over TCP, rules, spool, queue, aliases, quota, Maildir. The peer is only the end of such a way: Dovecot's LMTP, raw,
  over its Unix socket. Both are durable: Dovecot syncs before its 250; we sync the spool before the 250 (messages that
  come at the same time share that), and then file and directory in the mailbox, before the spool forgets the message.
- deliver_store: the same gateway twice: `deliver: maildir` beside `deliver: lmtp` into its own private Dovecot.
- import: `egressguard mailbox import` beside `doveadm backup`, which keeps UIDs too: 50,000 messages, 2 GB in ten
  folders with flags and keywords, from Dovecot's Maildir. Both are durable when they end: Dovecot is told not to sync
  each message (that would cost it more), and all is synced after. import_mbox: from mboxes.
- import_courier, import_qmail: from their Maildirs; nothing else keeps what they remember, so there is no peer.

What was taken over is then compared with the source, message by message. A quick run has 5,000 messages, 200 MB, and
one round.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks.mailbox_deliver import Dovecot, Gateway, MailServer, deliveries
from benchmarks.mailbox_import import SOURCES, Case, Import
from benchmarks.relay_world import enter
from tests.lab.internet import ROOT

DELIVERED, QUICK_DELIVERED = 4000, 1000
WARM_UP = 200
TAKEN_OVER, QUICK_TAKEN_OVER = 50_000, 5000
ROUNDS = 3
IMPORTS = {("import" if name == "dovecot" else f"import_{name}"): name for name in SOURCES}
CASES = ("deliver", "deliver_store", *IMPORTS)
GATEWAY_PORT, LMTP_GATEWAY_PORT = 2525, 2526

Servers = Mapping[str, MailServer]


def deliver(folder: Path, options: argparse.Namespace) -> dict[str, Case]:
    results = {}
    with Gateway(folder / "gateway", GATEWAY_PORT, deliver="maildir") as ours:
        if "deliver" in options.only:
            with Dovecot(folder / "dovecot") as peer:
                results["deliver"] = beside("deliver", {"ours": ours, "peer": peer}, options)
        if "deliver_store" in options.only:
            with Gateway(folder / "by-lmtp", LMTP_GATEWAY_PORT, deliver="lmtp") as by_lmtp:
                results["deliver_store"] = beside("deliver_store", {"ours": ours, "peer": by_lmtp}, options)
    return results


def beside(case: str, servers: Servers, options: argparse.Namespace) -> Case:
    count = QUICK_DELIVERED if options.quick else DELIVERED
    for server in servers.values():
        deliveries(server, WARM_UP)
    rounds = [{side: deliveries(server, count) for side, server in servers.items()} for _ in range(options.rounds)]
    ours, peer = (statistics.median(found[side] for found in rounds) for side in ("ours", "peer"))
    print(f"{case:<14} ours {ours:6.0f}/s, peer {peer:6.0f}/s: {ours / peer:.2f}x", file=sys.stderr, flush=True)
    return {"ours": round(ours), "peer": round(peer), "ratio": round(ours / peer, 3), "unit": "messages/s"}


def take_over(folder: Path, options: argparse.Namespace) -> dict[str, Case]:
    count = options.messages or (QUICK_TAKEN_OVER if options.quick else TAKEN_OVER)
    wanted = {case: name for case, name in IMPORTS.items() if case in options.only}
    return {case: Import(folder, name, count).measure(case, options.rounds) for case, name in wanted.items()}


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Case]:
    parts: dict[Callable[[Path, argparse.Namespace], dict[str, Case]], bool] = {
        deliver: bool({"deliver", "deliver_store"} & options.only),
        take_over: bool(IMPORTS.keys() & options.only),
    }
    found = {case: result for part, wanted in parts.items() if wanted for case, result in part(folder, options).items()}
    return {case: found[case] for case in CASES if case in found}


def missing() -> str:
    """Why nothing can be measured here; "" when it can."""
    if os.geteuid() != 0:
        return "needs root: it makes namespaces"
    if lacking := [program for program in ("unshare", "ip", "setpriv") if not shutil.which(program)]:
        return f"needs {' and '.join(lacking)}"
    if not shutil.which("dovecot"):
        return "needs Dovecot: apt install dovecot-imapd"
    peers = [name for name in ("postfix", "lmtp") if not (ROOT / ".peers" / name / ".unpacked").exists()]
    return f"needs {' and '.join(peers)}: run scripts/peers" if peers else ""


def cases(text: str) -> set[str]:
    if unknown := set(text.split(",")) - set(CASES):
        raise argparse.ArgumentTypeError(f"no such case: {', '.join(unknown)}; there are {', '.join(CASES)}")
    return set(text.split(","))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer messages, one round")
    parser.add_argument("--only", type=cases, metavar="CASE[,CASE]", default=set(CASES), help="some cases")
    parser.add_argument("--messages", type=int, help="how many are taken over")
    parser.add_argument("--rounds", type=int, help=f"default: {ROUNDS}")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.rounds = options.rounds or (1 if options.quick else ROUNDS)
    if reason := missing():
        print(f"cannot measure here: {reason}", file=sys.stderr)
        return 1
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that everything is torn down
    if options.inside:
        print(json.dumps({"benchmark": "mailboxes", "results": measure(options.inside, options)}))
        return 0
    with tempfile.TemporaryDirectory(prefix="eg-boxes-", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o755)  # the roles' users pass through
        return enter(Path(name), sys.executable, "-m", "benchmarks.mailboxes", "--inside", name, *sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
