"""People whom PAM knows, asked through the real libpam with a service of the test's own (in a mount namespace)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from egressguard.smtp.pam_accounts import PamAccounts
from egressguard.store.passwd import PasswdEntry, PasswdFile, hash_password, render_passwd_line

ASK = """
import json, os, subprocess, sys
from pathlib import Path
from egressguard.smtp.pam_accounts import PamAccounts
from egressguard.store.passwd import PasswdFile
folder, questions = Path(sys.argv[1]), json.loads(sys.argv[2])
subprocess.run(["mount", "--bind", folder, "/mnt"], check=True)  # where everybody may look
subprocess.run(["mount", "--bind", "/mnt/pam.d", "/etc/pam.d"], check=True)
os.setgroups([]); os.setgid(65534); os.setuid(65534)
answers = []
for service, name, password in questions:
    try:
        answers.append(PamAccounts(PasswdFile(Path("/mnt/passwd")), service).verify(name, password))
    except OSError as wrong:
        answers.append(str(wrong))
print(json.dumps(answers))
"""
CHECK = """#!/bin/sh
read -r password
[ "$PAM_USER" = carol ] && [ "$password" = "correct horse" ]
"""


def ask(folder: Path, *questions: tuple[str, str, str]) -> list[bool | str]:
    pytest.importorskip("pam", reason="needs the package python-pam")
    services = folder / "pam.d"
    services.mkdir()
    check = folder / "check"
    check.write_text(CHECK)
    check.chmod(0o755)
    people = ("[success=1 default=ignore] pam_exec.so quiet expose_authtok /mnt/check", "requisite pam_deny.so")
    auth = "".join(f"auth {module}\n" for module in (*people, "required pam_permit.so"))
    (services / "people").write_text(f"{auth}account required pam_permit.so\n")
    (services / "closed").write_text("auth required pam_permit.so\naccount required pam_deny.so\n")
    (services / "broken").write_text("auth required pam_no_such_module.so\naccount required pam_permit.so\n")
    (folder / "passwd").write_text(render_passwd_line(PasswdEntry("anna", hash_password("anna's own"), disabled=True)))
    folder.chmod(0o755)
    command = ["unshare", "-m", sys.executable, "-c", ASK, str(folder), json.dumps(questions)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd="/")
    if "Operation not permitted" in done.stderr:
        pytest.skip("needs the right to make a mount namespace")
    assert done.returncode == 0, done.stderr
    answers: list[bool | str] = json.loads(done.stdout)
    return answers


@pytest.mark.system
def test_pam_is_asked_for_those_whom_the_file_does_not_have(tmp_path: Path) -> None:
    right, wrong, stranger, file_s, closed, broken, hostile = ask(
        tmp_path,
        ("people", "carol", "correct horse"),
        ("people", "carol", "wrong"),
        ("people", "dave", "correct horse"),
        ("people", "anna", "correct horse"),
        ("closed", "carol", "correct horse"),
        ("broken", "carol", "correct horse"),
        ("people", "carol\nx", "correct horse"),
    )
    assert (right, wrong, stranger, file_s, closed, hostile) == (True, False, False, False, False, False)
    assert isinstance(broken, str) and broken.startswith("PAM cannot tell: ")


def test_without_the_package_nobody_can_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pam", None)
    accounts = PamAccounts(PasswdFile(tmp_path / "passwd"), "people")
    with pytest.raises(OSError, match="python-pam is not installed"):
        accounts.verify("carol", "anything")
    assert accounts.verify("carol", "") is False
