"""Messages that hide a file from whoever reads MIME in one way only: from RFC 822, 1341, 1740, 1741, 2045-2047, 2049,
2183, 2231, 5322 and 8551, and from what is published about how mail programs differ.

Each trick is a name and a function of a file (its name, its octets) that makes a message. Some mail program offers the
file, or would if it were lenient in this way; no trick is a message that hides the file from everybody.
"""

from __future__ import annotations

import base64
import binascii
import quopri
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

Trick = Callable[["File"], bytes]
TOP = b"From: a@example.com\r\nTo: b@example.org\r\nSubject: the file\r\nMIME-Version: 1.0\r\n"
TEXT = b"Content-Type: text/plain\r\n\r\nsee the file\r\n"


@dataclass(frozen=True, slots=True)
class File:
    name: bytes
    content: bytes

    @property
    def base64(self) -> bytes:
        return base64.encodebytes(self.content).replace(b"\n", b"\r\n")

    @property
    def quoted(self) -> bytes:
        return b"".join(b"=%02X" % octet + (b"=\r\n" if n % 20 == 19 else b"") for n, octet in enumerate(self.content))

    @property
    def disposition(self) -> bytes:
        return b'Content-Disposition: attachment; filename="' + self.name + b'"\r\n'

    @property
    def fields(self) -> bytes:
        return b"Content-Type: application/octet-stream\r\nContent-Transfer-Encoding: base64\r\n" + self.disposition

    @property
    def part(self) -> bytes:
        return self.fields + b"\r\n" + self.base64

    @property
    def uuencoded(self) -> bytes:
        pieces = [self.content[n : n + 45] for n in range(0, len(self.content), 45)]
        lines = b"".join(binascii.b2a_uu(piece) for piece in pieces)
        return (b"begin 644 " + self.name + b"\n" + lines + b"`\nend\n").replace(b"\n", b"\r\n")

    @property
    def yenc(self) -> bytes:
        coded = bytearray()
        for octet in self.content:
            value = (octet + 42) & 255
            coded += b"=" + bytes(((value + 64) & 255,)) if value in b"\0\r\n=" else bytes((value,))
        head = b"=ybegin line=128 size=%d name=" % len(self.content) + self.name
        return head + b"\r\n" + bytes(coded) + b"\r\n=yend size=%d\r\n" % len(self.content)


def multipart(
    file: File,
    *,
    field: bytes = b'Content-Type: multipart/mixed; boundary="bb"\r\n',
    first: bytes = b"--bb\r\n",
    delimiter: bytes = b"\r\n--bb\r\n",
    last: bytes = b"\r\n--bb--\r\n",
    preamble: bytes = b"",
    part: bytes | None = None,
    epilogue: bytes = b"",
    top: bytes = TOP,
    empty: bytes = b"\r\n",
) -> bytes:
    inside = file.part if part is None else part
    return top + field + empty + preamble + first + TEXT + delimiter + inside + last + epilogue


def whole(file: File, fields: bytes, body: bytes) -> bytes:
    return TOP + fields + b"\r\n" + body


def boundaries() -> Iterator[tuple[str, Trick]]:
    """What the boundary parameter says, and how."""
    values = (
        b"bb", b" bb", b"bb ", b"bb;", b"=bb", b"bb; charset=x", b"'bb'", b'"bb', b'bb"', b'"bb" "cc"', b'"b\\b"', b'"b"b', b'b"b"',
        b'"b" "b"', b"(comment)bb", b'(comment)"bb"', b'"bb"(comment)', b"bb(comment)", b"\tbb", b'\r\n "bb"', b'\r\n\t"bb"', b'"\r\n bb"',
        b'"bb\r\n"', b"b\0b", b"\0bb", b'"bb"; boundary="cc"', b'"cc"; boundary="bb"', b"cc; boundary=bb", b"bb; boundary=cc",
        b'"cc"; Boundary="bb"', b'"bb";boundary*0="cc"', b'"bb" ; x=y', b'"=?utf-8?Q?bb?="', b"=?utf-8?B?YmI=?=", b'"b=62"', b'""', b"",
        b'"bb\\"', b"bb,", b"bb\x0b", b"bb\x0c", b"bb\xa0", b"\xa0bb", b'"bb\xff"', b"<bb>", b"bb/", b"bb?x", b"[bb]",
    )  # fmt: skip
    for value in values:
        field = b"Content-Type: multipart/mixed; boundary=" + value + b"\r\n"
        yield repr(value)[1:], partial(multipart, field=field)
    fields = (
        b"boundary =bb", b"boundary= bb", b"boundary = bb", b"BOUNDARY=bb", b"boundary*=bb", b"boundary*=us-ascii''bb", b"boundary*=''bb",
        b"boundary*=''%62%62", b"boundary*0=b; boundary*1=b", b"boundary*1=b; boundary*0=b", b"boundary*0*=''%62; boundary*1=b",
        b"boundary*0=b; boundary*1*=%62", b"boundary*0=bb; boundary=cc", b"boundary*1=bb", b"x=y boundary=bb", b"x=\"y;boundary=bb",
        b"x=\"\\\"; boundary=cc; y=\"; boundary=bb", b"boundary:bb", b"boundary", b"x(; boundary=cc); boundary=bb", b"boundary(c)=bb",
        b"boundary\r\n =bb", b"\0boundary=bb", b"bound\0ary=bb", b"b\xadoundary=bb", b"boundary\t=\tbb",
    )  # fmt: skip
    for parameter in fields:
        yield repr(parameter)[1:], partial(multipart, field=b"Content-Type: multipart/mixed; " + parameter + b"\r\n")
    for separator in (b" ", b",", b";;", b"; ;", b";\r\n", b";\r\n\r\n ", b"\t", b";\0"):
        field = b"Content-Type: multipart/mixed" + separator + b"boundary=bb\r\n"
        yield f"separator {separator!r}", partial(multipart, field=field)
    for size in (71, 200, 998, 5000):
        long = b"b" * size
        field = b'Content-Type: multipart/mixed; boundary="' + long + b'"\r\n'
        mark = b"--" + long
        yield (
            f"{size} octets",
            partial(multipart, field=field, first=mark + b"\r\n", delimiter=b"\r\n" + mark + b"\r\n"),
        )


def delimiters() -> Iterator[tuple[str, Trick]]:
    """Lines that some take for a delimiter, and some do not."""
    marks = (
        b"--bb ", b"--bb\t", b"--bb  \t", b"--bbx", b"--bb-", b"--bb--", b"--bb --", b"--bb\0", b"--bb\x0b", b"--bb\xa0", b"--bb;",
        b"--bb\r", b" --bb", b"\t--bb", b"\0--bb", b">--bb", b"---bb", b"----bb", b"-- bb", b"--BB", b"--Bb", b"--b", b'--"bb"', b"--bb(c)",
        b"--", b"-bb", b"bb", b"--cc",
    )  # fmt: skip
    for mark in marks:
        yield f"delimiter {mark!r}", partial(multipart, delimiter=b"\r\n" + mark + b"\r\n")
        yield f"every delimiter {mark!r}", partial(multipart, first=mark + b"\r\n", delimiter=b"\r\n" + mark + b"\r\n")
    for end in (b"\n", b"\r", b"\r\r\n", b"\n\r", b"\x0b", b"\x0c", b"\xc2\x85", b"\xe2\x80\xa8"):
        yield f"ended by {end!r}", partial(multipart, delimiter=b"\r\n--bb" + end)
        yield f"begun by {end!r}", partial(multipart, delimiter=end + b"--bb\r\n")
    yield "no last one", partial(multipart, last=b"")
    yield "cut in the last one", partial(multipart, last=b"\r\n--bb-")
    yield "the last one first", partial(multipart, first=b"--bb--\r\n--bb\r\n")
    yield "the last one twice", partial(multipart, delimiter=b"\r\n--bb--\r\n--bb\r\n")
    yield "no first one", partial(multipart, first=b"")
    yield "an empty line is missing behind one", lambda f: multipart(f, part=f.fields + f.base64)


def placement() -> Iterator[tuple[str, Trick]]:
    """Where no part should be."""
    yield "preamble", lambda f: multipart(f, preamble=f.part, part=TEXT)
    yield "epilogue", lambda f: multipart(f, epilogue=f.part, part=TEXT)
    yield "epilogue with a delimiter", lambda f: multipart(f, epilogue=b"--bb\r\n" + f.part, part=TEXT)
    yield (
        "preamble with another delimiter",
        lambda f: multipart(f, preamble=b"--cc\r\n" + f.part + b"--cc--\r\n", part=TEXT),
    )
    yield "uuencoded preamble", lambda f: multipart(f, preamble=f.uuencoded, part=TEXT)
    yield "uuencoded epilogue", lambda f: multipart(f, epilogue=f.uuencoded, part=TEXT)
    yield "yEnc epilogue", lambda f: multipart(f, epilogue=f.yenc, part=TEXT)
    yield "header after an empty line", lambda f: multipart(f, part=b"\r\n" + f.part)
    yield "header after two empty lines", lambda f: multipart(f, part=b"\r\n\r\n" + f.part)
    yield "header after a blank line", lambda f: multipart(f, part=b" \r\n" + f.part)
    yield (
        "header in two",
        lambda f: multipart(f, part=f.disposition + b"\r\nContent-Transfer-Encoding: base64\r\n\r\n" + f.base64),
    )
    yield "header after the body", lambda f: multipart(f, part=b"\r\n" + f.base64 + b"\r\n" + f.fields)
    yield "in the text part", lambda f: whole(f, b"Content-Type: text/plain\r\n", f.part)
    yield "in the text without a type", lambda f: whole(f, b"", f.part)
    yield "a whole multipart in the text", lambda f: whole(f, b"Content-Type: text/plain\r\n", multipart(f))
    yield "a text that is base64", lambda f: whole(f, b"Content-Type: text/plain\r\n" + f.disposition, f.base64)
    yield (
        "a text that is base64, and called so",
        lambda f: whole(f, b"Content-Transfer-Encoding: base64\r\n" + f.disposition, f.base64),
    )
    yield (
        "a fold of Subject",
        lambda f: TOP + b"X-Data: " + f.base64.replace(b"\r\n", b"\r\n ").rstrip() + b"\r\n" + f.disposition + TEXT,
    )
    yield (
        "the field in a fold of Subject",
        lambda f: multipart(f, top=TOP.replace(b"the file", b"the file\r\n Content-Type: text/plain")),
    )
    yield (
        "the type in a fold",
        lambda f: multipart(f, field=b'Subject: x\r\n Content-Type: multipart/mixed; boundary="bb"\r\n'),
    )
    yield (
        "the type in the first line's fold",
        lambda f: multipart(f, top=b"", field=b' Content-Type: multipart/mixed; boundary="bb"\r\n' + TOP),
    )
    yield (
        "the fields in a fold of the part",
        lambda f: multipart(f, part=b"X: y\r\n " + f.fields.replace(b"\r\n", b"\r\n ")[:-1] + b"\r\n" + f.base64),
    )
    yield (
        "message/partial",
        lambda f: whole(f, b'Content-Type: message/partial; id="x"; number=1; total=1\r\n', multipart(f)),
    )
    yield (
        "message/partial, first of two",
        lambda f: whole(f, b'Content-Type: message/partial; id="x"; number=1; total=2\r\n', multipart(f)[:-100]),
    )
    yield (
        "message/external-body",
        lambda f: whole(
            f, b'Content-Type: message/external-body; access-type=URL; URL="http://x.example/"\r\n', f.part
        ),
    )
    yield "message/rfc822", lambda f: whole(f, b"Content-Type: message/rfc822\r\n", multipart(f))
    yield (
        "message/rfc822 in base64",
        lambda f: whole(
            f,
            b"Content-Type: message/rfc822\r\nContent-Transfer-Encoding: base64\r\n",
            base64.encodebytes(multipart(f)),
        ),
    )
    yield (
        "message/rfc822 in quoted-printable",
        lambda f: whole(
            f,
            b"Content-Type: message/rfc822\r\nContent-Transfer-Encoding: quoted-printable\r\n",
            quopri.encodestring(multipart(f)),
        ),
    )
    yield "message/global", lambda f: whole(f, b"Content-Type: message/global\r\n", multipart(f))
    yield "message/news", lambda f: whole(f, b"Content-Type: message/news\r\n", multipart(f))
    yield "message/unknown", lambda f: whole(f, b"Content-Type: message/x-unknown\r\n", multipart(f))
    yield (
        "a message as an octet-stream",
        lambda f: whole(
            f,
            b"Content-Type: application/octet-stream; name=x.eml\r\nContent-Transfer-Encoding: base64\r\n",
            base64.encodebytes(multipart(f)),
        ),
    )
    for depth in (2, 5, 20, 49, 60):
        yield f"{depth} levels down", partial(_deep, depth=depth)
    for kind in (
        b"alternative",
        b"related",
        b"digest",
        b"parallel",
        b"report",
        b"signed",
        b"encrypted",
        b"form-data",
        b"x-unknown",
        b"byteranges",
        b"appledouble",
        b"header-set",
        b"MIXED",
    ):
        yield (
            f"multipart/{kind.decode()}",
            partial(multipart, field=b"Content-Type: multipart/" + kind + b"; boundary=bb\r\n"),
        )
    for encoding in (b"base64", b"quoted-printable"):
        yield f"a multipart in {encoding.decode()}", partial(_encoded_multipart, encoding=encoding)
    yield (
        "the same boundary twice over",
        lambda f: multipart(f, part=b"Content-Type: multipart/mixed; boundary=bb\r\n\r\n--bb\r\n" + f.part),
    )
    yield (
        "a boundary that begins as the outer one",
        lambda f: multipart(
            f, part=b"Content-Type: multipart/mixed; boundary=bbb\r\n\r\n--bbb\r\n" + f.part + b"\r\n--bbb--"
        ),
    )
    yield (
        "an inner boundary after the outer end",
        lambda f: multipart(
            f,
            part=b"Content-Type: multipart/mixed; boundary=cc\r\n\r\n",
            epilogue=b"--cc\r\n" + f.part + b"\r\n--cc--\r\n",
        ),
    )


def _deep(file: File, depth: int) -> bytes:
    inner = file.part
    for level in range(depth):
        mark = b"l%d" % level
        inner = (
            b"Content-Type: multipart/mixed; boundary="
            + mark
            + b"\r\n\r\n--"
            + mark
            + b"\r\n"
            + inner
            + b"\r\n--"
            + mark
            + b"--\r\n"
        )
    return TOP + inner


def _encoded_multipart(file: File, encoding: bytes) -> bytes:
    body = b"--bb\r\n" + file.part + b"\r\n--bb--\r\n"
    coded = base64.encodebytes(body) if encoding == b"base64" else quopri.encodestring(body)
    return whole(
        file, b"Content-Type: multipart/mixed; boundary=bb\r\nContent-Transfer-Encoding: " + encoding + b"\r\n", coded
    )


def types() -> Iterator[tuple[str, Trick]]:
    """Content-Type fields that are odd, or two."""
    mixed = b"Content-Type: multipart/mixed; boundary=bb\r\n"
    for other in (
        b"text/plain",
        b"text/html",
        b"",
        b"x",
        b"multipart/mixed",
        b"multipart/mixed; boundary=cc",
        b"application/octet-stream",
        b"message/rfc822",
    ):
        field = b"Content-Type: " + other + b"\r\n"
        yield f"{other.decode()} first", partial(multipart, field=field + mixed)
        yield f"{other.decode()} last", partial(multipart, field=mixed + field)
    names = (
        b"Content-Type :", b"Content-Type\t:", b"Content-Type \t :", b"content-type:", b"CONTENT-TYPE:", b"Content-Type\r\n :", b"Content-Type:\r\n",
        b"Content-Type: \r\n\t", b"Content-Type:\t", b" Content-Type:", b"\tContent-Type:", b"\0Content-Type:", b"Content-Type\0:", b"Content\0-Type:",
        b"Content_Type:", b"ContentType:", b"Content Type:", b"Content-Type\xa0:", b"\xa0Content-Type:", b"\xef\xbb\xbfContent-Type:", b"\x0bContent-Type:",
        b"\x0cContent-Type:", b"Content-Type:(comment)", b"Content-Type: \0", b"Content-Type::", b"X: y\rContent-Type:", b"X: y\nContent-Type:",
        b"X: y\r\n\r\nContent-Type:", b"X: y\r\n \r\nContent-Type:", b"nonsense\r\nContent-Type:", b"From x\r\nContent-Type:", b">From x\r\nContent-Type:",
    )  # fmt: skip
    for name in names:
        yield repr(name)[1:], partial(multipart, field=name + b" multipart/mixed; boundary=bb\r\n")
    for value in (
        b"multipart",
        b"multipart/",
        b"/mixed",
        b"multipart /mixed",
        b"multipart/ mixed",
        b"multipart\\mixed",
        b'"multipart/mixed"',
        b"mul\0tipart/mixed",
        b"multipart/mixed/x",
        b"multi(c)part/mixed",
        b"multipart/mixed,",
        b"=?utf-8?Q?multipart/mixed?=",
    ):
        yield f"value {value!r}", partial(multipart, field=b"Content-Type: " + value + b"; boundary=bb\r\n")
    yield "no MIME-Version", lambda f: multipart(f, top=TOP.replace(b"MIME-Version: 1.0\r\n", b""))
    yield "MIME-Version 2", lambda f: multipart(f, top=TOP.replace(b"1.0", b"2.0"))
    yield "no empty line before the body", partial(multipart, empty=b"")
    for blank in (b"\n", b" \r\n", b"\t\r\n", b"\r", b"\0\r\n", b"\r\r\n", b"\n\r", b"\r\n\r\n\r\n", b"x\r\n\r\n"):
        yield f"{blank!r} before the body", partial(multipart, empty=blank)
    for kind in (
        b"text/plain",
        b"text/html",
        b"image/png",
        b"application/x-unknown",
        b"x",
        b"",
        b"audio/wav",
        b"text/x-vcard",
        b"message/delivery-status",
        b"text/rfc822-headers",
    ):
        yield f"the file as {kind.decode()}", partial(_typed, kind=kind)


def _typed(file: File, kind: bytes) -> bytes:
    return multipart(file, part=b"Content-Type: " + kind + b"\r\n" + file.part.split(b"\r\n", 1)[1])


def encodings() -> Iterator[tuple[str, Trick]]:
    """Content-Transfer-Encoding fields that are odd, or two."""
    values = (
        b"base64", b"BASE64", b" base64 ", b"base64;", b"base64,", b'"base64"', b"'base64'", b"(comment) base64", b"base64 (comment)", b"base(c)64",
        b"base64 x", b"x base64", b"7bit base64", b"base64, 7bit", b"base64\0", b"\0base64", b"base\x0064", b"base64\xa0", b"base-64", b"base 64",
        b"\r\n base64", b"\r\n\tbase64", b"base\r\n 64", b"=?utf-8?Q?base64?=", b"b", b"B", b"x-base64", b"base64=", b"base64\x0b", b"\xffbase64",
        b"", b"7bit", b"8bit", b"binary", b"unknown", b"quoted-printable", b"x-uuencode", b"gzip", b"none",
    )  # fmt: skip
    for value in values:
        yield f"base64 as {value!r}", partial(_encoded, value=b"Content-Transfer-Encoding: " + value + b"\r\n")
    for name in (
        b"Content-Transfer-Encoding :",
        b"content-transfer-encoding:",
        b"Content-Transfer-Encoding\t:",
        b" Content-Transfer-Encoding:",
        b"Content-Transfer-Encoding\r\n :",
        b"Content-Transfer-Encoding\0:",
        b"Content-Encoding:",
        b"Content-TransferEncoding:",
        b"Content-Transfer_Encoding:",
    ):
        yield f"field {name!r}", partial(_encoded, value=name + b" base64\r\n")
    for other in (b"7bit", b"8bit", b"binary", b"quoted-printable", b"x-uuencode", b"unknown", b""):
        field = b"Content-Transfer-Encoding: " + other + b"\r\n"
        base = b"Content-Transfer-Encoding: base64\r\n"
        yield f"{other.decode()} first", partial(_encoded, value=field + base)
        yield f"{other.decode()} last", partial(_encoded, value=base + field)
    yield "no field", partial(_encoded, value=b"")
    yield "quoted-printable", lambda f: _body(f, b"quoted-printable", f.quoted)
    yield "quoted-printable in lower case", lambda f: _body(f, b"quoted-printable", f.quoted.lower())
    yield "quoted-printable called 7bit", lambda f: _body(f, b"7bit", f.quoted)
    yield (
        "quoted-printable called base64 second",
        lambda f: _body(f, b"quoted-printable\r\nContent-Transfer-Encoding: base64", f.quoted),
    )
    yield (
        "quoted-printable, breaks after each octet",
        lambda f: _body(f, b"quoted-printable", b"".join(b"=%02x=\r\n" % o for o in f.content)),
    )
    yield (
        "quoted-printable, breaks with blanks",
        lambda f: _body(f, b"quoted-printable", f.quoted.replace(b"=\r\n", b"= \t\r\n")),
    )
    yield (
        "quoted-printable, breaks inside",
        lambda f: _body(
            f, b"quoted-printable", b"=50=\r\n=4B" + f.quoted[6:] if f.content.startswith(b"PK") else f.quoted
        ),
    )
    yield "quoted-printable, bare LF", lambda f: _body(f, b"quoted-printable", f.quoted.replace(b"\r\n", b"\n"))
    yield (
        "quoted-printable, blanks in escapes",
        lambda f: _body(f, b"quoted-printable", f.quoted.replace(b"=0", b"= 0")),
    )
    yield "binary", lambda f: _body(f, b"binary", f.content)
    yield "binary called 7bit", lambda f: _body(f, b"7bit", f.content)
    yield "binary called base64", lambda f: _body(f, b"base64", f.content)
    yield "binary called quoted-printable", lambda f: _body(f, b"quoted-printable", f.content)
    yield "uuencoded", lambda f: _body(f, b"x-uuencode", f.uuencoded)
    yield "uuencoded called uuencode", lambda f: _body(f, b"uuencode", f.uuencoded)
    yield "uuencoded without begin", lambda f: _body(f, b"x-uuencode", b"\r\n".join(f.uuencoded.split(b"\r\n")[1:]))
    yield "uuencoded called base64", lambda f: _body(f, b"base64", f.uuencoded)
    yield "uuencoded called 7bit", lambda f: _body(f, b"7bit", f.uuencoded)
    yield "yEnc", lambda f: _body(f, b"x-yenc", f.yenc)
    yield "yEnc called 8bit", lambda f: _body(f, b"8bit", f.yenc)
    yield "BinHex", lambda f: _body(f, b"x-binhex", binhex(f))
    yield (
        "BinHex as application/mac-binhex40",
        lambda f: whole(f, b"Content-Type: application/mac-binhex40\r\n", binhex(f)),
    )
    yield "base64 of base64", lambda f: _body(f, b"base64", base64.encodebytes(f.base64))
    yield "base64 of base64 of base64", lambda f: _body(f, b"base64", base64.encodebytes(base64.encodebytes(f.base64)))
    yield "base64 of quoted-printable", lambda f: _body(f, b"base64", base64.encodebytes(f.quoted))
    yield "base64 of uuencode", lambda f: _body(f, b"base64", base64.encodebytes(f.uuencoded))
    yield "base64 of a part", lambda f: _body(f, b"base64", base64.encodebytes(f.part))
    yield "quoted-printable of base64", lambda f: _body(f, b"quoted-printable", quopri.encodestring(f.base64))
    yield "quoted-printable of a part", lambda f: _body(f, b"quoted-printable", quopri.encodestring(f.part))


def _encoded(file: File, value: bytes) -> bytes:
    return multipart(
        file, part=b"Content-Type: application/octet-stream\r\n" + value + file.disposition + b"\r\n" + file.base64
    )


def _body(file: File, encoding: bytes, body: bytes) -> bytes:
    fields = b"Content-Type: application/octet-stream\r\nContent-Transfer-Encoding: " + encoding + b"\r\n"
    return multipart(file, part=fields + file.disposition + b"\r\n" + body)


def binhex(file: File) -> bytes:
    size = len(file.content).to_bytes(4, "big")
    head = bytes((len(file.name),)) + file.name + b"\0" + b"BINAhDmp" + b"\0\0" + size + b"\0\0\0\0" + b"\0\0"
    packed = (head + file.content + b"\0\0\0\0").replace(b"\x90", b"\x90\0")
    alphabet = b"!\"#$%&'()*+,-012345689@ABCDEFGHIJKLMNPQRSTUVXYZ[`abcdefhijklmpqr"
    letters = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    coded = base64.b64encode(packed).rstrip(b"=").translate(bytes.maketrans(letters, alphabet))
    lines = b"\r\n".join(coded[n : n + 64] for n in range(0, len(coded), 64))
    return b"(This file must be converted with BinHex 4.0)\r\n\r\n:" + lines + b":\r\n"


def base64_bodies() -> Iterator[tuple[str, Trick]]:
    """Base64 that decoders read differently."""

    def with_body(change: Callable[[bytes], bytes]) -> Trick:
        return lambda f: multipart(f, part=f.fields + b"\r\n" + change(f.base64))

    def spread(gap: bytes, width: int) -> Callable[[bytes], bytes]:
        return lambda b: gap.join(_flat(b)[n : n + width] for n in range(0, len(_flat(b)), width)) + b"\r\n"

    for width in (1, 2, 3, 4, 5, 7, 60, 77, 100, 998, 100_000):
        yield f"lines of {width}", with_body(spread(b"\r\n", width))
    for junk in (
        b"!",
        b".",
        b"-",
        b"_",
        b" ",
        b"\t",
        b"\0",
        b"\xff",
        b"#",
        b"@*",
        b",",
        b"\r",
        b"\n",
        b"\r\n\r\n",
        b"\x0b",
        b"=\r\n",
    ):
        yield f"{junk!r} every four", with_body(spread(junk, 4))
        yield f"{junk!r} every seven", with_body(spread(junk, 7))
        yield f"{junk!r} in front", with_body(lambda b, j=junk: j + b)
    yield "padding in front", with_body(lambda b: b"====" + b)
    yield "another blob in front", with_body(lambda b: b"QQ==\r\n" + b)
    yield "two other blobs in front", with_body(lambda b: b"QQ==QUI=\r\n" + b)
    yield "another blob behind", with_body(lambda b: b + b"QQ==\r\n")
    yield (
        "blobs of three octets",
        lambda f: multipart(
            f,
            part=f.fields
            + b"\r\n"
            + b"\r\n".join(base64.b64encode(f.content[n : n + 4]) for n in range(0, len(f.content), 4)),
        ),
    )
    yield "no padding", with_body(lambda b: b.replace(b"=", b""))
    yield "too much padding", with_body(lambda b: b.rstrip() + b"====\r\n")
    yield "cut off", with_body(lambda b: b.rstrip(b"=\r\n")[:-1])
    yield "cut off by two", with_body(lambda b: b.rstrip(b"=\r\n")[:-2])
    yield "a line of text in front", with_body(lambda b: b"Dear friend, here is it:\r\n" + b)
    yield "a line of text behind", with_body(lambda b: b + b"\r\nregards, a friend\r\n")
    yield "a line of letters in front", with_body(lambda b: b"Hello\r\n" + b)
    yield "the URL alphabet", with_body(lambda b: b.replace(b"+", b"-").replace(b"/", b"_"))
    yield "the eighth bit set", with_body(lambda b: bytes(o | 0x80 if o > 32 else o for o in b))
    yield (
        "begin-base64",
        lambda f: multipart(f, part=f.fields + b"\r\nbegin-base64 644 " + f.name + b"\r\n" + f.base64 + b"====\r\n"),
    )
    yield "a comment line", with_body(lambda b: b"(a comment)\r\n" + b)
    yield "PEM lines about it", with_body(lambda b: b"-----BEGIN FILE-----\r\n" + b + b"-----END FILE-----\r\n")
    yield "quoted", with_body(lambda b: b'"' + b.strip() + b'"\r\n')
    yield "each line twice ended", with_body(lambda b: b.replace(b"\r\n", b"\r\n\r\n"))
    yield "blanks before lines", with_body(lambda b: b"  " + b.replace(b"\r\n", b"\r\n  "))


def _flat(body: bytes) -> bytes:
    return body.replace(b"\r\n", b"")


def names() -> Iterator[tuple[str, Trick]]:
    """Names that readers find in different places or decode differently."""

    def with_fields(fields: Callable[[bytes], bytes]) -> Trick:
        coded = b"Content-Transfer-Encoding: base64\r\n"
        return lambda f: multipart(f, part=fields(f.name) + coded + b"\r\n" + f.base64)

    octets = b"Content-Type: application/octet-stream\r\n"
    parameters: tuple[tuple[str, Callable[[bytes], bytes]], ...] = (
        ("unquoted", lambda n: b"filename=" + n),
        ("single quotes", lambda n: b"filename='" + n + b"'"),
        ("no closing quote", lambda n: b'filename="' + n),
        ("blanks about =", lambda n: b"filename = " + n),
        ("folded after =", lambda n: b'filename=\r\n "' + n + b'"'),
        ("folded inside", lambda n: b'filename="' + n[:3] + b"\r\n " + n[3:] + b'"'),
        ("upper case", lambda n: b"FILENAME=" + n.upper()),
        ("backslashes", lambda n: b'filename="' + b"".join(b"\\" + bytes((o,)) for o in n) + b'"'),
        ("RFC 2231", lambda n: b"filename*=utf-8''" + n),
        ("RFC 2231, percents", lambda n: b"filename*=utf-8''" + b"".join(b"%%%02X" % o for o in n)),
        ("RFC 2231 without charset", lambda n: b"filename*=''" + n),
        ("RFC 2231 without quotes", lambda n: b"filename*=" + n),
        ("RFC 2231, unknown charset", lambda n: b"filename*=x-none''" + n),
        ("RFC 2231 in quotes", lambda n: b"filename*=\"utf-8''" + n + b'"'),
        ("continuations", lambda n: b"filename*0=" + n[:3] + b"; filename*1=" + n[3:]),
        ("continuations out of order", lambda n: b"filename*1=" + n[3:] + b"; filename*0=" + n[:3]),
        ("continuations with a gap", lambda n: b"filename*0=" + n[:3] + b"; filename*2=" + n[3:]),
        ("continuations from one", lambda n: b"filename*1=" + n[:3] + b"; filename*2=" + n[3:]),
        ("continuations with percents", lambda n: b"filename*0*=utf-8''" + n[:3] + b"; filename*1*=" + b"".join(b"%%%02x" % o for o in n[3:])),
        ("continuations of ten", lambda n: b"; ".join(b"filename*%d=%c" % (k, o) for k, o in enumerate(n))),
        ("plain beside RFC 2231", lambda n: b"filename=a.txt; filename*=utf-8''" + n),
        ("RFC 2231 beside plain", lambda n: b"filename*=utf-8''a.txt; filename=" + n),
        ("two, the second", lambda n: b"filename=a.txt; filename=" + n),
        ("two, the first", lambda n: b"filename=" + n + b"; filename=a.txt"),
        ("RFC 2047 B", lambda n: b'filename="=?utf-8?B?' + base64.b64encode(n) + b'?="'),
        ("RFC 2047 Q", lambda n: b'filename="=?utf-8?Q?' + b"".join(b"=%02X" % o for o in n) + b'?="'),
        ("RFC 2047 unquoted", lambda n: b"filename==?utf-8?B?" + base64.b64encode(n) + b"?="),
        ("RFC 2047 in two words", lambda n: b'filename="=?utf-8?Q?' + n[:3] + b"?= =?utf-8?B?" + base64.b64encode(n[3:]) + b'?="'),
        ("RFC 2047 in two words, folded", lambda n: b'filename="=?utf-8?Q?' + n[:3] + b"?=\r\n =?utf-8?Q?" + n[3:] + b'?="'),
        ("RFC 2047 without a blank between", lambda n: b'filename="=?utf-8?Q?' + n[:3] + b"?==?utf-8?Q?" + n[3:] + b'?="'),
        ("RFC 2047, half a word", lambda n: b'filename="' + n[:3] + b"=?utf-8?Q?" + n[3:] + b'?="'),
        ("RFC 2047 in RFC 2231", lambda n: b"filename*0==?utf-8?Q?" + n[:3] + b"?=; filename*1=" + n[3:]),
        ("RFC 2047, UTF-16", lambda n: b'filename="=?utf-16le?B?' + base64.b64encode(n.decode().encode("utf-16-le")) + b'?="'),
        ("RFC 2047, UTF-7", lambda n: b'filename="=?utf-7?Q?' + n + b'?="'),
        ("RFC 2047, a language", lambda n: b'filename="=?utf-8*en?Q?' + n + b'?="'),
        ("a NUL inside", lambda n: b'filename="' + n[:3] + b"\0" + n[3:] + b'"'),
        ("a NUL and more behind", lambda n: b'filename="' + n + b'\0.txt"'),
        ("dots and blanks behind", lambda n: b'filename="' + n + b'. . "'),
        ("a zero-width space", lambda n: b'filename="' + n[:-2] + "\u200b".encode() + n[-2:] + b'"'),
        ("a mark of direction", lambda n: b'filename="' + "\u202e".encode() + n + b'"'),
        ("a soft hyphen", lambda n: b'filename="' + n[:-2] + "\u00ad".encode() + n[-2:] + b'"'),
        ("a path", lambda n: b'filename="c:\\\\x\\\\' + n + b'"'),
        ("a path with slashes", lambda n: b'filename="../../x/' + n + b'"'),
        ("many blanks before the suffix", lambda n: b'filename="a.txt' + b" " * 100 + n + b'"'),
        ("a comment behind", lambda n: b"filename=" + n + b"(comment)"),
        ("a comment inside", lambda n: b"filename=" + n[:3] + b"(c)" + n[3:]),
        ("no semicolon", lambda n: b"x=y filename=" + n),
        ("a comma", lambda n: b"x=y, filename=" + n),
        ("behind a broken quote", lambda n: b'x="y; filename=' + n),
        ("file-name spelt with a blank", lambda n: b"file name=" + n),
        ("name instead", lambda n: b"name=" + n),
    )  # fmt: skip
    for name, parameter in parameters:
        yield (
            f"{name}",
            with_fields(lambda n, p=parameter: octets + b"Content-Disposition: attachment; " + p(n) + b"\r\n"),
        )
        yield (
            f"{name}, in Content-Type",
            with_fields(
                lambda n, p=parameter: (
                    b"Content-Type: application/octet-stream; " + p(n).replace(b"file", b"") + b"\r\n"
                )
            ),
        )
    yield "Content-Description", with_fields(lambda n: octets + b"Content-Description: " + n + b"\r\n")
    yield "Content-Location", with_fields(lambda n: octets + b"Content-Location: http://x.example/" + n + b"\r\n")
    yield "Content-Name", with_fields(lambda n: octets + b"Content-Name: x; name=" + n + b"\r\n")
    yield "inline", with_fields(lambda n: octets + b'Content-Disposition: inline; filename="' + n + b'"\r\n')
    yield "no kind of disposition", with_fields(lambda n: octets + b'Content-Disposition: ; filename="' + n + b'"\r\n')
    yield "nothing but a name", with_fields(lambda n: octets + b'Content-Disposition: filename="' + n + b'"\r\n')
    yield (
        "two dispositions, the second",
        with_fields(
            lambda n: (
                octets
                + b"Content-Disposition: inline; filename=a.txt\r\nContent-Disposition: attachment; filename="
                + n
                + b"\r\n"
            )
        ),
    )
    yield (
        "two dispositions, the first",
        with_fields(
            lambda n: (
                octets
                + b"Content-Disposition: inline; filename="
                + n
                + b"\r\nContent-Disposition: attachment; filename=a.txt\r\n"
            )
        ),
    )


def texts() -> Iterator[tuple[str, Trick]]:
    """Files in what is text."""
    plain = b"Content-Type: text/plain\r\n"
    bodies: tuple[tuple[str, Callable[[File], bytes]], ...] = (
        ("uuencode", lambda f: f.uuencoded),
        ("uuencode after text", lambda f: b"hello\r\n\r\n" + f.uuencoded),
        ("uuencode with four digits", lambda f: f.uuencoded.replace(b"644", b"0644", 1)),
        ("uuencode without end", lambda f: f.uuencoded.replace(b"`\r\nend\r\n", b"")),
        ("uuencode with blanks for `", lambda f: f.uuencoded.replace(b"`", b" ")),
        ("uuencode after a blank", lambda f: b" " + f.uuencoded),
        ("uuencode with bare LF", lambda f: f.uuencoded.replace(b"\r\n", b"\n")),
        ("uuencode with bare CR", lambda f: f.uuencoded.replace(b"\r\n", b"\r")),
        ("uuencode, name in quotes", lambda f: f.uuencoded.replace(f.name, b'"' + f.name + b'"', 1)),
        ("uuencode, twice begun", lambda f: b"begin 644 a.txt\r\n" + f.uuencoded),
        ("uuencode, blanks between", lambda f: f.uuencoded.replace(b"begin 644 ", b"begin  644  ", 1)),
        ("uuencode in a quotation", lambda f: b">" + f.uuencoded),
        ("begin-base64", lambda f: b"begin-base64 644 " + f.name + b"\r\n" + f.base64 + b"====\r\n"),
        ("yEnc", lambda f: f.yenc),
        ("yEnc in parts", lambda f: f.yenc.replace(b" line=", b" part=1 line=", 1).replace(b"\r\n", b"\r\n=ypart begin=1 end=9\r\n", 1)),
        ("yEnc without end", lambda f: f.yenc.rpartition(b"=yend")[0]),
        ("BinHex", binhex),
        ("base64 under a line of text", lambda f: b"the file:\r\n\r\n" + f.disposition + f.base64),
        ("a MIME part under a line of text", lambda f: b"the file:\r\n\r\n" + f.part),
        ("a MIME message", multipart),
        ("an mbox", lambda f: b"From a@example.com Thu Jan  1 00:00:00 1970\r\n" + multipart(f)),
    )  # fmt: skip
    for name, body in bodies:
        yield name, lambda f, b=body: whole(f, plain, b(f))
        yield f"{name}, no type", lambda f, b=body: TOP + b"\r\n" + b(f)
        yield (
            f"{name}, in base64",
            lambda f, b=body: whole(f, plain + b"Content-Transfer-Encoding: base64\r\n", base64.encodebytes(b(f))),
        )
        yield f"{name}, in HTML's part", lambda f, b=body: whole(f, b"Content-Type: text/html\r\n", b(f))
    yield (
        "UTF-7",
        lambda f: whole(f, b"Content-Type: text/plain; charset=utf-7\r\n", f.uuencoded.decode().encode("utf-7")),
    )
    yield (
        "UTF-16",
        lambda f: whole(
            f,
            b"Content-Type: text/plain; charset=utf-16\r\nContent-Transfer-Encoding: base64\r\n",
            base64.encodebytes(f.uuencoded.decode().encode("utf-16")),
        ),
    )
    yield (
        "UTF-16 without a byte order mark",
        lambda f: whole(
            f,
            b"Content-Type: text/plain; charset=utf-16le\r\nContent-Transfer-Encoding: base64\r\n",
            base64.encodebytes(f.uuencoded.decode().encode("utf-16-le")),
        ),
    )
    yield (
        "UTF-32",
        lambda f: whole(
            f,
            b"Content-Type: text/plain; charset=utf-32\r\nContent-Transfer-Encoding: base64\r\n",
            base64.encodebytes(f.uuencoded.decode().encode("utf-32")),
        ),
    )
    yield "a UTF-16 message", lambda f: multipart(f).decode("latin-1").encode("utf-16")
    for mark in (
        b"data:application/octet-stream;base64,",
        b"data:;base64,",
        b"data:application/zip;name=x;base64,",
        b"DATA:a/b;BASE64,",
    ):
        yield f"link {mark.decode()}", partial(_linked, mark=mark)


def _linked(file: File, mark: bytes) -> bytes:
    link = b'<a download="' + file.name + b'" href="' + mark + base64.b64encode(file.content) + b'">x</a>'
    return whole(file, b"Content-Type: text/html\r\n", link)


def containers() -> Iterator[tuple[str, Trick]]:
    """Files in other files that mail programs unwrap."""
    yield "TNEF", lambda f: _attached(f, b"winmail.dat", tnef(f))
    yield (
        "TNEF as application/ms-tnef",
        lambda f: whole(
            f,
            b"Content-Type: application/ms-tnef\r\nContent-Transfer-Encoding: base64\r\n",
            base64.encodebytes(tnef(f)),
        ),
    )
    yield (
        "S/MIME, opaque",
        lambda f: whole(
            f,
            b"Content-Type: application/pkcs7-mime; smime-type=signed-data\r\nContent-Transfer-Encoding: base64\r\n",
            base64.encodebytes(opaque(multipart(f))),
        ),
    )
    yield (
        "S/MIME, opaque, of unknown length",
        lambda f: whole(
            f,
            b"Content-Type: application/x-pkcs7-mime\r\nContent-Transfer-Encoding: base64\r\n",
            base64.encodebytes(opaque_in_pieces(multipart(f))),
        ),
    )
    yield "a picture in front", lambda f: _attached(f, f.name, b"GIF89a" + b"\1" * 100 + f.content)
    yield "a text in front", lambda f: _attached(f, f.name, b"hello\r\n" + f.content)


def _attached(file: File, name: bytes, content: bytes) -> bytes:
    return multipart(file, part=File(name, content).part)


def tnef(file: File) -> bytes:
    def attribute(number: int, value: bytes) -> bytes:
        size = len(value).to_bytes(4, "little")
        return b"\x02" + number.to_bytes(4, "little") + size + value + (sum(value) & 0xFFFF).to_bytes(2, "little")

    head = b"\x78\x9f\x3e\x22\x01\x00"
    start = attribute(0x00069002, b"\x01\x00" + b"\0" * 12)
    return head + start + attribute(0x00018010, file.name + b"\0") + attribute(0x0006800F, file.content)


def der(tag: int, value: bytes) -> bytes:
    size = len(value)
    length = bytes((size,)) if size < 128 else b"\x83" + size.to_bytes(3, "big")
    return bytes((tag,)) + length + value


SIGNED_DATA = bytes.fromhex("06092a864886f70d010702")
DATA = bytes.fromhex("06092a864886f70d010701")


def opaque(content: bytes) -> bytes:
    inner = der(0x30, DATA + der(0xA0, der(0x04, content)))
    return der(0x30, SIGNED_DATA + der(0xA0, der(0x30, b"\x02\x01\x01" + der(0x31, b"") + inner + der(0x31, b""))))


def opaque_in_pieces(content: bytes) -> bytes:
    pieces = b"".join(der(0x04, content[n : n + 50]) for n in range(0, len(content), 50))
    inner = b"\x30\x80" + DATA + b"\xa0\x80\x24\x80" + pieces + b"\0\0\0\0\0\0"
    return der(0x30, SIGNED_DATA + der(0xA0, der(0x30, b"\x02\x01\x01" + der(0x31, b"") + inner + der(0x31, b""))))


def lines() -> Iterator[tuple[str, Trick]]:
    """Line ends and what stands before the message."""
    for end in (b"\n", b"\r", b"\r\r\n", b"\n\r"):
        yield f"all ended by {end!r}", lambda f, e=end: multipart(f).replace(b"\r\n", e)
    for front in (
        b"From a@example.com Thu Jan  1 00:00:00 1970\r\n",
        b">From x\r\n",
        b"\r\n",
        b"\r\n\r\n",
        b"\xef\xbb\xbf",
        b"\0",
        b" \r\n",
        b"nonsense\r\n",
        b"220 x\r\n",
        b" folded\r\n",
        b":\r\n",
        b": x\r\n",
    ):
        yield f"{front[:8]!r} in front", lambda f, o=front: o + multipart(f)
    yield "header lines mixed, LF", lambda f: multipart(f, top=TOP.replace(b"\r\n", b"\n"))
    yield "body lines mixed, LF", lambda f: multipart(f, part=f.part.replace(b"\r\n", b"\n"))
    yield "body lines mixed, CR", lambda f: multipart(f, part=f.part.replace(b"\r\n", b"\r"))
    yield "ten thousand fields in front", lambda f: multipart(f, top=TOP + b"X: y\r\n" * 10_001)
    yield "a field of a megabyte in front", lambda f: multipart(f, top=TOP + b"X: " + b"y" * (1 << 20) + b"\r\n")
    yield "a thousand parts in front", lambda f: multipart(f, preamble=(b"--bb\r\n" + TEXT) * 1000)
    yield "three thousand parts in front", lambda f: multipart(f, preamble=(b"--bb\r\n" + TEXT) * 3000)


FAMILIES = (boundaries, delimiters, placement, types, encodings, base64_bodies, names, texts, containers, lines)
