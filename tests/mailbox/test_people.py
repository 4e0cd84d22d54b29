"""Whose mail is taken where PAM says who people are: accounts and people, and no daemon's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from egressguard.mailbox.people import FIRST, LAST, People, people_in

PASSWD = f"""\
root:x:0:0:root:/root:/bin/bash
daemon:x:1:1::/usr/sbin:/usr/sbin/nologin
anna:x:{FIRST}:1000:Anna,,,:/home/anna:/usr/sbin/nologin
last:x:{LAST}:1000::/home/last:/bin/sh
dynamic:x:{LAST + 1}:1000::/:/bin/sh
nobody:x:65534:65534::/nonexistent:/usr/sbin/nologin
rubbish
short:x:1001
minus:x:-1001:1::/:/bin/sh
digits:x:١٠٠١:1::/:/bin/sh
huge:x:{"9" * 5000}:1::/:/bin/sh
+nis::::::
"""


class Names:
    def exists(self, name: str) -> bool:
        if name == "disk":
            raise OSError(5, "Input/output error")
        return name == "account"


def test_only_people_are_people() -> None:
    assert people_in(os.fsencode(PASSWD)) == {"anna", "last"}


@pytest.mark.parametrize(
    ("name", "by_pam", "exists"),
    [
        ("account", False, True),
        ("account", True, True),
        ("anna", False, False),
        ("anna", True, True),
        ("root", True, False),
        ("", True, False),
    ],
)
def test_who_has_a_mailbox(tmp_path: Path, name: str, by_pam: bool, exists: bool) -> None:
    passwd = tmp_path / "passwd"
    passwd.write_text(PASSWD)
    assert People(Names(), lambda: by_pam, passwd).exists(name) is exists


def test_a_change_is_seen_and_what_cannot_be_read_is_no_answer(tmp_path: Path) -> None:
    passwd = tmp_path / "passwd"
    passwd.write_text(PASSWD)
    people = People(Names(), lambda: True, passwd)
    assert not people.exists("bert")
    passwd.write_text(f"{PASSWD}bert:x:{FIRST + 1}:1000::/:/bin/sh\n")
    assert people.exists("bert")
    passwd.unlink()
    assert people.exists("account")
    for name in ("bert", "disk"):
        with pytest.raises(OSError, match=r"No such file|Input/output"):
            people.exists(name)
