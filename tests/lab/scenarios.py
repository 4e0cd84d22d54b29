"""All scenarios by name, in the order in which they are played."""

from __future__ import annotations

from collections.abc import Iterator

from tests.lab import endurance, mail, past, wall
from tests.lab.rows import Row, Scenario
from tests.lab.world import Lab

SCENARIOS: dict[str, Scenario] = {
    "bot": wall.bot_is_blocked,
    "gateway": wall.bot_at_the_gateway,
    "submission": mail.laptop_submits,
    "octets": mail.octets_are_kept,
    "smart-host": mail.smart_host_on_2525,
    "printer": mail.printer_is_pinned,
    "redirect": wall.guest_is_redirected,
    "thought": wall.thought_is_given,
    "quarantine": mail.malware_is_held,
    "strangers": mail.strangers_are_refused,
    "mailbox": mail.local_mail_is_read,
    "own-processes": wall.other_processes_are_guarded,
    "metrics": endurance.metrics_are_clean,
    "sigkill": endurance.killed_in_mid_load,
    "backtest": past.day_is_decided_again,
    "down": wall.down_removes_only_ours,
}


def play(lab: Lab, name: str) -> Iterator[Row]:
    """Play one scenario; a gateway that an earlier one took down is started first."""
    if not lab.gateway.is_running:
        lab.gateway.start()
    for tried, expected, seen in SCENARIOS[name](lab):
        yield Row(name, tried, str(expected), str(seen))
