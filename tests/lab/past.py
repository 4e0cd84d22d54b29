"""Scenarios of the past: what the lab's day came to, decided again."""

from __future__ import annotations

import json
import shutil
from typing import Any

from tests.lab.rows import Rows
from tests.lab.world import Lab


def day_is_decided_again(lab: Lab) -> Rows:
    """All that earlier scenarios sent, dialled and were refused stands in the journals."""
    code, told = _backtest(lab, "rules")
    yield "the day under the same rules: exit code", 0, code
    yield "nothing would change", [], told["found"]
    yield "flows and messages were decided again", True, min(told["judged"].values(), default=0) > 0
    changed = lab.gateway.folder / "changed"
    shutil.copytree(lab.gateway.rules, changed, dirs_exist_ok=True)
    flows = changed / "flows.yaml"
    flows.write_text(flows.read_text().replace("port: 25\n    action: reject", "port: 2525\n    action: reject"))
    code, told = _backtest(lab, "changed")
    yield "with port 25 open to the LAN: exit code", 1, code
    passed = {row["host"] for row in told["found"] if row["change"] == "let through" and row["plane"] == "flow"}
    yield "the bot would be through", True, {"192.0.2.30", "2001:db8:1::30"} <= passed
    yield "no message would meet another end", [], [row for row in told["found"] if row["plane"] == "message"]


def _backtest(lab: Lab, folder: str) -> tuple[int, dict[str, Any]]:
    done = lab.gateway.cli("backtest", str(lab.gateway.folder / folder), "--since", "1h", "--json")
    return done.returncode, json.loads(done.stdout)
