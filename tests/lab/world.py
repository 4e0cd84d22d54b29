"""The lab as one thing: network, Internet and gateway, up together and torn down together."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.lab.gateway import Gateway
from tests.lab.internet import Internet
from tests.lab.network import Network


@dataclass(frozen=True, slots=True)
class Lab:
    network: Network
    internet: Internet
    gateway: Gateway


@contextlib.contextmanager
def lab() -> Iterator[Lab]:
    """Build everything, the gateway running; whatever happens, nothing stays behind."""
    with tempfile.TemporaryDirectory(prefix="eg-lab-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)  # the roles' users pass through
        (folder / "gateway").mkdir()
        with Network() as network:
            internet = Internet(network, folder)
            gateway = Gateway(network, folder / "gateway", internet.smart_ca)
            try:
                with ThreadPoolExecutor(2) as pool:
                    for started in [pool.submit(internet.start), pool.submit(gateway.start)]:
                        started.result()
                gateway.prepare()
                yield Lab(network, internet, gateway)
            finally:
                gateway.stop()
                internet.close()
