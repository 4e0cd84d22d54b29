"""Take mailboxes over: beside `doveadm backup`, which keeps UIDs too, from the same files, in the same run.

    sudo .venv/bin/python -m benchmarks.mailbox_import [--quick] [--messages N] [--source NAME]

50,000 messages, 2 GB (quick: 5,000, 200 MB) in ten folders, made as Dovecot's Maildir and as mboxes, with flags and
keywords. Each side copies them into an empty mailbox, in turns; both are durable when they end: Dovecot is told
not to sync each message (that would cost it more), and all is synced after. What we took is then compared with the
source, message by message. Courier's and qmail's Maildirs have no peer that keeps their UIDs: the rate is told.
The last line is JSON; a ratio over 1 means that ours is faster.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from egressguard.mailbox.accounts import Accounts

SOURCES = ("dovecot", "mbox", "courier", "qmail")
FOLDERS, ROUNDS = 10, 3
MESSAGES, QUICK_MESSAGES = 50_000, 5_000
MEAN_OCTETS = 40_000
KEYWORDS = ("$Label1", "$Label2", "NonJunk", "work")
PROGRAM = (sys.executable, "-m", "egressguard", "mailbox", "import")
AS_NOBODY = ("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups")
"""doveadm does not work on mail as root."""


def sizes(count: int) -> list[int]:
    """As mail is: most of it small, some with attachments; 40 KB in the mean."""
    dice = random.Random(1)
    return [200_000 if dice.random() < 0.18 else dice.randrange(1500, 8000) for _ in range(count)]


def letter(number: int, size: int) -> bytes:
    line = b"%d " % number + b"x" * 66 + b"\n"
    return (
        b"From: a@b.example\nSubject: %d\nMessage-Id: <%d@b.example>\n\n" % (number, number) + line * (size // 70 + 1)
    )[:size] + b"\n"


def flags(number: int) -> str:
    return ("S", "", "RS", "FS")[number % 4]


def make_maildir(root: Path, count: int, form: str) -> None:
    for folder in range(FOLDERS):
        place = root / (f".folder{folder}" if folder else "")
        for part in ("tmp", "new", "cur"):
            (place / part).mkdir(parents=True, exist_ok=True)
        uids = []
        for number, size in list(enumerate(sizes(count)))[folder::FOLDERS]:
            base = f"{1_600_000_000 + number}.M{number}P1.host"
            uids.append(base)
            letters = "abcd"[number % 4] if form == "dovecot" else ""
            path = place / "cur" / f"{base}:2,{flags(number)}{letters}"
            path.write_bytes(letter(number, size))
            os.utime(path, (1_600_000_000 + number,) * 2)
        lines = [f"{uid} {':' if form == 'dovecot' else ''}{base}\n" for uid, base in enumerate(uids, 1)]
        if form == "dovecot":
            head = f"3 V{1_500_000_000 + folder} N{len(uids) + 1} G{folder + 1:032x}\n"
            (place / "dovecot-uidlist").write_text(head + "".join(lines))
            (place / "dovecot-keywords").write_text("".join(f"{n} {word}\n" for n, word in enumerate(KEYWORDS)))
        elif form == "courier":
            (place / "courierimapuiddb").write_text(f"1 {1_500_000_000 + folder} {len(uids) + 1}\n" + "".join(lines))


def make_mboxes(root: Path, count: int) -> None:
    root.mkdir(parents=True)
    for folder in range(FOLDERS):
        numbered = list(enumerate(sizes(count)))[folder::FOLDERS]
        with (root / (f"folder{folder}" if folder else "INBOX")).open("wb") as file:
            for uid, (number, size) in enumerate(numbered, 1):
                date = time.strftime("%a %b %d %H:%M:%S %Y", time.localtime(1_600_000_000 + number)).encode()
                base = b"X-IMAPbase: %d %010d $Label1\n" % (1_500_000_000 + folder, len(numbered)) if uid == 1 else b""
                status = b"Status: RO\n" if "S" in flags(number) else b"Status: O\n"
                file.write(b"From a@b.example %s\n%sX-UID: %d\n%s" % (date, base, uid, status))
                file.write(letter(number, size) + b"\n")


def ours(world: Path, source: Path, *words: str) -> float:
    """Seconds, and the mailbox is there."""
    state = world / "state"
    shutil.rmtree(state, ignore_errors=True)
    (state / "accounts").mkdir(parents=True)
    Accounts(state / "accounts" / "passwd").add("anna", "secret")
    started = time.monotonic()
    command = [*PROGRAM, "--state", str(state), str(source), "--account", "anna", "--json", *words]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - started


def verified(world: Path, source: Path) -> bool:
    command = [*PROGRAM, "--state", str(world / "state"), str(source), "--account", "anna", "--json", "--verify"]
    done = subprocess.run(command, check=False, capture_output=True)
    return done.returncode == 0 and json.loads(done.stdout)["differences"] == 0


def doveadm(world: Path, location: str) -> float:
    target, config = world / "theirs", world / "dovecot.conf"
    shutil.rmtree(target, ignore_errors=True)
    config.write_text(
        f"base_dir = {world}/base\nstate_dir = {world}/base\nlog_path = /dev/stderr\nssl = no\nfirst_valid_uid = 0\n"
        f"mail_location = {location}\ndefault_internal_user = nobody\ndefault_login_user = nobody\n"
        "mail_fsync = never\nnamespace inbox {\n  inbox = yes\n  separator = /\n}\n"
    )
    (world / "base").mkdir(exist_ok=True)
    environment = {"USER": "nobody", "HOME": str(world), "PATH": os.environ["PATH"]}
    command = [*AS_NOBODY, "doveadm", "-c", str(config), "backup", f"maildir:{target}"]
    started = time.monotonic()
    subprocess.run(command, check=True, env=environment)
    os.sync()
    return time.monotonic() - started


def compare(name: str, rounds: int, one: Callable[[], float], other: Callable[[], float]) -> dict[str, object]:
    pairs = [(one(), other()) for _ in range(rounds)]
    mine, theirs = (statistics.median(pair[side] for pair in pairs) for side in (0, 1))
    print(f"{name:12} ours {mine:6.1f} s, doveadm {theirs:6.1f} s: {theirs / mine:.2f}x", flush=True)
    return {"ours": round(mine, 2), "peer": round(theirs, 2), "ratio": round(theirs / mine, 3), "unit": "s"}


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    asked.add_argument("--quick", action="store_true")
    asked.add_argument("--messages", type=int)
    asked.add_argument("--rounds", type=int, default=ROUNDS)
    asked.add_argument("--source", choices=SOURCES, action="append")
    options = asked.parse_args()
    count = options.messages or (QUICK_MESSAGES if options.quick else MESSAGES)
    results: dict[str, object] = {}
    with tempfile.TemporaryDirectory(prefix="eg-import-") as directory:
        world = Path(directory)
        world.chmod(0o755)
        shutil.chown(world, "nobody", "nogroup")
        for name in options.source or SOURCES:
            source = world / name
            if name == "mbox":
                make_mboxes(source, count)
            else:
                make_maildir(source, count, name)
            subprocess.run(["chown", "-R", "nobody:nogroup", str(source)], check=True)
            location = f"mbox:{source}" if name == "mbox" else f"maildir:{source}"
            if name in {"dovecot", "mbox"}:
                run = compare(
                    name, options.rounds, lambda s=source: ours(world, s), lambda at=location: doveadm(world, at)
                )
            else:
                seconds = ours(world, source)
                print(f"{name:12} ours {seconds:6.1f} s, {count / seconds:.0f} messages/s", flush=True)
                run = {"ours": round(seconds, 2), "unit": "s"}
            ours(world, source)
            results[name] = run | {"every_message_compared": verified(world, source)}
            shutil.rmtree(source)
    print(json.dumps({"benchmark": "mailbox_import", "messages": count, "results": results}))


if __name__ == "__main__":
    main()
