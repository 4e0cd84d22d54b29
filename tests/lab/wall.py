"""Scenarios of the packet plane: who may dial port 25, who is told no, and who hears of it."""

from __future__ import annotations

from tests.lab.clients import connect, swaks, until
from tests.lab.network import GATEWAY_LAN_4, GATEWAY_LAN_6, MX_4, MX_6, SMART_4
from tests.lab.rows import Rows
from tests.lab.world import Lab

FLOWS = "egressguard_firewall_flows_total"


def bot_is_blocked(lab: Lab) -> Rows:
    rule = "block-direct-smtp"
    before = lab.gateway.sample(FLOWS, rule=rule, action="blocked")
    yield "bot dials the MX on IPv4", "refused", connect(lab, "bot", MX_4, 25)
    yield "bot dials the MX on IPv6", "refused", connect(lab, "bot", MX_6, 25)
    tries = {("192.0.2.30", MX_4), ("2001:db8:1::30", MX_6)}

    def journaled() -> bool:
        rows = lab.gateway.journal("flow.blocked")
        return tries <= {(r["source"], r["destination"]) for r in rows if r["rule"] == rule}

    yield "both tries are in the journal", True, until(journaled)
    yield "the journal names the bot's MAC", True, any(r["mac"] for r in lab.gateway.journal("flow.blocked"))
    counted = until(lambda: lab.gateway.sample(FLOWS, rule=rule, action="blocked") >= before + 2)
    yield "both tries are counted", True, counted
    yield "nothing from the bot arrived", 0, lab.internet.arrived("mx", "from-the-bot")
    yield "the bot may still dial 587 elsewhere (RFC 5068)", "220", connect(lab, "bot", SMART_4, 587)[:3]


def bot_at_the_gateway(lab: Lab) -> Rows:
    before = lab.gateway.sample("egressguard_smtpd_rejects_total")
    to = ["--from", "bot@elsewhere.example", "--to", "victim@mx.example"]
    for family, address in (("IPv4", GATEWAY_LAN_4), ("IPv6", GATEWAY_LAN_6)):
        seen = swaks(lab, "bot", "--server", address, *to, marker="from-the-bot")
        yield f"bot sends through the gateway's port 25, {family}", "550", seen

    def journaled() -> bool:
        clients = {r["client"] for r in lab.gateway.journal("mail.refused")}
        return {"192.0.2.30", "2001:db8:1::30"} <= clients

    yield "both refusals are in the journal", True, until(journaled)
    counted = until(lambda: lab.gateway.sample("egressguard_smtpd_rejects_total") >= before + 2)
    yield "and in the metrics", True, counted
    yield "nothing from the bot arrived", 0, lab.internet.arrived("mx", "from-the-bot")


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

    def meant() -> bool:
        rows = [r for r in lab.gateway.journal("mail.accepted") if r["client"] == "192.0.2.140"]
        return any(MX_4 in str(r.get("original_destination")) for r in rows)

    yield "the journal keeps where it wanted to", True, until(meant)
    counted = until(lambda: lab.gateway.sample(FLOWS, action="redirected", zone="guest") >= 3)
    yield "the redirections are counted", True, counted


def thought_is_given(lab: Lab) -> Rows:
    """Only the laptop may reach the partner's host on port 25, known by name: the first SYN waits for DNS."""
    yield "other ports are not asked about", "220", connect(lab, "laptop", SMART_4, 587)[:3]
    verdicts = "egressguard_nfqueue_packets_total"
    # Nothing listens on the smart host's port 25: the reset comes from there, or from the wall.
    connect(lab, "laptop", SMART_4, 25)
    allowed = until(lambda: lab.gateway.sample(verdicts, verdict="allow") >= 1)
    yield "laptop to the named host is allowed", True, allowed
    yield "laptop to the MX is refused", "refused", connect(lab, "laptop", MX_4, 25)
    refused = until(lambda: lab.gateway.sample(verdicts, verdict="reject") >= 1)
    yield "by a verdict of the daemon", True, refused


def other_processes_are_guarded(lab: Lab) -> Rows:
    yield "root's own process on the gateway dials port 25", "refused", connect(lab, "gateway", MX_4, 25)
    yield "on IPv6 too", "refused", connect(lab, "gateway", MX_6, 25)

    def journaled() -> bool:
        return any(r["rule"] == "own-processes" for r in lab.gateway.journal("flow.blocked"))

    yield "it is in the journal", True, until(journaled)


def down_removes_only_ours(lab: Lab) -> Rows:
    foreign = "table inet foreign {\n chain c {\n  tcp dport 12345 drop\n }\n}\n"
    lab.network.run("gateway", "nft", "-f", "-", given=foreign)
    before = _foreign(lab)
    yield "the gateway stops cleanly on SIGINT", 0, lab.gateway.stop()
    yield "stopped: bot dials the MX", "refused", connect(lab, "bot", MX_4, 25)
    yield "`egressguard down`", 0, lab.gateway.cli("down").returncode
    yield "then the bot meets the MX", "220", connect(lab, "bot", MX_4, 25)[:3]
    tables = lab.network.run("gateway", "nft", "list", "tables").stdout.split("\n")
    yield "only the foreign table is left", ["table inet foreign"], [t for t in tables if t]
    yield "and it is as it was", True, bool(before) and before == _foreign(lab)
    lab.network.run("gateway", "nft", "delete", "table", "inet", "foreign")


def _foreign(lab: Lab) -> str:
    return lab.network.run("gateway", "nft", "list", "table", "inet", "foreign").stdout
