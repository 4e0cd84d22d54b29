"""Scan again: only what is out of date, every message once, whatever happens to a worker or to the run."""

import contextlib
import os
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from egressguard.policy.site import Clamd, Scan
from egressguard.scan.again import ClamdAgain
from egressguard.scan.crew import AHEAD, ANSWER_OCTETS, Crew
from egressguard.scan.job import Done, Job
from egressguard.scan.memory import Known, Memory, key_of
from egressguard.scan.rescan import Behind, Choice, Rescan, Row, _Asked, _is_given
from egressguard.scan.sources import find_sources, status_of
from tests.scan import daemons
from tests.scan.samples import EICAR, mail_with
from tests.scan.test_clamd_session import clients_get, hear

OUT_OF_DATE = Choice()
CLEAN = b"Subject: x\r\n\r\nnothing\r\n"
INFECTED = mail_with("eicar.com", EICAR)


@pytest.fixture
def crew() -> Iterator[Crew]:
    with closing(Crew(Scan, 2)) as crew:
        yield crew


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Memory]:
    with closing(Memory(tmp_path / "memory")) as memory:
        yield memory


@pytest.fixture
def box(tmp_path: Path) -> Path:
    box = tmp_path / "box"
    for part in ("new", "cur", "tmp"):
        (box / part).mkdir(parents=True)
    return box


def later() -> float:
    """So long after all files were made that their ctime is trusted."""
    return time.time() + 60


def scan(
    memory: Memory,
    crew: Crew,
    path: Path,
    choice: Choice = OUT_OF_DATE,
    edition: int = 1,
    behind: Behind | None = None,
) -> dict[str, Row]:
    with closing(Rescan(memory, lambda: crew, edition, later, behind=behind)) as rescan:
        return {os.path.relpath(row.path, path): row for row in rescan.run([str(path)], choice)}


def looked_at(rows: dict[str, Row]) -> set[str]:
    return {name for name, row in rows.items() if not row.remembered}


def test_only_what_is_out_of_date_is_looked_at(memory: Memory, crew: Crew, box: Path) -> None:
    for n in range(30):
        (box / "new" / str(n)).write_bytes(CLEAN)
    (box / "new" / "bad").write_bytes(INFECTED)
    first = scan(memory, crew, box)
    assert len(first) == len(looked_at(first)) == 31
    assert {row.verdict for row in first.values()} == {"clean", "infected"}
    again = scan(memory, crew, box)
    assert looked_at(again) == set()
    assert again["new/bad"].verdict == "infected" and again["new/bad"].findings == first["new/bad"].findings
    (box / "new" / "30").write_bytes(CLEAN)
    assert looked_at(scan(memory, crew, box)) == {"new/30"}
    assert len(looked_at(scan(memory, crew, box, edition=2))) == 32
    assert looked_at(scan(memory, crew, box, Choice(only_new=True), edition=3)) == set()
    assert len(looked_at(scan(memory, crew, box, Choice(everything=True), edition=2))) == 32


def test_a_changed_file_is_looked_at_even_with_its_old_times(memory: Memory, crew: Crew, box: Path) -> None:
    path = box / "new" / "1"
    harmless = b"Subject: x\r\n\r\n".ljust(len(INFECTED), b"x")
    path.write_bytes(harmless)
    assert scan(memory, crew, box)["new/1"].verdict == "clean"
    before = path.stat()
    path.write_bytes(INFECTED)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    row = scan(memory, crew, box)["new/1"]
    assert (row.verdict, row.remembered, row.was) == ("infected", False, "")


def test_a_flag_of_a_mail_program_is_no_change(memory: Memory, crew: Crew, box: Path) -> None:
    (box / "new" / "1").write_bytes(INFECTED)
    scan(memory, crew, box)
    (box / "new" / "1").rename(box / "cur" / "1:2,S")
    rows = scan(memory, crew, box)
    assert list(rows) == ["cur/1:2,S"] and looked_at(rows) == set()


def test_a_new_verdict_says_what_the_old_one_was(memory: Memory, crew: Crew, box: Path) -> None:
    (box / "new" / "1").write_bytes(mail_with("a.scr", b"x"))
    scan(memory, crew, box)
    with closing(Crew(lambda: Scan(denied_names=("*.scr",)), 1)) as stricter:
        row = scan(memory, stricter, box, edition=2)["new/1"]
    assert (row.was, row.verdict) == ("clean", "denied")


def test_reading_changes_nothing(memory: Memory, crew: Crew, box: Path) -> None:
    path = box / "new" / "1"
    path.write_bytes(CLEAN)
    os.utime(path, ns=(1, 1))
    before, folder = path.stat(), (box / "new").stat()
    scan(memory, crew, box)
    assert path.stat() == before and (box / "new").stat().st_mtime_ns == folder.st_mtime_ns


def test_an_mbox_is_remembered_message_by_message(memory: Memory, crew: Crew, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    lines = b"From a Thu Nov 26 15:00:00 2026\n"
    (folder / "mbox").write_bytes(lines + CLEAN + b"\n" + lines + INFECTED + b"\n\n")
    with closing(Rescan(memory, lambda: crew, 1, later)) as rescan:
        rows = sorted(rescan.run([str(folder)], Choice()), key=lambda row: row.start or 0)
    assert [(row.verdict, row.start is not None) for row in rows] == [("clean", True), ("infected", True)]
    with (folder / "mbox").open("ab") as file:
        file.write(lines + CLEAN)
    with closing(Rescan(memory, lambda: crew, 1, later)) as rescan:
        rows = sorted(rescan.run([str(folder)], Choice()), key=lambda row: row.start or 0)
    assert [row.remembered for row in rows] == [True, True, False]


def test_since_leaves_out_older_files(memory: Memory, crew: Crew, box: Path) -> None:
    for name, at in (("old", 1_000), ("young", 3_000)):
        (box / "new" / name).write_bytes(CLEAN)
        os.utime(box / "new" / name, (at, at))
    assert set(scan(memory, crew, box, Choice(since=2_000))) == {"new/young"}


def test_a_run_that_ends_early_goes_on_where_it_was(memory: Memory, box: Path) -> None:
    for n in range(300):
        (box / "new" / str(n)).write_bytes(CLEAN)
    for choice in (Choice(), Choice(everything=True)):
        with closing(Crew(Scan, 2)) as first, closing(Rescan(memory, lambda: first, 1, time.time)) as rescan:
            rows = rescan.run([str(box)], choice)
            done = sum(1 for _ in zip(range(100), rows, strict=False))
        with closing(Crew(Scan, 2)) as another, closing(Rescan(memory, lambda: another, 1, time.time)) as rescan:
            rest = list(rescan.run([str(box)], choice))
        assert len(rest) == 300
        assert sum(not row.remembered for row in rest) <= 300 - done


def test_what_cannot_be_looked_at_is_an_error_each_time(memory: Memory, crew: Crew, box: Path) -> None:
    (box / "new" / "link").symlink_to("/etc/passwd")
    for _ in range(2):
        row = scan(memory, crew, box)["new/link"]
        assert (row.verdict, row.remembered) == ("error", False)


def test_a_dying_worker_costs_its_message_and_no_other(crew: Crew, box: Path) -> None:
    for n in range(40):
        (box / "new" / str(n)).write_bytes(CLEAN)
    sources = [source for source in find_sources(str(box)) if source.status]
    found: list[Done] = []
    jobs = iter([Job(s, s.status, os.open(s.path, os.O_RDONLY), 0, s.status.size) for s in sources if s.status])
    for done in crew.run(jobs):
        assert isinstance(done, Done)
        os.close(done.job.fd)
        found.append(done)
        if len(found) in {5, 15}:
            pid = crew._hands[0].process.pid
            assert pid is not None
            with contextlib.suppress(ProcessLookupError):  # the one that died is not missed yet
                os.kill(pid, signal.SIGKILL)
    assert sorted(done.job.source.path for done in found) == sorted(source.path for source in sources)
    assert sum(done.verdict == "error" for done in found) <= 2
    assert sum(done.verdict == "clean" for done in found) >= 38


def test_no_answer_is_waited_for_that_has_come(crew: Crew, box: Path) -> None:
    """All have been answered before more is handed out, again and again."""
    for n in range(5 * AHEAD):
        (box / "new" / str(n)).write_bytes(CLEAN)

    def jobs() -> Iterator[Job]:
        for source in find_sources(str(box)):
            assert source.status
            for hand in crew._hands:
                while hand.given and hand.sock.recv(ANSWER_OCTETS, socket.MSG_PEEK).count(b"\n") < len(hand.given):
                    pass
            yield Job(source, source.status, os.open(source.path, os.O_RDONLY), 0, source.status.size)

    found = [done for done in crew.run(jobs()) if isinstance(done, Done)]
    for done in found:
        os.close(done.job.fd)
    assert [done.verdict for done in found] == ["clean"] * 5 * AHEAD


def test_a_message_that_takes_too_long_is_an_error(memory: Memory, box: Path) -> None:
    """A scanner that takes the message and says nothing."""
    (box / "new" / "1").write_bytes(CLEAN)
    with tempfile.TemporaryDirectory(prefix="eg-") as name, socket.socket(socket.AF_UNIX) as silent:
        silent.bind(f"{name}/s")
        silent.listen()
        Path(name).chmod(0o755)  # the worker is another user
        Path(name, "s").chmod(0o666)
        settings = Scan(timeout_seconds=1, clamd=Clamd(address=f"unix:{name}/s"))
        with closing(Crew(lambda: settings, 1)) as crew:
            row = scan(memory, crew, box)["new/1"]
    assert (row.verdict, row.findings) == ("error", ("clamd: does not answer: timed out",))


def test_workers_are_another_user_without_network(memory: Memory, crew: Crew, box: Path) -> None:
    (box / "new" / "1").write_bytes(CLEAN)
    if os.geteuid() != 0:
        pytest.skip("needs root: an ordinary user has no other user's rights to take")
    scan(memory, crew, box)
    pid = crew._hands[0].process.pid
    status = Path(f"/proc/{pid}/status").read_text()
    assert "Uid:\t0\t" not in status and "CapEff:\t0000000000000000" in status
    assert Path(f"/proc/{pid}/net/dev").read_text().count(":") == 1  # lo alone


@contextmanager
def news() -> Iterator[Callable[[], Behind]]:
    """What makes the editions behind 2, where clamd knows MARKER now."""
    with daemons.clamd() as address:
        yield lambda: Behind(frozenset({1}), ClamdAgain(address.removeprefix("unix:"), 10, 100_000))


@pytest.mark.peers
def test_what_is_news_to_clamd_alone_is_asked_of_clamd_alone(memory: Memory, crew: Crew, box: Path) -> None:
    """What is read at all is denied by the workers of the second run."""
    quiet = {f"new/{n}": mail_with("a.dat", b"%d" % n) for n in range(200)}
    loud = {"new/marked": mail_with("a.dat", daemons.MARKER), "new/bad": INFECTED, "new/large": b"x" * 100_001}
    for name, content in (quiet | loud | {"new/changed": CLEAN}).items():
        (box / name).write_bytes(content)
    assert len(looked_at(scan(memory, crew, box))) == 204
    (box / "new/changed").write_bytes(mail_with("a.dat", b"other"))
    (box / "new/2").write_bytes(quiet["new/2"])  # the same octets, but who knows
    with news() as behind, closing(Crew(lambda: Scan(denied_names=("*.dat",)), 2)) as stricter:
        rows = scan(memory, stricter, box, edition=2, behind=behind())
        assert {name: (row.was, row.verdict) for name, row in rows.items()} == (
            dict.fromkeys(quiet, ("clean", "clean"))
            | {"new/2": ("clean", "denied"), "new/marked": ("clean", "denied"), "new/bad": ("infected", "infected")}
            | {"new/large": ("clean", "clean"), "new/changed": ("", "denied")}
        )
        assert looked_at(rows) == set(rows)
        again = scan(memory, stricter, box, edition=2, behind=behind())
        assert looked_at(again) == set() and len(again) == len(rows), "remembered as of this edition"
        assert scan(memory, stricter, box, edition=3, behind=behind())["new/1"].verdict == "denied", "not behind 3"


@pytest.mark.peers
def test_all_is_read_again_when_all_is_asked_for(memory: Memory, crew: Crew, box: Path) -> None:
    (box / "new" / "1").write_bytes(mail_with("a.dat", b"x"))
    scan(memory, crew, box)
    with news() as behind, closing(Crew(lambda: Scan(denied_names=("*.dat",)), 1)) as stricter:
        row = scan(memory, stricter, box, Choice(everything=True), edition=2, behind=behind())["new/1"]
    assert row.verdict == "denied"


def test_what_clamd_does_not_say_is_looked_at(memory: Memory, crew: Crew, box: Path) -> None:
    """One is not there, one says nothing: it is waited for once."""
    for n in range(100):
        (box / "new" / str(n)).write_bytes(mail_with("a.dat", b"x"))
    scan(memory, crew, box)
    settings = Scan(denied_names=("*.dat",))
    with tempfile.TemporaryDirectory(prefix="eg-") as name, socket.socket(socket.AF_UNIX) as silent:
        silent.bind(f"{name}/s")
        silent.listen()
        for edition, path in ((2, "/nowhere"), (3, f"{name}/s")):
            behind = Behind(frozenset({1, 2}), ClamdAgain(path, 0.2, 100_000))
            with closing(Crew(lambda: settings, 2)) as stricter:
                rows = scan(memory, stricter, box, edition=edition, behind=behind)
            assert {row.verdict for row in rows.values()} == {"denied"} and len(rows) == 100
            with closing(memory._db.cursor()) as cursor:
                cursor.execute("UPDATE message SET verdict = 'clean', edition = 1")


def test_what_was_passed_without_clamd_is_looked_at(memory: Memory, box: Path) -> None:
    """Though clamd is back, and would take it."""
    (box / "new" / "1").write_bytes(CLEAN)
    passing = Scan(clamd=Clamd(address="unix:/nowhere", fail="pass"))
    with closing(Crew(lambda: passing, 1)) as passed:
        assert scan(memory, passed, box)["new/1"].verdict == "clean"
    (known,) = memory.recall([key_of(status_of((box / "new" / "1").stat()))]).values()
    (source,) = find_sources(str(box))
    assert source.status
    with clients_get(lambda client: hear(client, 9)) as path, (box / "new" / "1").open("rb") as file:
        asked = _Asked(source, source.status, 0, len(CLEAN), file.fileno())
        with closing(ClamdAgain[tuple[_Asked, Known]](path, 5, 100_000)) as clamd:
            behind = Behind(frozenset({1}), clamd)
            assert not _is_given(behind, asked, known) and not clamd
            assert _is_given(behind, asked, known._replace(findings=())), "what was found then makes the difference"


@pytest.mark.peers
def test_a_run_that_ends_while_clamd_is_asked_leaves_nothing_open(memory: Memory, crew: Crew, box: Path) -> None:
    for n in range(100):
        (box / "new" / str(n)).write_bytes(CLEAN)
    scan(memory, crew, box)
    before = len(list(Path("/proc/self/fd").iterdir()))
    with news() as behind, closing(Rescan(memory, lambda: crew, 2, later, behind=behind())) as rescan:
        rows = rescan.run([str(box)], Choice())
        assert next(rows).verdict == "clean"
        assert rescan._behind and len(rescan._behind.clamd) > 1
    assert len(list(Path("/proc/self/fd").iterdir())) == before
