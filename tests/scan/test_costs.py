"""Messages that may cost their reader much: pieces put together at random and repeated. None takes more than the kernel
gives a worker (tests.scan.limited).

EGRESSGUARD_COSTS makes a search of it: so many messages, of a seed that is printed, the costliest altered again and
again.
"""

from __future__ import annotations

import os
import random
import time
from dataclasses import dataclass
from pathlib import Path

from tests.scan.limited import place, scan
from tests.scan.tricks import TOP

__all__ = ["place"]

MESSAGES = int(os.environ.get("EGRESSGUARD_COSTS", "0"))
SIZES = (50_000, 200_000, 800_000)
KEPT = 14
NEW_MESSAGES = 80
HEADS = (
    b"",
    b"\r\n",
    b"Content-Type: text/html\r\n\r\n",
    b"Content-Type: text/calendar\r\n\r\n",
    b"Content-Type: message/rfc822\r\n\r\n",
    b"Content-Type: application/ms-tnef\r\n\r\n",
    b"Content-Type: application/pdf; name=a.pdf\r\n\r\n",
    b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n",
    b"Content-Transfer-Encoding: base64\r\n\r\n",
    b"Content-Transfer-Encoding: quoted-printable\r\n\r\n",
    b"Content-Transfer-Encoding: x-uuencode\r\n\r\n",
    b"Content-Type: text/plain; charset=utf-7\r\n\r\n",
    b"Content-Type: text/html; name=a.html\r\nContent-Transfer-Encoding: base64\r\nContent-Encoding: b\r\n\r\n",
)
PIECES = (
    *(bytes((octet,)) for octet in b"\0\t\n\r \"%&'()*,-./:;<=>?@A\\_x"),
    b"\r\n", b"\r\n\r\n", b"\n\r", b"\r\n ", b"\xd0\x9f", b"a.b", b".exe", b"%41", b"=3D", b"=\r\n", b"=?utf-8?Q?",
    b"?=", b"name=", b"filename=", b"name*1=", b"name*0*=", b'filename="a.b"', b"(x)", b"content-", b"boundary=",
    b"utf-8''", b"Content-Type: a/b; ", b"Content-Disposition: attachment; ", b"Content-Name: ", b"X: ",
    b"\r\n--b", b"--b\r\n", b"Content-Type: text/html\r\n\r\n", b"Content-Transfer-Encoding: base64\r\n\r\n",
    b"Content-Type: multipart/mixed; ", b"begin 644 x\r\n", b"begin ", b"\r\nend\r\n", b"M" + b"A" * 60 + b"\r\n",
    b"=ybegin line=128 size=9 name=a\r\n", b"=yend\r\n", b"data:a/b;base64,QUJD", b"data:", b"UEsDB", b"WDVPIVAlQ",
    b"\r\nTVqQ", b"QUJDREVG" * 8 + b"\r\n", b"=03=", b"&#65;", b"&amp;", b"<html>", b"<script>", b"<a href='",
    b"download='x'", b"atob('", b"<?xml ", b"<w:instrText", b"PK\3\4", b"PK\5\6", b"%PDF-", b"/ObjStm stream\n",
    b"\x1f\x8b\x08", b"BZh9", b"Rar!\x1a\7\0", b"x\x9f>\"", b"{\\rtf", b"\\objdata ", b"DDEAUTO",
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", b"+AGE-", b"BEGIN:VCARD\r\n", b"FILENAME=x",
    b"(This file must be converted with BinHex 4.0)\r\n:",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Recipe:
    """`pieces` fill `size` octets again and again, but for the first of them where it stands `once`."""

    head: bytes
    pieces: tuple[bytes, ...]
    size: int
    once: bool

    @property
    def message(self) -> bytes:
        first, again = (self.pieces[:1], self.pieces[1:]) if self.once else ((), self.pieces)
        unit = b"".join(again) or b"x"
        return TOP + self.head + b"".join(first) + unit * (self.size // len(unit) + 1)


def invented(dice: random.Random) -> Recipe:
    pieces = tuple(dice.choices(PIECES, k=dice.randint(1, 9)))
    return Recipe(dice.choice(HEADS), pieces, dice.choice(SIZES), dice.random() < 0.2)


def altered(dice: random.Random, recipe: Recipe) -> Recipe:
    pieces = list(recipe.pieces)
    for _ in range(dice.choice((1, 1, 2, 3))):
        at = dice.randrange(len(pieces) + 1)
        pieces[at : at + dice.choice((0, 1))] = dice.choices(PIECES, k=dice.choice((0, 1, 1)))
    head = recipe.head if dice.random() < 0.9 else dice.choice(HEADS)
    return Recipe(head, tuple(pieces) or (b"x",), dice.choice(SIZES), recipe.once)


def test_nothing_put_together_takes_its_reader_more_than_it_is_given(place: Path) -> None:
    seed = random.SystemRandom().randrange(1_000_000) if MESSAGES else 1
    dice = random.Random(seed)
    print(f"\nseed {seed}")
    costliest: list[tuple[float, Recipe]] = []
    for _ in range(MESSAGES or NEW_MESSAGES):
        is_new = not MESSAGES or not costliest or dice.random() < 0.4
        recipe = invented(dice) if is_new else altered(dice, dice.choice(costliest)[1])
        began = time.monotonic()
        try:
            scan(place, recipe.message)
        except AssertionError as wrong:
            raise AssertionError(f"seed {seed}: {recipe}") from wrong
        costliest.append((time.monotonic() - began, recipe))  # the clock only says where to look next
        costliest = sorted(costliest, key=lambda each: -each[0])[:KEPT]
    print(*costliest[:5], sep="\n")
