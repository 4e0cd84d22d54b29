"""Our signatures, as opendkim reads them."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from typing import Literal

import pytest

from egressguard.mail.header import split_header_section
from egressguard.mail.submission import with_crlf
from egressguard.policy.signing import ABSENT_FIELDS, SIGNED_FIELDS
from egressguard.senderauth.author import author_of
from egressguard.senderauth.sign_fields import dkim_signature, names_to_sign, signable
from egressguard.senderauth.sign_keys import make_key

ROOT = Path(__file__).parents[2]
MAIL = ROOT / "tests" / "data" / "mail"

pytestmark = [
    pytest.mark.peers,
    pytest.mark.skipif(
        not (ROOT / ".peers" / "opendkim" / ".unpacked").exists(), reason="opendkim is not here: scripts/peers"
    ),
    pytest.mark.skipif(os.geteuid() != 0, reason="opendkim needs root: scripts/peer makes a mount namespace"),
]


@pytest.mark.parametrize("kind", ["rsa", "ed25519"])
def test_opendkim_takes_our_signatures(tmp_path: Path, kind: Literal["rsa", "ed25519"]) -> None:
    key, names = make_key(kind), []
    (tmp_path / "keys").write_text(f"s1._domainkey.sender.example {key.record}\n")
    (tmp_path / "conf").write_text(f"Mode v\nTestPublicKeys {tmp_path}/keys\nSyslog no\n")
    for path in sorted(MAIL.iterdir()):
        content = with_crlf(path.read_bytes())
        section = split_header_section(content)[0]
        if not author_of(section).domain or b"\0" in content:
            continue
        message = signable(b"", section, content)
        wanted = names_to_sign(message.fields, SIGNED_FIELDS, ABSENT_FIELDS)
        field = dkim_signature(key, "sender.example", "s1", message, wanted, time.time())
        (tmp_path / path.name).write_bytes(field + content)
        names.append(path.name)
    assert len(names) > 5
    command = [str(ROOT / "scripts" / "peer"), "opendkim", "opendkim", "-v", "-x", str(tmp_path / "conf"), "-t"]
    said = subprocess.run(
        [*command, ",".join(str(tmp_path / name) for name in names)], capture_output=True, check=False
    )
    told = said.stdout.decode("utf-8", "replace")
    held = [name for name in names if any(name in line and "succeeded" in line for line in told.splitlines())]
    assert held == names, told[-2000:]
