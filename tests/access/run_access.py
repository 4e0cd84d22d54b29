"""Run an Access in a process of its own, for the test that kills it: run_access.py DIRECTORY USER GROUP."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from prometheus_client import CollectorRegistry

from egressguard.access.dovecot_process import Access
from egressguard.access.model import AccessModel, Ports
from egressguard.access.ports import choose_ports
from egressguard.access.programs import find_programs


async def main(directory: Path, user: str, group: str) -> None:
    if find_programs() is None:
        print("not installed", flush=True)
        return
    names = ("base_dir", "state_dir", "certificate", "private_key")
    model = AccessModel(
        **{name: directory / name for name in names},
        mailbox_root=directory / "mailboxes",
        views_root=directory / "quarantine" / "views",
        accounts=directory / "accounts" / "passwd",
        user=user,
        group=group,
        ports=choose_ports(Ports(imaps=0), ("127.0.0.1",)),
        addresses=("127.0.0.1",),
    )
    access = Access(model, record=lambda kind, fields: None, registry=CollectorRegistry())
    running = asyncio.create_task(access.run())
    await access.wait_running()
    (directory / "port").write_text(str(model.ports.imaps))
    assert access._server is not None
    print(access._server.pid, flush=True)
    await running


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3]))
