"""Deliveries a second into Maildirs, both durable, same disk, same run: ours, and Dovecot's over LMTP.

    .venv/bin/python -m benchmarks.mailboxes [MESSAGES]

Ours is `mailbox.local` with all that it asks (accounts, aliases, a quota) as the relay's process calls it; Dovecot gets
the same messages from raw LMTP clients that pipeline. The rounds take turns. The last line is JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from prometheus_client import CollectorRegistry

from egressguard.mailbox.delivery import MaildirDelivery
from egressguard.mailbox.forwarding import Forwarder
from egressguard.mailbox.local import LocalMail
from egressguard.mailbox.metrics import MailboxMetrics
from egressguard.mailbox.quota import Usages
from egressguard.mailbox.recipients import Recipients
from egressguard.mailbox.rule_files import RuleFiles
from egressguard.policy.model import Policy
from egressguard.relay.return_paths import ReturnPaths
from egressguard.store.content import Content
from egressguard.store.interface import Claim, Due, NewMessage
from egressguard.store.queue_id import new_queue_id, random_queue_id

LMTP = Path(".peers/lmtp/usr/lib/dovecot/lmtp").absolute()
ACCOUNTS = [f"user{number}" for number in range(20)]
AT_ONCE, ROUNDS = 20, 3
CONTENT = b"From: <x@example.net>\r\nSubject: load\r\n\r\n" + (b"X" * 78 + b"\r\n") * 50
SITE = {
    "zones": {},
    "domains": ["example.org"],
    "mailboxes": {"aliases": {"info": "user0"}, "quota": {"octets": 10**12}},
}


class Names:
    def exists(self, name: str) -> bool:
        return name in ACCOUNTS


def ours(root: Path, messages: int) -> float:
    """Deliveries a second."""
    policy, usages, registry = Policy.model_validate({"site": SITE}), Usages(root), CollectorRegistry()

    async def put(_message: NewMessage) -> str:
        raise NotImplementedError  # nothing is sent on here

    forwarder = Forwarder(
        put, ReturnPaths(root, registry, "relay"), "gw.example", clock=time.time, new_queue_id=random_queue_id
    )
    local = LocalMail(
        Recipients(Names(), usages),
        RuleFiles(root / "rules"),
        {"maildir": MaildirDelivery(root, added=usages.added)},
        forwarder,
        usages,
        MailboxMetrics(registry),
        lambda _kind, _fields: None,
    )

    async def deliver(numbers: list[int]) -> None:
        for number in numbers:
            due = Due(f"{ACCOUNTS[number % len(ACCOUNTS)]}@example.org", 1)
            claim = Claim(
                new_queue_id(time.time(), number),
                "x@example.net",
                0.0,
                len(CONTENT),
                smtputf8=False,
                body_8bit=False,
                recipients=(due,),
            )
            outcome = await local.deliver(policy, claim, due, Content.of(CONTENT))
            assert outcome.status == "2.0.0", outcome

    return asyncio.run(_timed(deliver, messages))


def dovecots(socket: Path, messages: int) -> float:
    async def deliver(numbers: list[int]) -> None:
        reader, writer = await asyncio.open_unix_connection(str(socket))

        async def reply() -> bytes:
            while (line := await reader.readline())[3:4] == b"-":
                continue
            return line

        writer.write(b"LHLO client.example\r\n")
        for _ in range(2):
            await reply()
        for number in numbers:
            account = ACCOUNTS[number % len(ACCOUNTS)]
            writer.write(f"MAIL FROM:<x@example.net>\r\nRCPT TO:<{account}>\r\nDATA\r\n".encode())
            answers = [await reply() for _ in range(3)]
            assert answers[2].startswith(b"354"), answers
            writer.write(CONTENT + b".\r\n")
            answer = await reply()
            assert answer.startswith(b"250"), answer
        writer.close()

    return asyncio.run(_timed(deliver, messages))


async def _timed(deliver: object, messages: int) -> float:
    shares = [list(range(first, messages, AT_ONCE)) for first in range(AT_ONCE)]
    started = time.perf_counter()
    await asyncio.gather(*(deliver(share) for share in shares))  # type: ignore[operator]
    return messages / (time.perf_counter() - started)


def dovecot_at(directory: Path) -> subprocess.Popen[bytes]:
    user = "nobody"
    (directory / "mail").mkdir()
    shutil.chown(directory / "mail", user, "nogroup")
    (directory / "dovecot.conf").write_text(
        f"base_dir = {directory}/run\nstate_dir = {directory}/state\nlog_path = {directory}/log\nprotocols = lmtp\n"
        f"ssl = no\ndefault_internal_user = {user}\ndefault_internal_group = nogroup\ndefault_login_user = {user}\n"
        f"mail_location = maildir:~\nlmtp_add_received_header = no\n"
        f"passdb {{\n  driver = static\n}}\nuserdb {{\n  driver = static\n"
        f"  args = uid={user} gid=nogroup home={directory}/mail/%u allow_all_users=yes\n}}\n"
        f"service lmtp {{\n  executable = {LMTP}\n  process_min_avail = {os.cpu_count()}\n"
        f"  unix_listener lmtp {{\n    mode = 0666\n  }}\n}}\n"
    )
    process = subprocess.Popen(["dovecot", "-F", "-c", str(directory / "dovecot.conf")])
    deadline = time.monotonic() + 20
    while not (directory / "run" / "lmtp").exists():
        if time.monotonic() > deadline:
            raise RuntimeError("Dovecot does not listen")
        time.sleep(0.05)
    return process


def main() -> None:
    messages = int(sys.argv[1]) if len(sys.argv) > 1 else 4000
    if os.geteuid() != 0 or not LMTP.exists() or shutil.which("dovecot") is None:
        sys.exit("needs root, Dovecot and its lmtp: apt install dovecot-imapd; scripts/peers")
    directory = Path(tempfile.mkdtemp(prefix="eg-bench-"))
    directory.chmod(0o755)
    process = dovecot_at(directory)
    found: dict[str, list[float]] = {"egressguard": [], "dovecot": []}
    try:
        for number in range(ROUNDS):
            root = directory / f"ours{number}"
            root.mkdir()
            found["egressguard"].append(ours(root, messages))
            found["dovecot"].append(dovecots(directory / "run" / "lmtp", messages))
    finally:
        process.terminate()
        process.wait(20)
        shutil.rmtree(directory)
    medians = {name: round(statistics.median(rates)) for name, rates in found.items()}
    ratio = round(medians["egressguard"] / medians["dovecot"], 2)
    print(f"deliveries a second, {len(CONTENT)} octets: ours {medians['egressguard']}, Dovecot {medians['dovecot']}")
    print(json.dumps({"case": "deliver", "messages": messages, **medians, "ratio": ratio}))


if __name__ == "__main__":
    main()
