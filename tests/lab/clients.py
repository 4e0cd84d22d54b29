"""What the lab's hosts run: a TCP client, swaks, a few lines of smtplib, imaplib and poplib. All see only the wire."""

from __future__ import annotations

import io
import json
import re
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.message import EmailMessage
from email.policy import SMTP

from tests.lab.gateway import ACCOUNT, PASSWORD
from tests.lab.network import GATEWAY_LAN_4
from tests.lab.world import Lab

SEEN_SECONDS = 15
ANNA = "anna@site.example"


def until(truth: Callable[[], object], seconds: float = SEEN_SECONDS) -> bool:
    """Whether `truth` became true in time; asks again and again, no fixed sleep."""
    deadline = time.monotonic() + seconds
    while not truth():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


_CONNECT = """
import socket, sys
try:
    peer = socket.create_connection((sys.argv[1], int(sys.argv[2])), 4)
    peer.settimeout(4)
    print(peer.recv(200).decode().strip())
except ConnectionRefusedError: print("refused")
except TimeoutError: print("silence")
except OSError as wrong: print(wrong.strerror)
"""


def connect(lab: Lab, host: str, address: str, port: int) -> str:
    """What a TCP client sees: "refused", "silence", or the first line that the server says."""
    return lab.network.python(host, _CONNECT, address, str(port)).stdout.strip()


def login(port: int, address: str = GATEWAY_LAN_4, password: str = PASSWORD) -> list[str]:
    """swaks' words for anna's submission."""
    tls = "--tls-on-connect" if port == 465 else "--tls"
    auth = ["--auth", "PLAIN", "--auth-user", ACCOUNT, "--auth-password", password]
    return ["--server", address, "--port", str(port), tls, *auth, "--from", ANNA]


def swaks(lab: Lab, host: str, *words: str, marker: str, body: str = "hello") -> str:
    """Send one message with swaks; the reply code that decided it (of a refusal, or of the final dot)."""
    done = lab.network.run(host, "swaks", "--header", f"X-Lab: {marker}", "--body", body, *words, timeout=90)
    refused = re.findall(r"^<[~*-]+\*+ +(\d{3})", done.stdout, re.MULTILINE)
    if refused:
        return str(refused[-1])
    replies = re.findall(r"^<[~*-]+ +(\d{3}) ", done.stdout, re.MULTILINE)
    codes = [code for code in replies if code != "221"]
    return codes[-1] if codes else f"nothing ({(done.stdout + done.stderr).strip()[-200:]})"


_SUBMIT = """
import smtplib, ssl, sys
address, port, user, password, sender, recipient = sys.argv[1:]
context = ssl.create_default_context(); context.check_hostname = False; context.verify_mode = ssl.CERT_NONE
client = smtplib.SMTP_SSL(address, int(port), timeout=20, context=context)
client.login(user, password)
client.mail(sender); client.rcpt(recipient)
print(client.data(sys.stdin.buffer.read())[0])
client.quit()
"""


def submit(lab: Lab, host: str, address: str, content: bytes, recipient: str) -> str:
    """Send exactly these octets (CRLF lines, ASCII) as anna by implicit TLS; the reply code of the final dot."""
    words = (address, "465", ACCOUNT, PASSWORD, ANNA, recipient)
    done = lab.network.python(host, _SUBMIT, *words, given=content.decode("ascii"))
    return done.stdout.strip() or done.stderr.strip()[-200:]


_SUBMIT_MANY = """
import smtplib, ssl, sys, threading
address, user, password, sender, prefix, count, recipient = sys.argv[1:]
context = ssl.create_default_context(); context.check_hostname = False; context.verify_mode = ssl.CERT_NONE
lock = threading.Lock()
def run(numbers):
    client = None
    for number in numbers:
        marker = "%s-%05d" % (prefix, number)
        text = "From: %s\\r\\nTo: %s\\r\\nX-Lab: %s\\r\\n\\r\\nhello\\r\\n" % (sender, recipient, marker)
        try:
            if client is None:
                client = smtplib.SMTP_SSL(address, 465, timeout=10, context=context)
                client.login(user, password)
            client.sendmail(sender, [recipient], text)
        except smtplib.SMTPResponseException as refused:  # 452: the session stands; 421: it does not
            client = client if refused.smtp_code not in (421, 454, 535) else None
            continue
        except (OSError, smtplib.SMTPException):
            client = None
            continue
        with lock: print(marker, flush=True)
parts = [range(first, int(count), 4) for first in range(4)]
threads = [threading.Thread(target=run, args=(part,)) for part in parts]
[thread.start() for thread in threads]; [thread.join() for thread in threads]
"""


def submit_many(lab: Lab, count: int, prefix: str, recipient: str = "bob@mx.example") -> list[str]:
    """Submit `count` messages from four clients on the laptop; the markers of those that were acknowledged."""
    words = (GATEWAY_LAN_4, ACCOUNT, PASSWORD, ANNA, prefix, str(count), recipient)
    return lab.network.python("laptop", _SUBMIT_MANY, *words, timeout=120).stdout.split()


_READ_MAIL = """
import imaplib, json, poplib, ssl, sys
host, user, password, marker = sys.argv[1:]
context = ssl.create_default_context(); context.check_hostname = False; context.verify_mode = ssl.CERT_NONE
seen = {}
box = imaplib.IMAP4_SSL(host, 993, ssl_context=context)
box.login(user, password); box.select("INBOX")
seen["imap"] = len(box.search(None, "HEADER", "X-Lab", marker)[1][0].split())
seen["quarantine"] = sum(b"Quarantine" in line for line in box.list()[1])
box.logout()
pop = poplib.POP3_SSL(host, 995, context=context); pop.user(user); pop.pass_(password)
seen["pop3"] = sum(marker.encode() in b"".join(pop.retr(n + 1)[1]) for n in range(pop.stat()[0]))
pop.quit()
try:
    imaplib.IMAP4_SSL(host, 993, ssl_context=context).login(user, "guess")
    seen["guess"] = "let in"
except imaplib.IMAP4.error:
    seen["guess"] = "refused"
print(json.dumps(seen))
"""


def read_mail(lab: Lab, host: str, address: str, marker: str) -> dict[str, object]:
    """What anna finds by IMAPS and POP3S: `imap` and `pop3` count messages, `guess` is a wrong password's fate."""
    done = lab.network.python(host, _READ_MAIL, address, ACCOUNT, PASSWORD, marker)
    return dict(json.loads(done.stdout)) if done.stdout else {"error": done.stderr[-300:]}


@contextmanager
def unreachable_mx(lab: Lab) -> Iterator[None]:
    """For a while the Internet's port 25 answers nobody."""
    table = "table inet lab_cut {\n chain input {\n  type filter hook input priority 0;\n  tcp dport 25 reject\n }\n}\n"
    made = lab.network.run("internet", "nft", "-f", "-", given=table)
    assert made.returncode == 0, made.stderr
    try:
        yield
    finally:
        lab.network.run("internet", "nft", "delete", "table", "inet", "lab_cut")


def with_attachment(name: str, content: bytes, marker: str) -> str:
    """A message from anna to bob with a file in it."""
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = ANNA, "bob@mx.example", "a file"
    message["X-Lab"] = marker
    message.set_content("see the file")
    message.add_attachment(content, maintype="application", subtype="octet-stream", filename=name)
    return message.as_string()


def awkward_message(marker: str, lines: int) -> bytes:
    """CRLF octets that a careless relay would change: dots, trailing blanks, tabs, folded and odd header fields."""
    message = EmailMessage(policy=SMTP)
    message["From"], message["To"], message["X-Lab"] = ANNA, "bob@mx.example", marker
    message["Date"], message["Message-ID"] = "Mon, 2 Nov 2026 08:00:00 +0000", f"<{marker}@site.example>"
    odd = b"x-lower:no space\r\nSubject: folded\r\n\tby a tab \r\n  and blanks\r\n"
    body = b".\r\n..\r\n.leading\r\ntrailing \t \r\n\r\nFrom the start\r\n" + b"".join(
        b"%06d " % number + b"x" * 70 + b"\r\n" for number in range(lines)
    )
    return message.as_bytes().partition(b"\r\n\r\n")[0] + b"\r\n" + odd + b"\r\n" + body + b"\r\n\r\n"


def zipped(name: str, content: bytes) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return target.getvalue()
