from __future__ import annotations

import os
import stat

import pytest

from egressguard.mailbox.maildir import DIRECTORY_MODE, PARTS, make_maildir, share


def modes(path):
    return {p.name: stat.S_IMODE(p.stat().st_mode) for p in (path, *(path / part for part in PARTS))}


@pytest.mark.parametrize("umask", [0o077, 0o022, 0o007])
def test_the_group_may_work_in_it_whatever_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        make_maildir(tmp_path / "anna")
    finally:
        os.umask(before)

    assert set(modes(tmp_path / "anna").values()) == {DIRECTORY_MODE}


def test_one_that_dovecot_made_for_itself_alone_is_opened_to_the_group(tmp_path):
    for path in (tmp_path / "anna", *(tmp_path / "anna" / part for part in PARTS)):
        path.mkdir(mode=0o700)
    make_maildir(tmp_path / "anna")

    assert set(modes(tmp_path / "anna").values()) == {DIRECTORY_MODE}


def test_a_link_in_its_place_is_not_followed(tmp_path):
    target = tmp_path / "target"
    target.mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(target)
    share(tmp_path / "link", DIRECTORY_MODE)

    assert stat.S_IMODE(target.stat().st_mode) == 0o700
