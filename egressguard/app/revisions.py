"""Rules of any revision: a directory, or what a git commit has of one.

Contract
    "DIRECTORY" is that directory; "REV" is the commit's version of the rules directory that stands beside it in the
    question, "REV:PATH" that folder of its repository. A directory comes before a revision of the same name.
    The repository is trusted as little as in app.provenance; what is read of it is bounded in files and octets.
    What cannot be read raises Unreadable with one line that says what was looked for, and where.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from egressguard.app.provenance import Git, git_of
from egressguard.app.rules import MAX_FILE_OCTETS, MAX_FILES, MAX_TOTAL_OCTETS

_REGULAR = frozenset({b"100644", b"100755"})


class Unreadable(Exception):
    """Why there are no rules to be had."""


@contextmanager
def rules_at(text: str, beside: Path) -> Iterator[Path]:
    """The directory with the rules of `text`; those of a commit are put into a directory that is gone afterwards.

    `beside` is a directory in the repository that revisions are of. Raises Unreadable."""
    if not text or not text.isprintable():
        raise Unreadable(f"{text!r:.80} is neither a directory nor a revision; expected a directory, REV or REV:PATH")
    if Path(text).is_dir():
        yield Path(text)
        return
    with tempfile.TemporaryDirectory(prefix="egressguard-rules-") as scratch:
        (Path(scratch) / "git").mkdir()
        target = Path(scratch) / _folder_name(text)
        target.mkdir()
        git = git_of(beside, Path(scratch) / "git") if beside.is_dir() else None
        if git is None:
            raise Unreadable(f"no directory {text!r:.80}, and {beside} is in no git repository that could know it")
        _write(_read(git, text), target)
        yield target


def _folder_name(text: str) -> str:
    """As faults name the files: the revision, as far as it can stand in a file name."""
    return "".join(c if c.isalnum() or c in "._-~^" else "-" for c in text[:60]).strip(".") or "rules"


def _read(git: Git, text: str) -> dict[str, bytes]:
    revision, colon, folder = text.partition(":")
    if revision.startswith("-") or not revision:
        raise Unreadable(f"{text!r:.80} is no revision; expected a directory, REV or REV:PATH")
    commit = git.say("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    if commit is None:
        raise Unreadable(f"no directory and no commit {revision!r:.80}; expected a directory, REV or REV:PATH")
    place = str(PurePosixPath(folder if colon else git.prefix))
    listed = git.octets("ls-tree", "-r", "-z", "--full-tree", "--long", commit.strip(), *_only(place))
    names = _names(listed or b"", place)
    if not names:
        raise Unreadable(f"commit {commit[:12]} has no files in {place!r:.80}; expected a directory of rule files")
    return _contents(git, names)


def _only(place: str) -> list[str]:
    return [] if place == "." else ["--", place]


def _names(listed: bytes, place: str) -> dict[str, bytes]:
    """What ls-tree says -> file name, relative to the place, -> the name of its octets. Raises Unreadable."""
    found: dict[str, bytes] = {}
    octets = 0
    for line in filter(None, listed.split(b"\0")):
        about, _, raw = line.partition(b"\t")
        mode, _kind, name, size = about.split()
        path = PurePosixPath(raw.decode("utf-8", "surrogateescape"))
        if mode not in _REGULAR or (place != "." and not path.is_relative_to(place)):
            continue  # a symbolic link or a submodule is no rule file of this commit
        octets += int(size)
        if len(found) >= MAX_FILES or int(size) > MAX_FILE_OCTETS or octets > MAX_TOTAL_OCTETS:
            raise Unreadable(f"{path}: too many files or octets; expected at most {MAX_FILES}, {MAX_TOTAL_OCTETS}")
        found[str(path if place == "." else path.relative_to(place))] = name
    return found


def _contents(git: Git, names: dict[str, bytes]) -> dict[str, bytes]:
    answer = git.octets("cat-file", "--batch", given=b"".join(name + b"\n" for name in names.values()))
    if answer is None:
        raise Unreadable("git does not give the files of that commit")
    found: dict[str, bytes] = {}
    at = 0
    for name in names:
        end = answer.index(b"\n", at)
        size = int(answer[at:end].split()[2])
        found[name] = answer[end + 1 : end + 1 + size]
        at = end + 1 + size + 1
    return found


def _write(files: dict[str, bytes], target: Path) -> None:
    for name, content in files.items():
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
