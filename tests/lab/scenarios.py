"""What is played in the lab: each scenario yields rows (what was tried, what was expected, what was seen)."""

from __future__ import annotations

import base64
import io
import re
import subprocess
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from email.message import EmailMessage

from egressguard.scan.eicar import _SIGNATURE
from tests.lab.gateway import ACCOUNT, GATEWAY_LAN_4, PASSWORD, Gateway
from tests.lab.internet import Internet
from tests.lab.network import GATEWAY_LAN_6, MX_4, MX_6, Network

SEEN_SECONDS = 15


@dataclass(frozen=True, slots=True)
class Row:
    scenario: str
    tried: str
    expected: str
    seen: str

    @property
    def ok(self) -> bool:
        return self.expected == self.seen


@dataclass(frozen=True, slots=True)
class Lab:
    network: Network
    internet: Internet
    gateway: Gateway


Rows = Iterator[tuple[str, object, object]]
Scenario = Callable[[Lab], Rows]


def until(truth: Callable[[], object], seconds: float = SEEN_SECONDS) -> bool:
    """Whether `truth` became true in time; asks again and again, no fixed sleep."""
    deadline = time.monotonic() + seconds
    while not truth():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def connect(lab: Lab, host: str, address: str, port: int, *, user: str = "") -> str:
    """What a TCP client sees: "refused", "silence", or the first line that the server says."""
    program = (
        "import socket,sys\n"
        f"try:\n s=socket.create_connection(({address!r},{port}),4); s.settimeout(4)\n"
        " print(s.recv(200).decode().strip())\n"
        "except ConnectionRefusedError: print('refused')\n"
        "except TimeoutError: print('silence')\n"
        "except OSError as e: print(e.strerror)\n"
    )
    words = ["setpriv", "--reuid", user, "--clear-groups", "/usr/bin/python3"] if user else ["/usr/bin/python3"]
    return lab.network.run(host, *words, "-c", program).stdout.strip()


def swaks(lab: Lab, host: str, *words: str, marker: str, body: str = "hello") -> str:
    """Send one message with swaks; the reply code that decided it (of RCPT or of the final dot)."""
    done = lab.network.run(host, "swaks", "--header", f"X-Lab: {marker}", "--body", body, *words, timeout=90)
    refused = re.findall(r"^<[~*-]+\*+ +(\d{3})", done.stdout, re.MULTILINE)
    if refused:
        return refused[-1]
    replies = re.findall(r"^<[~*-]+ +(\d{3}) ", done.stdout, re.MULTILINE)
    codes = [code for code in replies if code != "221"]
    return codes[-1] if codes else f"nothing ({done.stderr.strip()[-200:]})"


def login(port: int) -> list[str]:
    tls = "--tls-on-connect" if port == 465 else "--tls"
    auth = ["--auth", "PLAIN", "--auth-user", ACCOUNT, "--auth-password", PASSWORD]
    return ["--server", GATEWAY_LAN_4, "--port", str(port), tls, *auth, "--from", "anna@site.example"]


def bot_is_blocked(lab: Lab) -> Rows:
    before = lab.gateway.sample("egressguard_firewall_flows_total", rule="block-direct-smtp")
    yield "bot dials the MX on IPv4", "refused", connect(lab, "bot", MX_4, 25)
    yield "bot dials the MX on IPv6", "refused", connect(lab, "bot", MX_6, 25)
    tries = {("192.0.2.30", MX_4), ("2001:db8:1::30", MX_6)}

    def journaled() -> bool:
        rows = lab.gateway.journal("flow.blocked")
        return tries <= {(r["source"], r["destination"]) for r in rows if r["rule"] == "block-direct-smtp"}

    yield "both tries are in the journal", True, until(journaled)
    yield "the journal names the bot's MAC", True, any(r["mac"] for r in lab.gateway.journal("flow.blocked"))

    def counted() -> bool:
        now = lab.gateway.sample("egressguard_firewall_flows_total", rule="block-direct-smtp", action="blocked")
        return now >= before + 2

    yield "both tries are counted", True, until(counted)
    yield "nothing from the bot arrived", 0, lab.internet.arrived("mx", "from-the-bot")
    yield "the bot may still dial 587 elsewhere (RFC 5068)", "220", connect(lab, "bot", "198.51.100.26", 587)[:3]


def bot_at_the_gateway(lab: Lab) -> Rows:
    to = ["--from", "bot@elsewhere.example", "--to", "victim@mx.example"]
    for family, address in (("IPv4", GATEWAY_LAN_4), ("IPv6", GATEWAY_LAN_6)):
        seen = swaks(lab, "bot", "--server", address, *to, marker="from-the-bot")
        yield f"bot sends through the gateway's port 25, {family}", "550", seen
    rows = lab.gateway.journal("mail.refused")
    clients = {r["client"] for r in rows}
    yield "both refusals are in the journal", True, {"192.0.2.30", "2001:db8:1::30"} <= clients
    yield "and in the metrics", True, lab.gateway.sample("egressguard_smtpd_rejects_total") >= 2
    yield "nothing from the bot arrived", 0, lab.internet.arrived("mx", "from-the-bot")


def laptop_submits(lab: Lab) -> Rows:
    for port in (587, 465):
        marker = f"laptop-{port}"
        seen = swaks(lab, "laptop", *login(port), "--to", "bob@mx.example", marker=marker)
        yield f"laptop submits on {port}", "250", seen
        yield f"it arrives at the MX, once ({port})", 1, lab.internet.wait_arrived("mx", marker)
    seen = swaks(lab, "laptop", *login(587), "--to", "carol@six.example", marker="laptop-six")
    yield "mail for a domain whose MX has only IPv6", "250", seen
    yield "it arrives", 1, lab.internet.wait_arrived("mx", "laptop-six")
    wrong = [word if word != PASSWORD else "guess" for word in login(587)]
    yield "a wrong password", "535", swaks(lab, "laptop", *wrong, "--to", "bob@mx.example", marker="wrong")


def smart_host_on_2525(lab: Lab) -> Rows:
    seen = swaks(lab, "laptop", *login(587), "--to", "dave@partner.example", marker="by-smart-host")
    yield "laptop writes to the partner", "250", seen
    yield "it arrives at the smart host", 1, lab.internet.wait_arrived("smart", "by-smart-host")
    yield "and not at the MX", 0, lab.internet.arrived("mx", "by-smart-host")
    rows = [r for r in lab.gateway.journal("delivery.delivered") if r["recipient"] == "dave@partner.example"]
    yield "the journal names the way", ["provider"], [r["transport"] for r in rows]


def printer_is_pinned(lab: Lab) -> Rows:
    to = ["--server", GATEWAY_LAN_4, "--to", "bob@mx.example"]
    own = swaks(lab, "printer", *to, "--from", "printer@site.example", marker="printer-own")
    yield "printer sends as itself, without AUTH", "250", own
    yield "it arrives", 1, lab.internet.wait_arrived("mx", "printer-own")
    other = swaks(lab, "printer", *to, "--from", "boss@site.example", marker="printer-boss")
    yield "printer sends as somebody else", "550", other
    thief = swaks(lab, "bot", *to, "--from", "printer@site.example", marker="printer-thief")
    yield "bot sends as the printer", "550", thief


def guest_is_redirected(lab: Lab) -> Rows:
    for family, address in (("IPv4", MX_4), ("IPv6", MX_6)):
        greeting = connect(lab, "guest", address, 25)
        yield f"guest dials the MX on {family} and meets", "220 gateway.site.example", greeting[:24]
    to = ["--server", MX_4, "--to", "bob@mx.example"]
    mine = swaks(lab, "guest", *to, "--from", "guest@site.example", marker="guest-own")
    yield "guest sends in the site's name", "250", mine
    yield "it arrives", 1, lab.internet.wait_arrived("mx", "guest-own")
    forged = swaks(lab, "guest", *to, "--from", "x@elsewhere.example", marker="guest-forged")
    yield "guest sends in another's name", "550", forged
    rows = lab.gateway.journal("mail.accepted")
    meant = {r.get("original_destination") for r in rows if r["client"] == "192.0.2.140"}
    yield "the journal keeps where it wanted to", True, any(MX_4 in str(where) for where in meant)

    def counted() -> bool:
        return lab.gateway.sample("egressguard_firewall_flows_total", action="redirected", zone="guest") >= 2

    yield "the redirections are counted", True, until(counted)


def thought_is_given(lab: Lab) -> Rows:
    """Only the laptop may reach the partner's host on port 25, known by name: the first SYN waits for DNS."""
    seen = lab.network.run(
        "laptop", "/usr/bin/python3", "-c", "import socket; socket.create_connection(('198.51.100.26', 587), 5)"
    )
    yield "other ports are not asked about", 0, seen.returncode
    # Nothing listens on the smart host's port 25: the reset comes from there, or from the wall.
    connect(lab, "laptop", "198.51.100.26", 25)
    yield (
        "laptop to the named host is allowed",
        True,
        until(lambda: lab.gateway.sample("egressguard_nfqueue_packets_total", verdict="allow") >= 1),
    )
    yield "laptop to the MX is refused", "refused", connect(lab, "laptop", MX_4, 25)
    yield (
        "by a verdict of the daemon",
        True,
        until(lambda: lab.gateway.sample("egressguard_nfqueue_packets_total", verdict="reject") >= 1),
    )


def _with_attachment(name: str, content: bytes, marker: str) -> str:
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "anna@site.example", "bob@mx.example", "a file"
    message["X-Lab"] = marker
    message.set_content("see the file")
    message.add_attachment(content, maintype="application", subtype="octet-stream", filename=name)
    return message.as_string()


def _zip(name: str, content: bytes) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return target.getvalue()


def malware_is_held(lab: Lab) -> Rows:
    archive = _zip("invoice.com", _SIGNATURE)
    cases = {
        "held-eicar": ("Infected", _with_attachment("invoice.zip", archive, "held-eicar")),
        "held-exe": ("Denied", _with_attachment("setup.exe", b"MZ" + b"\0" * 60, "held-exe")),
        "held-hidden": ("Denied", _with_attachment("photo.jpg", b"MZ" + b"\0" * 60, "held-hidden")),
    }
    for marker, (_, text) in cases.items():
        seen = swaks(lab, "laptop", *login(587), "--to", "bob@mx.example", "--data", text, marker=marker)
        yield f"laptop sends {marker.removeprefix('held-')}", "250", seen
    rows = lab.gateway.rows("quarantine", "list")
    yield "all are held, by verdict", ["Denied", "Denied", "Infected"], sorted(r["folder"] for r in rows)
    yield "none has arrived", 0, sum(lab.internet.arrived("mx", marker) for marker in cases)
    ids = [row["id"] for row in rows]
    released = [lab.gateway.cli("quarantine", "release", one).returncode for one in ids]
    yield "each is released", [0, 0, 0], released
    for marker in cases:
        yield f"{marker} arrives", 1, lab.internet.wait_arrived("mx", marker)
    again = {lab.gateway.cli("quarantine", "release", one).returncode for one in ids}
    yield "a second release is refused (not found)", {5}, again
    yield "each arrived exactly once", [1, 1, 1], [lab.internet.arrived("mx", marker) for marker in cases]
    inside = next(m for m in lab.internet.messages("mx") if b"held-eicar" in m)
    encoded = base64.b64encode(archive)[:40]
    yield "its octets are as they were", True, encoded in inside


def strangers_are_refused(lab: Lab) -> Rows:
    to = ["--from", "x@elsewhere.example", "--to", "bob@mx.example"]
    gate = ["--server", GATEWAY_LAN_4]
    yield "laptop without AUTH on 25", "550", swaks(lab, "laptop", *gate, *to, marker="stranger")
    yield "laptop without AUTH on 587", "530", swaks(lab, "laptop", *gate, "--port", "587", *to, marker="stranger")
    wan = ["--server", "198.51.100.2"]
    yield "the Internet through our port 25", "550", swaks(lab, "internet", *wan, *to, marker="stranger")
    for address in ("bob%mx.example@site.example", "@site.example:bob@mx.example", '"bob@mx.example"@site.example'):
        seen = swaks(lab, "internet", *wan, "--from", "x@elsewhere.example", "--to", address, marker="stranger")
        yield f"open relay probe {address}", "5", seen[:1]
    yield "nothing of it arrived", 0, lab.internet.arrived("mx", "stranger")


_IMAP = """
import imaplib, poplib, ssl, sys
context = ssl.create_default_context(); context.check_hostname = False; context.verify_mode = ssl.CERT_NONE
box = imaplib.IMAP4_SSL({host!r}, 993, ssl_context=context)
box.login({user!r}, {password!r}); box.select("INBOX")
_, found = box.search(None, "HEADER", "X-Lab", {marker!r}); print("imap", len(found[0].split()))
print("folders", sum(b"Quarantine" in line for line in box.list()[1]))
pop = poplib.POP3_SSL({host!r}, 995, context=context); pop.user({user!r}); pop.pass_({password!r})
count = sum({marker!r}.encode() in b"".join(pop.retr(n + 1)[1]) for n in range(pop.stat()[0])); print("pop3", count)
pop.quit()
try:
    imaplib.IMAP4_SSL({host!r}, 993, ssl_context=context).login({user!r}, "guess"); print("guess in")
except imaplib.IMAP4.error: print("guess out")
"""


def local_mail_is_read(lab: Lab) -> Rows:
    to = ["--server", "198.51.100.2", "--from", "x@elsewhere.example", "--to"]
    known = swaks(lab, "internet", *to, "anna@site.example", marker="local-mail")
    yield "the Internet writes to anna@site.example", "250", known
    unknown = swaks(lab, "internet", *to, "nobody@site.example", marker="local-mail")
    yield "and to nobody@site.example", "550", unknown
    delivered = until(lambda: lab.gateway.sample("egressguard_delivery_recipients_total", transport="local") >= 1)
    yield "it is delivered", True, delivered
    program = _IMAP.format(host=GATEWAY_LAN_4, user=ACCOUNT, password=PASSWORD, marker="local-mail")
    said = lab.network.run("laptop", "/usr/bin/python3", "-c", program)
    seen = dict(line.split(" ", 1) for line in said.stdout.splitlines()) or {"error": said.stderr[-300:]}
    yield "anna reads it over IMAPS", "1", seen.get("imap", str(seen))
    yield "and over POP3S", "1", seen.get("pop3", str(seen))
    yield "a wrong password is refused", "out", seen.get("guess", str(seen))
    yield "the quarantine is among her folders (she is an admin)", True, int(seen.get("folders", "0")) >= 1


def other_processes_are_guarded(lab: Lab) -> Rows:
    yield "root's own process on the gateway dials port 25", "refused", connect(lab, "gateway", MX_4, 25)
    yield "on IPv6 too", "refused", connect(lab, "gateway", MX_6, 25)

    def journaled() -> bool:
        return any(r["rule"] == "own-processes" for r in lab.gateway.journal("flow.blocked"))

    yield "it is in the journal", True, until(journaled)


def submit_many(lab: Lab, count: int, prefix: str) -> list[str]:
    """Submit `count` messages from four clients on the laptop; the markers that were acknowledged."""
    program = f"""
import smtplib, ssl, sys, threading
context = ssl.create_default_context(); context.check_hostname = False; context.verify_mode = ssl.CERT_NONE
lock = threading.Lock()
def run(numbers):
    client = None
    for number in numbers:
        marker = "{prefix}-%05d-" % number
        try:
            if client is None:
                client = smtplib.SMTP_SSL({GATEWAY_LAN_4!r}, 465, timeout=10, context=context)
                client.login({ACCOUNT!r}, {PASSWORD!r})
            text = "From: anna@site.example\\r\\nTo: bob@mx.example\\r\\nX-Lab: " + marker + "\\r\\n\\r\\nhello\\r\\n"
            client.sendmail("anna@site.example", ["bob@mx.example"], text)
        except (OSError, smtplib.SMTPException):
            client = None
            continue
        with lock: print(marker, flush=True)
parts = [range(k, {count}, 4) for k in range(4)]
threads = [threading.Thread(target=run, args=(part,)) for part in parts]
[t.start() for t in threads]; [t.join() for t in threads]
"""
    return lab.network.run("laptop", "/usr/bin/python3", "-c", program, timeout=120).stdout.split()


def killed_in_mid_load(lab: Lab, count: int = 200) -> Rows:
    prefix = f"load{count}"
    with ThreadPoolExecutor(1) as pool:
        submitting = pool.submit(submit_many, lab, count, prefix)
        until(lambda: lab.internet.arrived("mx", prefix) >= count // 10, 30)
        lab.gateway.kill()
        acknowledged = submitting.result()
    yield "some were acknowledged before the SIGKILL", True, 0 < len(acknowledged) < count
    yield "while it is dead: bot dials the MX, IPv4", "refused", connect(lab, "bot", MX_4, 25)
    yield "while it is dead: bot dials the MX, IPv6", "refused", connect(lab, "bot", MX_6, 25)
    lab.gateway.start()
    acknowledged += submit_many(lab, count, f"{prefix}again")

    def lost() -> list[str]:
        arrived = b"\n".join(lab.internet.messages("mx"))
        return [marker for marker in acknowledged if marker.encode() not in arrived]

    until(lambda: not lost(), 40)
    yield f"acknowledged messages that never arrived (of {len(acknowledged)})", 0, len(lost())


def metrics_are_clean(lab: Lab) -> Rows:
    page = lab.gateway.metrics()
    ups = dict(re.findall(r'^egressguard_up\{component="(\w+)"\} ([01])', page, re.MULTILINE))
    yield "all roles are up", "access console gate relay scan", " ".join(sorted(k for k, v in ups.items() if v == "1"))
    wanted = ("build_info", "queue_messages", "queue_oldest_message_age_seconds", "quarantine_messages")
    missing = [name for name in wanted if f"egressguard_{name}" not in page]
    yield "build, queue and quarantine are there", [], missing
    from tests.lab.internet import ROOT

    promtool = ROOT / ".peers" / "prometheus" / "usr" / "bin" / "promtool"
    if not promtool.exists():
        return
    done = subprocess.run([promtool, "check", "metrics"], input=page, capture_output=True, text=True, check=False)
    yield "promtool check metrics", "0 ", f"{done.returncode} {(done.stdout + done.stderr).strip()[-400:]}"


def down_removes_only_ours(lab: Lab) -> Rows:
    foreign = "table inet foreign {\n chain c {\n  tcp dport 12345 drop\n }\n}\n"
    lab.network.run("gateway", "nft", "-f", "-", given=foreign)
    before = lab.network.run("gateway", "nft", "list", "table", "inet", "foreign").stdout
    yield "the gateway stops cleanly on SIGINT", 0, lab.gateway.stop()
    yield "stopped: bot dials the MX", "refused", connect(lab, "bot", MX_4, 25)
    yield "`egressguard down`", 0, lab.gateway.cli("down").returncode
    yield "then the bot meets the MX", "220", connect(lab, "bot", MX_4, 25)[:3]
    tables = lab.network.run("gateway", "nft", "list", "tables").stdout.split("\n")
    yield "only the foreign table is left", ["table inet foreign"], [t for t in tables if t]
    after = lab.network.run("gateway", "nft", "list", "table", "inet", "foreign").stdout
    yield "and it is as it was", True, bool(before) and before == after


SCENARIOS: dict[str, Scenario] = {
    "bot": bot_is_blocked,
    "gateway": bot_at_the_gateway,
    "submission": laptop_submits,
    "smart-host": smart_host_on_2525,
    "printer": printer_is_pinned,
    "redirect": guest_is_redirected,
    "thought": thought_is_given,
    "quarantine": malware_is_held,
    "strangers": strangers_are_refused,
    "mailbox": local_mail_is_read,
    "own-processes": other_processes_are_guarded,
    "metrics": metrics_are_clean,
    "sigkill": killed_in_mid_load,
    "down": down_removes_only_ours,
}
"""In the order in which they are played: the last two end the daemon."""


def play(lab: Lab, name: str) -> Iterator[Row]:
    for tried, expected, seen in SCENARIOS[name](lab):
        yield Row(name, tried, str(expected), str(seen))
