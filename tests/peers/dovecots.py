"""A gateway whose Dovecot is of either generation, with LMTP and Sieve: the words that it is started with.

2.3 is this machine's, with what its packages lack laid over /usr for the gateway alone. 2.4 lies in a Debian 13 root
(.peers/trixie): the gateway finds programs that go there. They see the gateway's directories and this checkout at
their own paths, and this machine's Python, which Dovecot calls for what Sieve scripts send. All of it is in a mount
namespace of its own.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.access.conftest import installed_version, trixie_root
from tests.app.test_gateway import NOBODY, ROOT

GENERATIONS = ("2.3", "2.4")
PYTHON = Path("/usr/bin/python3").resolve()
LIBRARIES = Path(f"/usr/lib/{PYTHON.name}")
EXPAT = "libexpat.so.1"

INTO_TRIXIE = """\
mount -t tmpfs tmpfs "$1/apart"
mkdir "$1/apart/upper" "$1/apart/work" "$1/apart/root"
root=$1/apart/root
mount -t overlay overlay -o "lowerdir=$2,upperdir=$1/apart/upper,workdir=$1/apart/work" "$root"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
shift 2
for path in $EG_SEEN; do
    if [ -d "$path" ]; then mkdir -p "$root$path"; else mkdir -p "$(dirname "$root$path")"; touch "$root$path"; fi
    mount --rbind "$path" "$root$path"
done
exec "$@"
"""


def gateway_words(generation: str, folder: Path) -> Sequence[str]:
    """For tests.app.test_gateway.running_in. `folder` is the gateway's or one above, and empty."""
    if os.geteuid() != 0:
        pytest.skip("needs root: Dovecot's files are laid over the machine's in a mount namespace")
    if generation == "2.3":
        return _words_2_3()
    root = trixie_root()
    if not (root / "usr/lib/dovecot/lmtp").exists():
        pytest.skip("needs Dovecot 2.4's LMTP: run scripts/peers")
    return _words_2_4(folder, root)


def own_words() -> Sequence[str]:
    """This machine's own, with LMTP and Sieve if they are there."""
    has_more = (ROOT / ".peers/mailserver/.unpacked").exists() and installed_version() == "2.3"
    return (str(ROOT / "scripts/peer"), "mailserver", *NOBODY) if has_more else NOBODY


def _words_2_3() -> Sequence[str]:
    if installed_version() != "2.3":
        pytest.skip(f"needs Dovecot 2.3; this machine has {installed_version()}")
    if not (ROOT / ".peers/mailserver/.unpacked").exists():
        pytest.skip("needs Dovecot's LMTP and Sieve: run scripts/peers")
    return own_words()


def _words_2_4(folder: Path, root: Path) -> Sequence[str]:
    for name in ("apart", "bin", "lib", "tmp"):
        (folder / name).mkdir()
    (folder / "tmp").chmod(0o777)
    (folder / "lib/dovecot").symlink_to(root / "usr/lib/dovecot")
    for name, where in (("dovecot", "sbin"), ("doveconf", "bin"), ("doveadm", "bin"), ("sievec", "bin")):
        script = folder / "bin" / name
        apart = "setpriv --inh-caps -all --ambient-caps -all --no-new-privs"
        script.write_text(f'#!/bin/sh\nexec chroot {folder}/apart/root {apart} /usr/{where}/{name} "$@"\n')
        script.chmod(0o755)
    seen = [str(folder), str(ROOT), str(PYTHON), "/usr/bin/python3", str(LIBRARIES)]
    seen += [str(path) for path in Path("/usr/lib").glob(f"*/{EXPAT}")]
    env = ("env", f"EG_SEEN={' '.join(seen)}", f"PATH={folder}/bin:{os.environ['PATH']}", f"TMPDIR={folder}/tmp")
    apart = ("unshare", "--mount", "--propagation", "private", "sh", "-ec", INTO_TRIXIE, "-", str(folder), str(root))
    may_chroot = ("--inh-caps", "+sys_chroot", "--ambient-caps", "+sys_chroot")
    assert shutil.which("chroot")
    return (*env, *apart, *NOBODY, *may_chroot)
