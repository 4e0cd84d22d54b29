"""Scenarios of the relay: who may send, what arrives, what is held, what can be read."""

from __future__ import annotations

import base64

from egressguard.scan.eicar import _SIGNATURE
from tests.lab.clients import awkward_message, login, read_mail, submit, swaks, until, with_attachment, zipped
from tests.lab.network import GATEWAY_LAN_4, GATEWAY_LAN_6
from tests.lab.rows import Rows
from tests.lab.world import Lab

FROM_OUTSIDE = ["--server", "198.51.100.2", "--from", "x@elsewhere.example", "--to"]


def laptop_submits(lab: Lab) -> Rows:
    for family, address in (("IPv4", GATEWAY_LAN_4), ("IPv6", GATEWAY_LAN_6)):
        for port in (587, 465):
            marker = f"laptop-{port}-{family}"
            seen = swaks(lab, "laptop", *login(port, address), "--to", "bob@mx.example", marker=marker)
            yield f"laptop submits on {port}, {family}", "250", seen
            yield "it arrives at the MX, once", 1, lab.internet.wait_arrived("mx", marker)
    seen = swaks(lab, "laptop", *login(587), "--to", "carol@six.example", marker="laptop-six")
    yield "mail for a domain whose MX has only IPv6", "250", seen
    yield "it arrives", 1, lab.internet.wait_arrived("mx", "laptop-six")
    wrong = login(587, password="guess")
    yield "a wrong password", "535", swaks(lab, "laptop", *wrong, "--to", "bob@mx.example", marker="wrong")
    seen = swaks(lab, "laptop", *login(587), "--to", "nobody@null.example", marker="laptop-null")
    yield "mail for a domain that says it takes none (RFC 7505)", "250", seen
    bounced = until(lambda: any(r["recipient"].endswith("@null.example") for r in _failures(lab)))
    yield "fails for good, in the journal", True, bounced

    def told() -> bool:
        rows = lab.gateway.journal("delivery.delivered")
        return any(r["sender"] == "" and r["recipient"] == "anna@site.example" for r in rows)

    yield "and its sender is told (DSN into her mailbox)", True, until(told)


def _failures(lab: Lab) -> list[dict[str, str]]:
    return lab.gateway.journal("delivery.permanent")


def octets_are_kept(lab: Lab) -> Rows:
    """One message that lies in the spool's table, one that lies beside it in a file."""
    for marker, lines in (("octets-small", 50), ("octets-large", 4000)):
        content = awkward_message(marker, lines)
        code = submit(lab, "laptop", GATEWAY_LAN_4, content, "bob@mx.example")
        yield f"laptop sends {len(content)} awkward octets", "250", code
        yield "they arrive, once", 1, lab.internet.wait_arrived("mx", f"X-Lab: {marker}")
        stored = next(m for m in lab.internet.messages("mx") if f"X-Lab: {marker}".encode() in m)
        sent = content.replace(b"\r\n", b"\n")  # Postfix keeps lines as Unix does
        yield "every one as it was, only trace fields before them", True, stored.endswith(sent)


def smart_host_on_2525(lab: Lab) -> Rows:
    seen = swaks(lab, "laptop", *login(587), "--to", "dave@partner.example", marker="by-smart-host")
    yield "laptop writes to the partner", "250", seen
    yield "it arrives at the smart host", 1, lab.internet.wait_arrived("smart", "by-smart-host")
    late = [r["reply"] for r in lab.gateway.journal("delivery.transient") if r["recipient"] == "dave@partner.example"]
    yield "at the first try", [], late
    yield "and not at the MX", 0, lab.internet.arrived("mx", "by-smart-host")
    message = next((m for m in lab.internet.messages("smart") if b"by-smart-host" in m), b"")
    known = b"(Authenticated sender: site-1234@lab)" in message and b"using TLSv1.3" in message
    yield "the smart host saw TLS, and AUTH as site-1234", True, known
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
    yield "neither arrived", 0, sum(lab.internet.arrived("mx", f"printer-{who}") for who in ("boss", "thief"))


def malware_is_held(lab: Lab) -> Rows:
    archive = zipped("invoice.com", _SIGNATURE)
    cases = {
        "held-eicar": with_attachment("invoice.zip", archive, "held-eicar"),
        "held-exe": with_attachment("setup.exe", b"MZ" + b"\0" * 60, "held-exe"),
        "held-hidden": with_attachment("photo.jpg", b"MZ" + b"\0" * 60, "held-hidden"),
    }
    for marker, text in cases.items():
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
    yield "nothing is held any more", [], lab.gateway.rows("quarantine", "list")
    yield "each arrived exactly once", [1, 1, 1], [lab.internet.arrived("mx", marker) for marker in cases]
    inside = next(m for m in lab.internet.messages("mx") if b"held-eicar" in m)
    yield "its octets are as they were", True, base64.b64encode(archive)[:40] in inside


def strangers_are_refused(lab: Lab) -> Rows:
    to = ["--from", "x@elsewhere.example", "--to", "bob@mx.example"]
    gate = ["--server", GATEWAY_LAN_4]
    yield "laptop without AUTH on 25", "550", swaks(lab, "laptop", *gate, *to, marker="stranger")
    yield "laptop without AUTH on 587", "530", swaks(lab, "laptop", *gate, "--port", "587", *to, marker="stranger")
    probes = (
        "bob@mx.example",
        "bob%mx.example@site.example",
        "bob%mx.example",
        "mx.example!bob@site.example",
        "@site.example:bob@mx.example",
        '"bob@mx.example"@site.example',
        "bob@[198.51.100.25]",
    )
    for address in probes:
        seen = swaks(lab, "internet", *FROM_OUTSIDE, address, marker="stranger")
        yield f"from the Internet, to {address}", "5", seen[:1]
    own = ["--server", "198.51.100.2", "--to", "bob@mx.example", "--from"]
    for sender in ("anna@site.example", "<>", "printer@site.example"):
        yield f"from the Internet, as {sender}", "550", swaks(lab, "internet", *own, sender, marker="stranger")
    yield "nothing of it arrived", 0, lab.internet.arrived("mx", "stranger")


def local_mail_is_read(lab: Lab) -> Rows:
    known = swaks(lab, "internet", *FROM_OUTSIDE, "anna@site.example", marker="local-mail")
    yield "the Internet writes to anna@site.example", "250", known
    unknown = swaks(lab, "internet", *FROM_OUTSIDE, "nobody@site.example", marker="local-mail")
    yield "and to nobody@site.example", "550", unknown
    seen: dict[str, object] = {}

    def read() -> bool:
        seen.update(read_mail(lab, "laptop", GATEWAY_LAN_4, "local-mail"))
        return seen.get("imap") == 1

    until(read)
    yield "anna reads it over IMAPS", 1, seen.get("imap", seen)
    yield "and over POP3S", 1, seen.get("pop3", seen)
    yield "a wrong password", "refused", seen.get("guess", seen)
    yield "the quarantine is among her folders (she is an admin)", True, bool(seen.get("quarantine"))
