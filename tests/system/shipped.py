"""The lab with the rules as they are shipped, and nothing but what every site must say of itself.

Contract
    rules/ is copied as it is. site.yaml gets the LAN's prefixes, the resolver, the domain and the host's name; no
    rule is added, left out or changed.
    `ours_leaving` counts TCP openings to port 25 that the Internet sees from the gateway, whoever answers them.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import yaml

from tests.lab.gateway import Gateway
from tests.lab.internet import ROOT, Internet
from tests.lab.network import DNS_4, LAN_4, LAN_6, NET_4, NET_6, Network
from tests.lab.world import Lab

DOMAIN, HOSTNAME = "site.example", "gateway.site.example"
WAN_4, WAN_6 = f"{NET_4}2", f"{NET_6}2"
_COUNTER = f"""
table inet lab_count {{
  chain input {{
    type filter hook input priority -10
    ip saddr {WAN_4} tcp dport 25 tcp flags & (syn | ack) == syn counter
    ip6 saddr {WAN_6} tcp dport 25 tcp flags & (syn | ack) == syn counter
  }}
}}
"""


@contextlib.contextmanager
def shipped() -> Iterator[Lab]:
    with tempfile.TemporaryDirectory(prefix="eg-shipped-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)  # the roles' users pass through
        (folder / "gateway").mkdir()
        with Network() as network:
            internet = Internet(network, folder)
            gateway = Gateway(network, folder / "gateway", internet.smart_ca)
            _ship(gateway.rules)
            try:
                with ThreadPoolExecutor(2) as pool:
                    for started in [pool.submit(internet.start), pool.submit(gateway.start)]:
                        started.result()
                gateway.prepare()
                made = network.run("internet", "nft", "-f", "-", given=_COUNTER)
                assert made.returncode == 0, made.stderr
                yield Lab(network, internet, gateway)
            finally:
                gateway.stop()
                internet.close()


def _ship(rules: Path) -> None:
    shutil.rmtree(rules)
    shutil.copytree(ROOT / "rules", rules)
    document = yaml.safe_load((rules / "site.yaml").read_text())
    site = document["site"]
    site["zones"]["lan"]["networks"] += [f"{LAN_4}0/25", f"{LAN_6}/64"]
    site["resolvers"], site["domains"] = [DNS_4], [DOMAIN]
    site["relay"]["hostname"] = HOSTNAME
    (rules / "site.yaml").write_text(yaml.safe_dump(document))


def ours_leaving(lab: Lab) -> int:
    listed = lab.network.run("internet", "nft", "-j", "list", "table", "inet", "lab_count").stdout
    rules = [entry["rule"]["expr"] for entry in json.loads(listed)["nftables"] if "rule" in entry]
    return sum(part["counter"]["packets"] for expressions in rules for part in expressions if "counter" in part)
