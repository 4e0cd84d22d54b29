from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest

from tests.mailbox.takeover.servers import give


@pytest.fixture
def world():
    """A directory that the servers' user may enter (pytest's own are closed)."""
    directory = Path(tempfile.mkdtemp(prefix="eg-"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def home(world):
    (world / "home").mkdir()
    return give(world / "home")
