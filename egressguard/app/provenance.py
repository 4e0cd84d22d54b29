"""Where the rules come from: the git commit of their directory, who made it, whether it is signed and unchanged.

Contract
    Nothing of the repository is trusted: no hook, no file system monitor, no pager and no program that its
    configuration names is run; what git says is cut and made printable; each question is bounded in time.
    No git, no repository, no commit: that is an answer ("not under git"), never an error.
    Signatures are checked with what the *machine* trusts: the user's and the system's git configuration
    (gpg.ssh.allowedSignersFile) and keyring, never the repository's.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

TIMEOUT_SECONDS = 10
SHOWN_CHARACTERS = 120
MAX_OUTPUT_OCTETS = 65536

_SIGNATURES = {
    "G": "good",
    "B": "bad",
    "X": "expired",
    "Y": "expired",
    "R": "revoked",
    "E": "unknown",
    "U": "unknown",  # good by a key that nobody here vouches for: anybody has one
    "N": "none",
}
_CURE = "commit what is changed with `git commit -S`, by a key that this machine trusts"


@dataclass(frozen=True, slots=True)
class Provenance:
    """`commit` "" = not under git. `signature` is good, bad, expired, revoked, unknown (no key) or none.

    `modified`: the files differ from the commit, or there are rule files that it does not have."""

    commit: str = ""
    author: str = ""
    date: str = ""
    signature: str = "none"
    signer: str = ""
    modified: bool = False

    def __str__(self) -> str:
        if not self.commit:
            return "not under git"
        signed = {"good": f"signed by {self.signer or 'a known key'}", "none": "not signed"}
        words = (
            f"commit {self.commit[:12]} by {self.author}, {signed.get(self.signature, f'signature {self.signature}')}"
        )
        return f"{words}, changed since" if self.modified else words

    @property
    def short(self) -> str:
        """For the table's comment, which is short."""
        if not self.commit:
            return "not under git"
        return f"commit {self.commit[:12]}{' changed since' if self.modified else ''} ({self.signature})"


NOT_UNDER_GIT = Provenance()


def provenance_of(directory: Path) -> Provenance:
    """What git knows of a rules directory."""
    with tempfile.TemporaryDirectory(prefix="egressguard-git-") as scratch:
        git = git_of(directory, Path(scratch))
        if git is None:
            return NOT_UNDER_GIT
        told = git.say("log", "-1", "--format=%H%x00%an <%ae>%x00%aI%x00%G?%x00%GS", "HEAD", "--")
        if told is None or told.count("\0") != 4:
            return NOT_UNDER_GIT
        commit, author, date, signature, signer = map(_clean, told.rstrip("\n").split("\0"))
        status = git.say("status", "--porcelain", "--untracked-files=normal", "--ignore-submodules=all", "--", ".")
        return Provenance(commit, author, date, _SIGNATURES.get(signature, "unknown"), signer, status != "")


def git_of(directory: Path, scratch: Path) -> Git | None:
    """The repository that a directory is in, to be asked; None: there is none. `scratch` is an empty directory."""
    if shutil.which("git") is None:
        return None
    git = Git(directory, scratch)
    top = git.say("rev-parse", "--absolute-git-dir")
    return git if top is not None and git.borrow(Path(top.strip())) else None


class Git:
    """git(1) on somebody's repository, with a configuration of our own instead of the repository's."""

    def __init__(self, directory: Path, scratch: Path) -> None:
        self._directory = directory
        self._scratch = scratch
        self._git_dir: Path | None = None

    def borrow(self, git_dir: Path) -> bool:
        """Look at the repository's objects, refs and index through a directory whose configuration is ours."""
        own = self._scratch / "git"
        own.mkdir()
        try:
            common = (git_dir / (git_dir / "commondir").read_text().strip()).resolve()
        except OSError:
            common = git_dir
        try:
            (own / "HEAD").write_bytes((git_dir / "HEAD").read_bytes()[:4096])
            if (git_dir / "index").exists():
                shutil.copyfile(git_dir / "index", own / "index")
            for name in ("objects", "refs", "packed-refs"):
                if (common / name).exists():
                    (own / name).symlink_to(common / name)
        except OSError:
            return False
        (own / "config").write_text("[core]\n\trepositoryformatversion = 0\n\tbare = false\n")
        self._git_dir = own
        return True

    def say(self, *words: str) -> str | None:
        """git's answer; None when it has none."""
        found = self.octets(*words)
        return None if found is None else found[:MAX_OUTPUT_OCTETS].decode("utf-8", "replace")

    def octets(self, *words: str, given: bytes = b"") -> bytes | None:
        """The same as it is; `given` is what git reads."""
        top = [] if self._git_dir is None else [f"--git-dir={self._git_dir}", f"--work-tree={self._top()}"]
        settings = ["-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", "-c", "safe.directory=*"]
        try:
            done = subprocess.run(
                ["git", "--no-pager", "--no-optional-locks", *settings, *top, *words],
                cwd=self._directory,
                env=_environment(),
                input=given,
                capture_output=True,
                timeout=TIMEOUT_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout if done.returncode == 0 else None

    @property
    def prefix(self) -> str:
        """Where the directory stands in its work tree: "rules", "." for the whole of it."""
        return self._directory.resolve().relative_to(self._top()).as_posix()

    def _top(self) -> Path:
        """The work tree: the nearest directory above that has a .git."""
        here = self._directory.resolve()
        return next((above for above in (here, *here.parents) if (above / ".git").exists()), here)


def _environment() -> Mapping[str, str]:
    kept = {name: os.environ[name] for name in ("HOME", "PATH", "GNUPGHOME", "XDG_CONFIG_HOME") if name in os.environ}
    settings = {name: value for name, value in os.environ.items() if name.startswith("GIT_CONFIG_")}
    return {**kept, **settings, "LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0", "GIT_PAGER": "cat"}


def _clean(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text[:SHOWN_CHARACTERS])


def why_not_signed(found: Provenance) -> str | None:
    """Why rules may not be taken where only signed ones may be, with the cure; None: they may."""
    if not found.commit:
        return f"only signed rules are taken, and these are not under git; {_CURE}"
    if found.modified:
        return f"only signed rules are taken, and these are changed since commit {found.commit[:12]}; {_CURE}"
    if found.signature != "good":
        words = f"the signature of commit {found.commit[:12]} is: {found.signature}"
        return f"only signed rules are taken, and {words}; {_CURE}"
    return None


def write_provenance(found: Provenance, path: Path) -> None:
    """For the roles, which see a copy of the rules that is no repository."""
    fresh = path.with_name(f"{path.name}.new")
    fresh.write_text(json.dumps(asdict(found)))
    fresh.chmod(0o644)
    fresh.rename(path)


def read_provenance(path: Path, directory: Path) -> Provenance:
    """What the supervisor wrote down; without a supervisor, what git says of `directory`."""
    try:
        fields = json.loads(path.read_text())
        return Provenance(**{key: fields[key] for key in asdict(NOT_UNDER_GIT)})
    except (OSError, ValueError, KeyError, TypeError):
        return provenance_of(directory)
