"""Scenarios of the gateway as a running thing: what it measures, and what a power cut leaves of it."""

from __future__ import annotations

import re
import subprocess
from concurrent.futures import ThreadPoolExecutor

from prometheus_client.parser import text_string_to_metric_families

from tests.lab.clients import connect, read_mail, submit_many, swaks, until
from tests.lab.internet import ROOT
from tests.lab.network import GATEWAY_LAN_4, MX_4, MX_6
from tests.lab.rows import Rows
from tests.lab.world import Lab

ROLES = "access console gate relay scan smtpd"
IN_DOUBT = 40
"""At most so many deliveries are under way at once; each of them may rightly come twice (RFC 5321 4.5.5)."""


def metrics_are_clean(lab: Lab) -> Rows:
    page = lab.gateway.metrics()
    families = {family.name for family in text_string_to_metric_families(page)}
    ups = dict(re.findall(r'^egressguard_up\{component="(\w+)"\} ([01])', page, re.MULTILINE))
    yield "all roles are up", ROLES, " ".join(sorted(k for k, v in ups.items() if v == "1"))
    wanted = ("build_info", "queue_messages", "queue_oldest_message_age_seconds", "quarantine_messages")
    yield "the page parses; build, queue, quarantine", [], [n for n in wanted if f"egressguard_{n}" not in families]
    own = [name for name in families if not name.startswith(("egressguard_", "process_", "python_"))]
    yield "every name is of our own", [], own
    promtool = ROOT / ".peers" / "prometheus" / "usr" / "bin" / "promtool"
    if promtool.exists():
        done = subprocess.run([promtool, "check", "metrics"], input=page, capture_output=True, text=True, check=False)
        yield "promtool check metrics", "0 ", f"{done.returncode} {(done.stdout + done.stderr).strip()[-400:]}"


def killed_in_mid_load(lab: Lab, count: int = 200) -> Rows:
    """`count` messages from four clients, a SIGKILL to every process of the gateway, then `count` more."""
    prefix = f"load{count}"
    with ThreadPoolExecutor(1) as pool:
        submitting = pool.submit(submit_many, lab, count, prefix)
        until(lambda: lab.internet.counted("mx", prefix).total() >= count // 10, 30)
        lab.gateway.kill()
        acknowledged = submitting.result()
    yield "some were acknowledged before the SIGKILL", True, 0 < len(acknowledged) < count
    yield "while it is dead: bot dials the MX, IPv4", "refused", connect(lab, "bot", MX_4, 25)
    yield "while it is dead: bot dials the MX, IPv6", "refused", connect(lab, "bot", MX_6, 25)
    to = ["--server", GATEWAY_LAN_4, "--from", "printer@site.example", "--to", "bob@mx.example"]
    yield "while it is dead: nobody takes mail", "nothing", swaks(lab, "printer", *to, marker="dead")[:7]
    lab.gateway.start()
    again = submit_many(lab, count, f"{prefix}-again")
    yield "after the start everything is taken", count, len(again)
    lost = _until_all_arrived(lab, prefix, [*acknowledged, *again])
    yield f"acknowledged and never arrived (of {len(acknowledged)} + {len(again)})", 0, len(lost)
    twice = sum(times - 1 for times in lab.internet.counted("mx", prefix).values())
    yield f"came twice: {twice}, no more than were in doubt", True, twice <= IN_DOUBT
    yield "the queue is empty", [], lab.gateway.rows("queue", "list") if until(lambda: _drained(lab)) else "not empty"
    mail = read_mail(lab, "laptop", GATEWAY_LAN_4, "nothing")
    yield "IMAPS and POP3S answer again", "refused", mail.get("guess", mail)


def _until_all_arrived(lab: Lab, prefix: str, markers: list[str]) -> list[str]:
    """Wait for them; the ones that never came."""

    def missing() -> list[str]:
        arrived = lab.internet.counted("mx", prefix)
        return [marker for marker in markers if marker not in arrived]

    until(lambda: not missing(), 40)
    return missing()


def _drained(lab: Lab) -> bool:
    return not lab.gateway.rows("queue", "list")
