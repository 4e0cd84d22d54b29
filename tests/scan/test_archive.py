"""Archives of every kind are opened by their content, bounded in every way; what cannot be opened is said in words."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import shutil
import struct
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from egressguard.policy.site import Scan
from egressguard.policy.verdict import Verdict
from egressguard.scan import libarchive
from egressguard.scan.archive import members
from egressguard.scan.budget import MAX_MEMBERS, Budget, Member, Opened
from egressguard.scan.examine import examine
from egressguard.scan.kinds import media_type
from tests.scan.samples import EICAR, PROGRAM, mail_with, zip_of

ROOT = Path(__file__).parent.parent.parent
ARCHIVERS = ROOT / ".peers" / "archivers" / "usr"
SETTINGS = Scan(denied_names=("*.exe",), denied_types=("application/x-dosexec",))
MIB = 1 << 20


def opened(content: bytes, *, octets: int = 256 * MIB, levels: int = 5) -> tuple[list[Member], list[str]]:
    problems = Opened()
    return list(members(("a",), content, media_type(content), Budget(octets), levels, problems)), problems.problems


def tar_of(name: str, content: bytes, kind: int = tarfile.PAX_FORMAT) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=kind) as archive:
        info = tarfile.TarInfo(name)
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
    return packed.getvalue()


def old_tar(name: str, content: bytes) -> bytes:
    """A header of 1979: without a magic word."""
    header = bytearray(tar_of(name, content, tarfile.USTAR_FORMAT))
    header[257:512] = bytes(255)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header[:512])
    return bytes(header)


def ar_of(name: str, content: bytes) -> bytes:
    return (
        b"!<arch>\n%-16s%-12d%-6d%-6d%-8s%-10d`\n" % (name.encode(), 0, 0, 0, b"644", len(content))
        + content
        + b"\n" * (len(content) % 2)
    )


def cpio_of(name: str, content: bytes) -> bytes:
    def entry(name: bytes, content: bytes, mode: int) -> bytes:
        fields = (1, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0)
        head = b"070701" + b"".join(b"%08x" % field for field in fields) + name + b"\0"
        return b"".join(part + bytes(-len(part) % 4) for part in (head, content))

    return entry(name.encode(), content, 0o100644) + entry(b"TRAILER!!!", b"", 0)


def lha_of(name: str, content: bytes) -> bytes:
    """Level 0, stored."""
    body = struct.pack("<5sIIIBBB", b"-lh0-", len(content), len(content), 0, 0x20, 0, len(name))
    body += name.encode() + struct.pack("<H", _crc16(content))
    return bytes([len(body), sum(body) & 0xFF]) + body + content + b"\0"


def _crc16(content: bytes) -> int:
    crc = 0
    for octet in content:
        crc ^= octet
        for _ in range(8):
            crc = crc >> 1 ^ (0xA001 if crc & 1 else 0)
    return crc


def cab_of(name: str, content: bytes) -> bytes:
    """One folder of one stored block ([MS-CAB] s2)."""
    files = struct.pack("<IIHHHH", len(content), 0, 0, 0, 0, 0x20) + name.encode() + b"\0"
    data = struct.pack("<IHH", 0, len(content), len(content)) + content
    files_at = 36 + 8
    data_at = files_at + len(files)
    head = struct.pack("<4sIIIIIBBHHHHH", b"MSCF", 0, data_at + len(data), 0, files_at, 0, 3, 1, 1, 1, 0, 0, 0)
    return head + struct.pack("<IHH", data_at, 1, 0) + files + data


def _number(value: int) -> bytes:
    octets = b""
    while value > 0x7F:
        octets += bytes([value & 0x7F | 0x80])
        value >>= 7
    return octets + bytes([value])


def _rar_block(body: bytes) -> bytes:
    sized = _number(len(body)) + body
    return struct.pack("<I", zlib.crc32(sized)) + sized


RAR_START = b"Rar!\x1a\x07\x01\x00"


def rar_of(name: str, content: bytes) -> bytes:
    """RAR 5, stored: main header (1), one file (2), end (5)."""
    head = _number(2) + _number(2) + _number(len(content)) + _number(4) + _number(len(content)) + _number(0o100644)
    head += struct.pack("<I", zlib.crc32(content)) + _number(0) + _number(1) + _number(len(name)) + name.encode()
    return RAR_START + _rar_block(b"\1\0\0") + _rar_block(head) + content + _rar_block(b"\5\0\0")


def rar_with_a_password_on_its_names() -> bytes:
    """RAR 5: the encryption header (4) comes first, nothing else can be read."""
    head = _number(4) + _number(0) + _number(0) + _number(0) + b"\x0f" + bytes(16)
    return RAR_START + _rar_block(head) + os.urandom(64)


def packed(pack: Callable[[bytes], bytes]) -> Callable[[str, bytes], bytes]:
    return lambda name, content: pack(tar_of(name, content))


KINDS: dict[str, Callable[[str, bytes], bytes]] = {
    "zip": lambda name, content: zip_of((name, content)),
    "tar": tar_of,
    "tar-gnu": lambda name, content: tar_of(name, content, tarfile.GNU_FORMAT),
    "tar-old": old_tar,
    "tar.gz": packed(gzip.compress),
    "tar.bz2": packed(bz2.compress),
    "tar.xz": packed(lzma.compress),
    "tar.lzma": packed(lambda content: lzma.compress(content, lzma.FORMAT_ALONE)),
    "ar": ar_of,
    "cpio": cpio_of,
    "lha": lha_of,
    "cab": cab_of,
    "rar5": rar_of,
    "zip-behind-a-program": lambda name, content: PROGRAM + zip_of((name, content)),
    "rar-behind-a-program": lambda name, content: PROGRAM * 50 + rar_of(name, content),
    "cab-behind-a-program": lambda name, content: PROGRAM * 50 + cab_of(name, content),
}


@pytest.mark.parametrize("outer", [None, "zip", "tar.gz", "rar5", "cab"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_an_archive_holds_is_found_in_any_other(kind: str, outer: str | None) -> None:
    for name, content, verdict in (
        ("run.exe", b"abc", Verdict.DENIED),
        ("x.com", EICAR, Verdict.INFECTED),
        ("photo.jpg", PROGRAM, Verdict.DENIED),
    ):
        archive = KINDS[kind](name, content)
        archive = KINDS[outer]("inner.dat", archive) if outer else archive

        report = examine(mail_with("notes.txt", archive), SETTINGS)

        assert report.verdict is verdict, report.findings
        assert report.attachments is not None
        assert name in {a.path[-1] for a in report.attachments}


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "program" not in kind])
def test_an_archive_with_nothing_bad_in_it_is_clean(kind: str) -> None:
    report = examine(mail_with("a.bin", KINDS[kind]("notes.txt", b"hello")), SETTINGS)

    assert (report.verdict, report.findings) == (Verdict.CLEAN, ())


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress], ids=["gz", "bz2", "xz"])
def test_one_packed_file_has_the_name_that_its_program_would_give_it(pack: Callable[[bytes], bytes]) -> None:
    report = examine(mail_with("run.exe.pk", pack(b"abc")), SETTINGS)

    assert report.attachments is not None
    assert report.attachments[1].path == ("run.exe.pk", "run.exe")
    assert report.verdict is Verdict.DENIED


def local_name_changed() -> bytes:
    archive = zip_of(("run.exe", b"abc"))
    at = archive.rfind(b"run.exe")
    return archive[:at] + b"a.t.txt" + archive[at + 7 :]


def local_method_changed() -> bytes:
    archive = bytearray(zip_of(("a.txt", b"abc")))
    archive[8] = 0
    return bytes(archive)


def left_out_of_the_directory() -> bytes:
    return zip_of(("run.exe", b"abc")) + zip_of(("a.txt", b"abc"))


def name_with_nul() -> bytes:
    return zip_of(("aaaa.txt", b"abc")).replace(b"aaaa.txt", b"a.e\0.txt")


def end_in_a_comment() -> bytes:
    inner, outer = zip_of(("a.txt", b"abc")), bytearray(zip_of(("run.exe", b"abc")))
    outer[-2:] = struct.pack("<H", len(inner))
    return bytes(outer) + inner


def overlapping() -> bytes:
    """Each name leads to the same octets: few of them unpack to very many."""
    content = bytearray(zip_of(*[(f"{n:04}.txt", b"\0" * 100_000) for n in range(50)]))
    first = content.index(b"PK\x01\x02")
    at = content.find(b"PK\x01\x02", first + 1)
    while at >= 0:
        content[at + 42 : at + 46] = bytes(4)
        content[at + 46 : at + 54] = b"0000.txt"
        at = content.find(b"PK\x01\x02", at + 1)
    return bytes(content)


@pytest.mark.parametrize(
    "make",
    [local_name_changed, local_method_changed, left_out_of_the_directory, name_with_nul, end_in_a_comment, overlapping],
)
def test_a_zip_that_programs_read_differently_is_held(make: Callable[[], bytes]) -> None:
    report = examine(mail_with("a.zip", make()), Scan())

    assert report.verdict is Verdict.DENIED
    assert any("differently" in finding for finding in report.findings), report.findings


def test_a_member_without_a_name_is_looked_at() -> None:
    nameless = zip_of(("a", EICAR))
    for at in (26, nameless.rindex(b"PK\x01\x02") + 28):  # the length of the name, in both headers
        nameless = nameless[:at] + b"\0\0" + nameless[at + 2 :]

    assert examine(mail_with("a.zip", nameless), Scan()).verdict in {Verdict.DENIED, Verdict.INFECTED}


def test_a_name_that_leads_out_of_its_folder_is_held() -> None:
    assert examine(mail_with("a.zip", zip_of(("../../etc/cron.d/x", b"x"))), Scan()).verdict is Verdict.DENIED


def test_both_names_of_a_zip_member_count() -> None:
    info = zipfile.ZipInfo("notes.txt")
    name = b"run.exe"
    info.extra = struct.pack("<HHBI", 0x7075, 5 + len(name), 1, zlib.crc32(b"notes.txt")) + name
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr(info, b"abc")

    report = examine(mail_with("a.zip", target.getvalue()), SETTINGS)

    assert "denied name: a.zip > run.exe" in report.findings


def test_zips_that_programs_make_raise_no_doubts() -> None:
    """A member of unknown length, an archive in an archive as it is, ZIP64, a comment, a changed directory."""

    class Pipe(io.RawIOBase):
        written = b""

        def writable(self) -> bool:
            return True

        def write(self, octets) -> int:  # type: ignore[no-untyped-def]
            self.written += bytes(octets)
            return len(octets)

    pipe, target = Pipe(), io.BytesIO()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive:  # type: ignore[arg-type]
        archive.writestr("a.txt", b"abc" * 1000)
        archive.writestr("bänke.txt", b"abc")
    with zipfile.ZipFile(target, "w") as archive:
        archive.comment = b"a comment"
        archive.writestr("inner.zip", zip_of(("b.txt", b"abc")))
        with archive.open("c.txt", "w", force_zip64=True) as member:
            member.write(b"abc")
        archive.mkdir("folder")

    for content in (pipe.written, target.getvalue()):
        found, problems = opened(content)
        assert found and not problems, problems


def test_encrypted_names_are_a_fact() -> None:
    report = examine(mail_with("a.rar", rar_with_a_password_on_its_names()), Scan())

    assert report.verdict is Verdict.DENIED
    assert report.attachments is not None and any(a.encrypted for a in report.attachments), report.findings


@pytest.mark.parametrize(
    "content",
    [b"MSWIM\0\0\0", b"vhdxfile", b"\x60\xea" + bytes(40), b"xar!" + bytes(40), b"x" * 7 + b"**ACE**"],
    ids=["wim", "vhdx", "arj", "xar", "ace"],
)
def test_what_nothing_here_can_open_is_held(content: bytes) -> None:
    report = examine(mail_with("a.txt", content), Scan())

    assert report.verdict is Verdict.DENIED
    assert "cannot be looked into: a.txt" in report.findings[0]


def test_without_the_library_archives_are_held_and_the_words_say_what_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(libarchive, "_library", lambda: None)

    report = examine(mail_with("a.tgz", KINDS["tar.gz"]("a.txt", b"x")), Scan())

    assert libarchive.is_missing()
    assert report.verdict is Verdict.DENIED
    assert "libarchive13 is missing" in report.findings[0]


def test_an_archive_that_crashes_its_reader_is_held() -> None:
    """Found by mutation: libarchive 3.6.2 reads on where a cabinet's block is damaged, and its process ends."""
    cabinet = bytes.fromhex(
        "4d534346000000006d000000000000002c000000000000000301010002000000000000005d00000001000000040000000000000000007a5d"
        "207a20007275ab2e65786500040000000400000000007a5d207aa000645cc3bc2e65786500080008000800fe006162630a6162630a"
    )

    report = examine(mail_with("a.cab", cabinet), Scan())

    assert report.verdict is Verdict.DENIED


# --- Bombs -------------------------------------------------------------------------------------------------------


def gz_bomb() -> bytes:
    return gzip.compress(bytes(64 * MIB)) * 16


def zip_bomb() -> bytes:
    """A gigabyte of zeros, made of one block many times over."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = packer.compress(bytes(MIB)) + packer.flush(zlib.Z_FULL_FLUSH)
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("x.bin", block * 1024)
    content = bytearray(target.getvalue())
    for at, method, size in ((0, 8, 22), (content.rindex(b"PK\x01\x02"), 10, 24)):
        content[at + method : at + method + 2] = struct.pack("<H", zipfile.ZIP_DEFLATED)
        content[at + size : at + size + 4] = struct.pack("<I", 1 << 30)
    return bytes(content)


def tar_gz_bomb() -> bytes:
    header = tarfile.TarInfo("x.bin")
    header.size = 1 << 30
    return gzip.compress(header.tobuf(tarfile.USTAR_FORMAT)) + gz_bomb()


def bz2_bomb() -> bytes:
    return bz2.compress(bytes(16 * MIB)) * 64


def xz_bomb() -> bytes:
    return lzma.compress(bytes(8 * MIB), preset=0) * 128


def packed_by(*command: str) -> Callable[[], bytes]:
    """By a program of this machine; the test is skipped by its name where there is none."""

    def bomb() -> bytes:
        if shutil.which(command[0]) is None:
            pytest.skip(f"needs {command[0]}")
        return subprocess.run(command, input=bytes(64 * MIB), stdout=subprocess.PIPE, check=True).stdout * 16

    return bomb


def archive_bomb(ending: str, *command: str) -> Callable[[], bytes]:
    """A gigabyte in one file, by a peer's archiver: takes so long that only `make system` does it."""

    def bomb() -> bytes:
        if not os.environ.get("EGRESSGUARD_BOMBS"):
            pytest.skip("a gigabyte is packed only where EGRESSGUARD_BOMBS is set, as `make system` does")
        with tempfile.TemporaryDirectory() as folder:
            with (Path(folder) / "x.bin").open("wb") as file:
                file.truncate(1 << 30)
            archive = Path(folder) / f"x.{ending}"
            words = [str(ROOT / "scripts" / "peer"), "archivers", *command, str(archive), "x.bin"]
            subprocess.run(words, cwd=folder, stdout=subprocess.DEVNULL, check=True)
            return archive.read_bytes()

    return bomb


def tree_of_zips() -> bytes:
    """Sixteen in sixteen in sixteen ..., at the bottom much of nothing."""
    content = zip_of(("0.bin", bytes(4 * MIB)))
    for _ in range(4):
        content = zip_of(*[(f"{n}.zip", content) for n in range(16)])
    return content


def many_members() -> bytes:
    header = tar_of("a", b"", tarfile.USTAR_FORMAT)[:512]
    return gzip.compress(header * 400_000)


def xz_with_a_huge_window() -> bytes:
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 32 * MIB}]
    content = bytearray(lzma.compress(b"abc", format=lzma.FORMAT_XZ, check=lzma.CHECK_NONE, filters=filters))
    block = 12  # the block header: its length, flags, then filter id, size and properties
    length = (content[block] + 1) * 4
    at = content.index(b"\x21\x01", block) + 2
    content[at] = 40  # 4 GiB less one octet
    content[block + length - 4 : block + length] = struct.pack("<I", zlib.crc32(content[block : block + length - 4]))
    return bytes(content)


def deep() -> bytes:
    content = b"abc"
    for number in range(60):
        content = zip_of(("x", content)) if number % 2 else tar_of("x", content)
    return content


BOMBS: dict[str, Callable[[], bytes]] = {
    "gz": gz_bomb,
    "zip": zip_bomb,
    "tar-gz": tar_gz_bomb,
    "bz2": bz2_bomb,
    "xz": xz_bomb,
    "zstd": packed_by("zstd", "-q", "-c"),
    "lz4": packed_by("lz4", "-q", "-c"),
    "7z": archive_bomb("7z", "7z", "a", "-mx=1"),
    "cab": archive_bomb("cab", "gcab", "-c", "-z"),
    "tree": tree_of_zips,
    "members": many_members,
    "xz-window": xz_with_a_huge_window,
    "overlapping": overlapping,
    "deep": deep,
}
CHILD = """
import resource, sys
from pathlib import Path
from egressguard.policy.site import Scan
from egressguard.scan.examine import examine
from egressguard.scan.kinds import media_type
content = Path(sys.argv[1]).read_bytes()
resource.setrlimit(resource.RLIMIT_AS, (600 << 20, 600 << 20))
resource.setrlimit(resource.RLIMIT_CPU, (6, 6))  # a second of it is for what came before
report = examine(content, Scan())
status = Path("/proc/self/status").read_text()
most = int(status.split("VmHWM:")[1].split()[0])
print(report.verdict.value, most, *report.findings, sep="\\n")
"""


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_held_within_five_seconds_of_the_processor_and_150_mb(name: str, tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(mail_with("a.bin", BOMBS[name]()))

    command = [sys.executable, "-c", CHILD, tmp_path / "m"]
    said = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)

    verdict, kib, *findings = said.stdout.splitlines()
    assert verdict == "denied", findings
    assert int(kib) < 150 * 1024


def test_the_members_of_all_archives_are_counted_together() -> None:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for number in range(MAX_MEMBERS + 10):
            archive.writestr(str(number), b"")

    found, problems = opened(target.getvalue())

    assert len(found) == MAX_MEMBERS
    assert problems == [f"unpacks to more than is allowed: archive with more than {MAX_MEMBERS} members"]


def test_archives_that_hold_nothing_are_paid_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each takes a process of its own: seven thousand of them, in two hundred kilobytes, took forty seconds."""
    problems, started, ticks = Opened(), [], count()
    budget = Budget(MIB, clock=lambda: float(next(ticks)))
    fork = os.fork
    monkeypatch.setattr(os, "fork", lambda: started.append(True) or fork())
    for _ in range(50):
        list(members(("a.7z",), b"7z\xbc\xaf\x27\x1c\x00", "application/x-7z-compressed", budget, 3, problems))

    assert len(started) < 10
    assert "takes too long to unpack: a.7z" in problems.problems


def test_time_is_counted() -> None:
    ticks = iter(range(1000))
    problems = Opened()
    budget = Budget(MIB, clock=lambda: float(next(ticks)))

    many = zip_of(*[(str(n), b"x") for n in range(100)])
    list(members(("a.zip",), many, media_type(many), budget, 5, problems))

    assert len(problems.problems) == 1 and "takes too long to unpack" in problems.problems[0]


def test_a_large_file_in_an_archive_is_no_bomb(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("egressguard.scan.budget.MAX_KEPT_OCTETS", MIB)
    large = b"text " * 500_000

    found, problems = opened(zip_of(("notes.txt", large)))
    assert (found[0].size_octets, len(found[0].content), problems) == (len(large), MIB, [])

    _, problems = opened(zip_of(("inner.tar", tar_of("notes.txt", large))))
    assert problems == ["too large to be looked into: inner.tar"]


# --- Real programs, mutants --------------------------------------------------------------------------------------


def seven_zip(folder: Path, *arguments: str) -> bytes:
    if not (ARCHIVERS / "lib" / "p7zip" / "7z").exists():
        pytest.skip("needs 7z in .peers: run scripts/peers")
    (folder / "run.exe").write_bytes(b"abc")
    command = [ARCHIVERS / "lib" / "p7zip" / "7z", "a", *arguments, "made", "run.exe"]
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    (made,) = folder.glob("made*")
    return made.read_bytes()


@pytest.mark.peers
@pytest.mark.parametrize("switches", [("-t7z",), ("-t7z", "-ms=off", "-m0=BZip2"), ("-tzip", "-mm=LZMA"), ("-tzip",)])
def test_what_7z_packs_is_found(switches: tuple[str, ...], tmp_path: Path) -> None:
    content = seven_zip(tmp_path, *switches)

    for archive in (content, PROGRAM * 50 + content):
        report = examine(mail_with("a.txt", archive), SETTINGS)
        assert "denied name: a.txt > run.exe" in report.findings


@pytest.mark.peers
@pytest.mark.parametrize("switches", [("-t7z",), ("-t7z", "-mhe=on"), ("-tzip",), ("-tzip", "-mem=AES256")])
def test_what_7z_locks_is_a_fact(switches: tuple[str, ...], tmp_path: Path) -> None:
    report = examine(mail_with("a.txt", seven_zip(tmp_path, "-psecret", *switches)), Scan())

    assert report.verdict is Verdict.DENIED
    assert report.attachments is not None and any(a.encrypted for a in report.attachments)


@pytest.mark.peers
def test_each_directory_of_an_iso_image_is_read(tmp_path: Path) -> None:
    program = ARCHIVERS / "bin" / "genisoimage"
    if not program.exists():
        pytest.skip("needs genisoimage in .peers: run scripts/peers")
    (tmp_path / "setup-of-the-program.exe").write_bytes(b"abc")
    made = subprocess.run([program, "-quiet", "-J", "-R", "."], cwd=tmp_path, check=True, capture_output=True).stdout

    for content in (made, PROGRAM + made[len(PROGRAM) :]):
        report = examine(mail_with("a.txt", content), Scan())
        assert report.attachments is not None
        assert {"setup-of-the-program.exe", "SETUP_OF.EXE"} <= {a.path[-1] for a in report.attachments}


SAMPLES = [make("a.txt", b"hello" * 20) for make in KINDS.values()] + [local_name_changed(), overlapping()]


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(SAMPLES),
    st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=8),
    st.integers(0, 5000),
)
def test_a_mutated_archive_never_raises(sample: bytes, changes: list[tuple[int, int]], cut: int) -> None:
    content = bytearray(sample)
    for position, value in changes:
        content[position % len(content)] = value

    found, _ = opened(bytes(content[: cut or None]), octets=MIB)

    assert sum(len(member.content) for member in found) <= 2 * MIB
