"""Deliver messages one by one, and say the number of each that was: run_delivery.py DIRECTORY GROUP FIRST."""

from __future__ import annotations

import asyncio
import grp
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from egressguard.mailbox.delivery import MaildirDelivery
from egressguard.mailbox.deposit import Deposit
from egressguard.policy.model import Policy
from egressguard.store.content import Content
from tests.access.race import content


async def main(directory: Path, group: str, first: int) -> None:
    delivery = MaildirDelivery(directory / "mailboxes", grp.getgrnam(group).gr_gid)
    policy = Policy.model_validate({"site": {"zones": {}}})
    paths = ("x@example.net", "anna@example.org")
    number = first
    while True:
        deposit = Deposit("anna", "INBOX", f"N{number}", *paths, Content.of(content(number)), is_again=True)
        outcome = await delivery.store(policy, deposit)
        if outcome.result.name == "DELIVERED":
            print(number, flush=True)
            number += 1


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
