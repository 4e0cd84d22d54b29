"""Damage to rule files as people, editors and disks do it; (chance, content) -> content."""

from __future__ import annotations

import random
import re
from collections.abc import Callable

Files = dict[str, bytes]
Damage = Callable[[random.Random, bytes], bytes]

SNIPPETS = [b"'", b'"', b"[", b"{", b"- ", b"*", b"&a ", b"!x ", b"@", b"\t", b"\x00", b"\xff", b"~", b"-1", b"9" * 40]
SNIPPETS += [b"null", b"true", b": ", b"\n", b"---\n", b"#", b"mail:", b"name: ", b"\r", b"\xe2\x80\xa8", b"0.0.0.0/0"]
SNIPPETS += [
    b"${",
    b"${domain}",
    b"${x${y}}",
    b'"file:lists/never.txt"',
    b"file:..",
    b"include: flows.yaml\n",
    b"? ",
    b"%",
]
VALUES = [
    b"true",
    b"null",
    b"0",
    b"-5",
    b"999999999999999999",
    b"9" * 400,
    b"1e400",
    b"[]",
    b"{}",
    b"[[]]",
    b"{a: {b: c}}",
]
VALUES += [
    b'""',
    b"'x'",
    b"[1, two, null]",
    b"lan",
    b'"@lan"',
    b'"${domain}"',
    b'"${nope}"',
    b'"file:/etc/passwd"',
    b"x" * 70000,
]
PATHS = [
    b"../site.yaml",
    b"/etc/passwd",
    b".",
    b"..",
    b"site.yaml",
    b"mail.yaml",
    b"flows.yaml",
    b"shared/devices.yaml",
    b"nope.yaml",
]
PATHS += [
    b"./site.yaml",
    b"a/../../x",
    b"lists/never.txt",
    b"sites/north/north.yaml",
    b"",
    b"shared//devices.yaml",
    b"x" * 5000,
]


def _lines(content: bytes) -> list[bytes]:
    return content.splitlines(keepends=True) or [b""]


def _flip(chance: random.Random, content: bytes) -> bytes:
    octets = bytearray(content or b" ")
    octets[chance.randrange(len(octets))] ^= 1 << chance.randrange(8)
    return bytes(octets)


def _insert(chance: random.Random, content: bytes) -> bytes:
    at = chance.randrange(len(content) + 1)
    return content[:at] + chance.choice(SNIPPETS) + content[at + chance.choice([0, 0, 1, 5]) :]


def _delete_lines(chance: random.Random, content: bytes) -> bytes:
    lines = _lines(content)
    at = chance.randrange(len(lines))
    return b"".join(lines[:at] + lines[at + chance.choice([1, 1, 3]) :])


def _repeat_lines(chance: random.Random, content: bytes) -> bytes:
    lines = _lines(content)
    at, count = chance.randrange(len(lines)), chance.choice([1, 2, 8])
    return b"".join(lines[: at + count] + lines[at:])


def _swap_lines(chance: random.Random, content: bytes) -> bytes:
    lines = _lines(content)
    one, other = chance.randrange(len(lines)), chance.randrange(len(lines))
    lines[one], lines[other] = lines[other], lines[one]
    return b"".join(lines)


def _indent(chance: random.Random, content: bytes) -> bytes:
    lines = _lines(content)
    at = chance.randrange(len(lines))
    lines[at] = chance.choice([b"  ", b" ", b"\t"]) + lines[at] if chance.random() < 0.5 else lines[at].lstrip(b" ")
    return b"".join(lines)


def _misspell(chance: random.Random, content: bytes) -> bytes:
    """A letter lost, doubled or swapped in some word: of a key as likely as of a name."""
    words = list(re.finditer(rb"[A-Za-z_-]{3,}", content))
    if not words:
        return content
    word = chance.choice(words)
    at = chance.randrange(word.start(), word.end() - 1)
    slip = chance.choice([b"", content[at : at + 1] * 2, content[at + 1 : at + 2] + content[at : at + 1]])
    return content[:at] + slip + content[at + (2 if len(slip) == 2 and slip[:1] != slip[1:] else 1) :]


def _other_value(chance: random.Random, content: bytes) -> bytes:
    values = list(re.finditer(rb"(?<=: )[^\n#,{}\[\]]+", content))
    if not values:
        return content
    value = chance.choice(values)
    return content[: value.start()] + chance.choice(VALUES) + content[value.end() :]


def _deep(chance: random.Random, content: bytes) -> bytes:
    depth = chance.choice([5, 17, 200, 20000])
    inner = chance.choice([b"[" * depth, b"{a: " * depth, b"- " * depth, b"[" * depth + b"]" * depth])
    at = chance.choice([0, content.find(b": ") + 2, len(content)])
    return content[:at] + inner + content[at:]


def _include(chance: random.Random, content: bytes) -> bytes:
    name = chance.choice(PATHS)
    listed = b'["' + name + b'", "' + chance.choice(PATHS) + b'"]'
    return (
        b"include: " + chance.choice([b'"' + name + b'"', listed, b"7", b"{a: b}", b"[[]]", b"null"]) + b"\n" + content
    )


def _cut(chance: random.Random, content: bytes) -> bytes:
    return content[: chance.randrange(len(content) + 1)]


DAMAGES: list[Damage] = [_flip, _insert, _delete_lines, _repeat_lines, _swap_lines, _indent, _misspell, _misspell]
DAMAGES += [_other_value, _other_value, _deep, _include, _cut]


def damaged(chance: random.Random, files: Files) -> Files:
    """One to four slips in one or two files; now and then a file is gone, named otherwise, or holds another's text."""
    changed = dict(files)
    for _ in range(chance.randint(1, 4)):
        name = chance.choice(sorted(changed))
        what = chance.random()
        if what < 0.03 and len(changed) > 1:
            del changed[name]
        elif what < 0.06:
            changed[chance.choice(["zz.yaml", "a.yml", "sites/south/a.yaml", "x/y.yaml"])] = changed[name]
        elif what < 0.08:
            changed[name] = changed[chance.choice(sorted(changed))]
        else:
            changed[name] = chance.choice(DAMAGES)(chance, changed[name])
    return changed
