"""More messages that hide a file: what stands about field names, names as file systems change them, wrappings in
wrappings, mail in archives, files in calendars and pages, ZIPs that contradict themselves.

Made like tests.scan.tricks, of which these are further families.
"""

from __future__ import annotations

import base64
import binascii
import gzip
import quopri
import struct
import zlib
from collections.abc import Callable, Iterator
from functools import partial

from tests.scan.samples import zip_of
from tests.scan.tricks import DATA, FAMILIES, File, Trick, _attached, _body, binhex, der, multipart, opaque, tnef, whole

OCTETS = b"Content-Type: application/octet-stream\r\nContent-Transfer-Encoding: base64\r\n"
TEXT_FIELD = b"Content-Type: text/plain\r\n"


def lines(content: bytes) -> bytes:
    return base64.encodebytes(content).replace(b"\n", b"\r\n")


def with_disposition(parameter: Callable[[bytes], bytes]) -> Trick:
    return lambda f: multipart(
        f, part=OCTETS + b"Content-Disposition: attachment; " + parameter(f.name) + b"\r\n\r\n" + f.base64
    )


def fields() -> Iterator[tuple[str, Trick]]:
    """What stands before, inside and behind a field's name, and how much of its value."""
    mixed = b" multipart/mixed; boundary=bb\r\n"
    for name in (
        b"Content-Type:\r\n \r\n", b"Content-\r\n Type:", b"Content-Type", b"Content-Type;", b"Content-Type=", b"Content\xe2\x80\x90Type:",
        b"\xe2\x80\x8bContent-Type:", b"\x01Content-Type:", b"Content-Type\x01:", b"Content-Type\xe2\x80\x8b:", b"\x7fContent-Type:",
        b"Content-Type: (a (nested) comment; boundary=cc)", b"Content-Type: (a \\) ; boundary=cc)", b"Content-Type: (" + b"x" * 70_000 + b")",
    ):  # fmt: skip
        yield f"type {name[:40]!r}", partial(multipart, field=name + mixed)
    yield (
        "a value that is an encoded word",
        partial(multipart, field=b"Content-Type: =?us-ascii?Q?multipart/mixed;_boundary=bb?=\r\n"),
    )
    yield (
        "a boundary behind 14,000 parameters",
        partial(multipart, field=b"Content-Type: multipart/mixed;" + b" a=b;" * 14_000 + b" boundary=bb\r\n"),
    )
    for mark in (b"\xe2\x80\x8b", b"\x01", b"\xc2\xa0", b"\x1f\x1f"):
        yield (
            f"{mark!r} before each of a part's fields",
            lambda f, m=mark: multipart(f, part=m + f.part.replace(b"\r\nC", b"\r\n" + m + b"C")),
        )
        yield (
            f"{mark!r} behind the names of a part's fields",
            lambda f, m=mark: multipart(f, part=f.part.replace(b": ", m + b": ")),
        )
    for colon in (b" ", b"; ", b"= "):
        yield (
            f"{colon!r} for the colons of a part",
            lambda f, c=colon: multipart(f, part=f.part.replace(b": ", c)),
        )
    yield "a name behind 70,000 octets of parameters", with_disposition(lambda n: b"a=b; " * 14_000 + b"filename=" + n)
    yield (
        "a name behind a comment of 70,000 octets",
        with_disposition(lambda n: b"(" + b"x" * 70_000 + b") filename=" + n),
    )
    other = b"Content-Type: multipart/mixed; boundary=zz\r\n"
    pad = b"X-Pad: " + b"y" * 300_000 + b"\r\n"
    yield (
        "300,000 octets behind the fields, another boundary",
        lambda f: multipart(f, field=other, part=f.fields + pad + b"\r\n" + f.base64),
    )
    yield (
        "300,000 octets between the fields, another boundary",
        lambda f: multipart(f, field=other, part=OCTETS + pad + f.disposition + b"\r\n" + f.base64),
    )
    yield (
        "NULs far down",
        lambda f: multipart(
            f,
            preamble=b"hello world\r\n" * 100_000,
            part=b"\0".join(bytes((octet,)) for octet in f.part),
            delimiter=b"\r\n\0-\0-\0b\0b\r\n",
        ),
    )
    yield "UTF-16, big end first", lambda f: multipart(f).decode("latin-1").encode("utf-16-be")
    yield "UTF-32", lambda f: multipart(f).decode("latin-1").encode("utf-32")
    yield (
        "a boundary that ends like the last delimiter",
        partial(
            multipart,
            field=b'Content-Type: multipart/mixed; boundary="bb--"\r\n',
            first=b"--bb--\r\n",
            delimiter=b"\r\n--bb--\r\n",
            last=b"\r\n--bb----\r\n",
        ),
    )


def saved_names() -> Iterator[tuple[str, Trick]]:
    """Names that are others once they are saved, or once they are read to their end."""
    changes: tuple[tuple[str, Callable[[str], str]], ...] = (
        ("a stream", lambda n: n + ":x.txt"),
        ("the main stream", lambda n: n + "::$DATA"),
        ("a no-break space", lambda n: n + "\u00a0"),
        ("an ideographic space", lambda n: n + "\u3000"),
        ("a Hangul filler", lambda n: n + "\u3164"),
        ("a variation selector", lambda n: n[:-1] + "\ufe0f" + n[-1:]),
        ("a tag", lambda n: n[:-1] + "\U000e0041" + n[-1:]),
        ("a byte order mark", lambda n: n[:-1] + "\ufeff" + n[-1:]),
        ("a full-width dot", lambda n: n.replace(".", "\uff0e")),
        ("a one dot leader", lambda n: n.replace(".", "\u2024")),
        ("full-width letters", lambda n: n[:-3] + "".join(chr(ord(c) + 0xFEE0) for c in n[-3:])),
        ("a mark of direction", lambda n: "a\u202etxt." + n),
        ("a control character", lambda n: n[:-1] + "\x01" + n[-1:]),
        *((f"{mark} behind", lambda n, m=mark: n + m) for mark in "/<>|*?'"),
        ("300 letters", lambda n: "a" * 300 + n),
    )
    for name, change in changes:
        if "/" not in change("x"):
            yield f"{name}, in a ZIP", partial(_zipped, change=change)
        yield name, with_disposition(lambda n, c=change: b'filename="' + c(n.decode()).encode() + b'"')
        yield (
            f"{name}, RFC 2231",
            with_disposition(
                lambda n, c=change: b"filename*=utf-8''" + b"".join(b"%%%02X" % o for o in c(n.decode()).encode())
            ),
        )
    parameters: tuple[tuple[str, Callable[[bytes], bytes]], ...] = (
        ("two quoted strings", lambda n: b'filename="a.txt" "' + n + b'"'),
        ("a quoted string and more", lambda n: b'filename="' + n[:3] + b'"' + n[3:]),
        ("an encoded word in an encoded word", lambda n: b'filename="=?utf-8?B?' + base64.b64encode(b"=?utf-8?Q?" + n + b"?=") + b'?="'),
        ("an encoded word without charset", lambda n: b'filename="=?""?Q?' + n + b'?="'),
        ("octets that are no UTF-8", lambda n: b'filename="' + n[:-1] + b"\xff" + n[-1:] + b'"'),
        ("3000 letters", lambda n: b"filename=" + b"a" * 3000 + n),
        ("RFC 2231 in UTF-16", lambda n: b"filename*=utf-16''" + b"".join(b"%%%02X" % o for o in n.decode().encode("utf-16"))),
        ("EBCDIC", lambda n: b'filename="=?cp037?B?' + base64.b64encode(n.decode().encode("cp037")) + b'?="'),
    )  # fmt: skip
    for name, parameter in parameters:
        yield name, with_disposition(parameter)
    yield "in gzip's own header", lambda f: _attached(f, b"report.gz", _gzipped(f))
    yield "in gzip's own header behind more", lambda f: _attached(f, b"report.gz", _gzipped(f, extra=b"\x04\0abcd"))


def _zipped(file: File, change: Callable[[str], str]) -> bytes:
    return _attached(file, b"a.zip", zip_of((change(file.name.decode()), file.content)))


def _gzipped(file: File, extra: bytes = b"") -> bytes:
    flags = 8 | (4 if extra else 0)
    packed = gzip.compress(file.content, mtime=0)
    return packed[:3] + bytes((flags,)) + packed[4:10] + extra + file.name + b"\0" + packed[10:]


def loose_texts() -> Iterator[tuple[str, Trick]]:
    """uuencode and BinHex with other first lines, files in calendars, cards and pages."""
    for begin in (b"begin 100644 ", b"begin 6 ", b"begin 0 ", b"BEGIN 644 ", b"begin\t644\t", b"begin  ", b"begin "):
        yield (
            f"uuencode, {begin!r}",
            lambda f, b=begin: whole(f, TEXT_FIELD, f.uuencoded.replace(b"begin 644 ", b, 1)),
        )
    for name, change in (
        ("indented", lambda text: b"  " + text.replace(b"\r\n", b"\r\n  ")),
        ("with a check letter each line", lambda text: text.replace(b"\r\n", b"X\r\n")),
        ("with HTML's entities", lambda text: text.replace(b"&", b"&amp;").replace(b"<", b"&lt;")),
    ):
        yield f"uuencode, {name}", lambda f, c=change: whole(f, TEXT_FIELD, c(f.uuencoded))
    yield "xxencode", lambda f: whole(f, TEXT_FIELD, _xxencoded(f))
    other = b"(This file must be converted; you knew that already.)"
    yield (
        "BinHex, another first line",
        lambda f: whole(f, TEXT_FIELD, other + binhex(f).partition(b")")[2]),
    )
    for parameter in (b"FILENAME=", b"X-FILENAME=", b'X-APPLE-FILENAME="'):
        yield f"a calendar, {parameter!r}", partial(_calendar, parameter=parameter)
    yield (
        "a card",
        lambda f: whole(
            f,
            b"Content-Type: text/vcard\r\n",
            b"BEGIN:VCARD\r\nKEY;ENCODING=b;X-FILENAME="
            + f.name
            + b":"
            + base64.b64encode(f.content)
            + b"\r\nEND:VCARD\r\n",
        ),
    )
    link = b"data:application/zip;base64,"
    for name, coded in (
        ("its characters by number", lambda f: b"".join(b"&#%d;" % o for o in link + base64.b64encode(f.content))),
        ("characters by name", lambda f: b"data&colon;application/zip;base64&comma;" + base64.b64encode(f.content)),
        ("with a tab and a line end", lambda f: b"da\tta:application/zip;base\r\n64," + base64.b64encode(f.content)),
        ("in percents", lambda f: link + b"".join(b"%%%02x" % o for o in base64.b64encode(f.content))),
    ):
        yield f"a page's link, {name}", lambda f, c=coded: whole(f, b"Content-Type: text/html\r\n", _link(f, c(f)))
        yield (
            f"a page's link, {name}, in UTF-16",
            lambda f, c=coded: whole(
                f,
                b"Content-Type: text/html\r\nContent-Transfer-Encoding: base64\r\n",
                lines(_link(f, c(f)).decode().encode("utf-16")),
            ),
        )
    yield "escapes cut by soft breaks", lambda f: _body(f, b"quoted-printable", b"".join(b"=%X=\r\n%X" % (o >> 4, o & 15) for o in f.content))  # fmt: skip
    yield "base64, then quoted-printable, called base64", lambda f: _body(f, b"base64", quopri.encodestring(f.base64))


def _link(file: File, coded: bytes) -> bytes:
    return b'<a download="' + file.name + b'" href="' + coded + b'">x</a>'


def _calendar(file: File, parameter: bytes) -> bytes:
    text = base64.b64encode(file.content)
    folded = b"\r\n ".join(text[n : n + 3] for n in range(0, len(text), 3))
    attached = b"ATTACH;ENCODING=BASE64;VALUE=BINARY;" + parameter + file.name + b":" + folded + b"\r\n"
    body = b"BEGIN:VCALENDAR\r\nBEGIN:VEVENT\r\n" + attached + b"END:VEVENT\r\nEND:VCALENDAR\r\n"
    return whole(file, b"Content-Type: text/calendar\r\n", body)


def _xxencoded(file: File) -> bytes:
    alphabet = b"+-0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    out = [b"begin 644 " + file.name]
    for n in range(0, len(file.content), 45):
        line = binascii.b2a_uu(file.content[n : n + 45]).rstrip(b"\n")
        out.append(bytes(alphabet[(octet - 32) & 63] for octet in line))
    return b"\r\n".join([*out, b"+", b"end", b""])


def wrappings() -> Iterator[tuple[str, Trick]]:
    """Files in files that mail programs unwrap, in each other and in archives."""
    yield "TNEF in TNEF", lambda f: _attached(f, b"winmail.dat", tnef(File(b"winmail.dat", tnef(f))))
    yield "TNEF thrice", lambda f: _attached(f, b"a.dat", tnef(File(b"b.dat", tnef(File(b"c.dat", tnef(f))))))
    yield "a message in TNEF", lambda f: _attached(f, b"winmail.dat", tnef(File(b"a.eml", multipart(f))))
    saved = b"From: <Saved by a browser>\r\nMIME-Version: 1.0\r\n"
    for name, wrapped in (
        ("TNEF", lambda f: ("winmail.dat", tnef(f))),
        ("a message", lambda f: ("msg.eml", multipart(f))),
        ("a message without suffix", lambda f: ("msg", multipart(f))),
        ("a saved page", lambda f: ("page.mht", multipart(f, top=saved))),
        ("a message with a message", lambda f: ("msg.eml", _attached(f, b"in.eml", multipart(f)))),
        ("a message with TNEF", lambda f: ("msg.eml", _attached(f, b"winmail.dat", tnef(f)))),
        ("AppleSingle", lambda f: ("a", apple_single(f))),
    ):
        yield f"{name} in a ZIP", lambda f, w=wrapped: _attached(f, b"a.zip", zip_of(w(f)))
        yield f"{name} in a ZIP in a ZIP", lambda f, w=wrapped: _attached(f, b"a.zip", zip_of(("b.zip", zip_of(w(f)))))
    yield "a message in gzip", lambda f: _attached(f, b"a.eml.gz", gzip.compress(multipart(f), mtime=0))
    yield "AppleSingle", lambda f: _attached(f, b"a", apple_single(f))
    yield "AppleDouble", _apple_double
    yield "MacBinary", lambda f: _attached(f, b"a.bin", mac_binary(f))
    smime = b"Content-Type: application/pkcs7-mime\r\nContent-Transfer-Encoding: base64\r\n"
    yield "S/MIME by its name", lambda f: _attached(f, b"smime.p7m", opaque(multipart(f)))
    yield (
        "S/MIME, signed twice",
        lambda f: whole(f, smime, lines(opaque(smime + b"\r\n" + lines(opaque(multipart(f)))))),
    )
    yield "S/MIME, compressed", lambda f: whole(f, smime, lines(compressed(multipart(f))))
    yield (
        "S/MIME in PEM's lines",
        lambda f: whole(
            f,
            b"Content-Type: application/pkcs7-mime\r\n",
            b"-----BEGIN PKCS7-----\r\n" + lines(opaque(multipart(f))) + b"-----END PKCS7-----\r\n",
        ),
    )


def apple_single(file: File, kind: int = 0x00051600) -> bytes:
    entries = [(3, file.name), (1, file.content)] if kind == 0x00051600 else [(3, file.name), (9, bytes(32))]
    head = struct.pack(">II16sH", kind, 0x20000, bytes(16), len(entries))
    data, start = b"", len(head) + 12 * len(entries)
    for number, content in entries:
        head += struct.pack(">III", number, start + len(data), len(content))
        data += content
    return head + data


def _apple_double(file: File) -> bytes:
    parts = (
        b"Content-Type: application/applefile\r\nContent-Transfer-Encoding: base64\r\n\r\n"
        + lines(apple_single(file, 0x00051607)),
        OCTETS + b"\r\n" + file.base64,
    )
    inside = b"".join(b"--ad\r\n" + part + b"\r\n" for part in parts) + b"--ad--\r\n"
    return multipart(file, part=b"Content-Type: multipart/appledouble; boundary=ad\r\n\r\n" + inside)


def mac_binary(file: File) -> bytes:
    head = bytearray(128)
    head[1] = len(file.name)
    head[2 : 2 + len(file.name)] = file.name
    head[83:87] = len(file.content).to_bytes(4, "big")
    return bytes(head) + file.content + bytes(-len(file.content) % 128)


def compressed(content: bytes) -> bytes:
    """RFC 3274's CompressedData."""
    algorithm = der(0x30, bytes.fromhex("060b2a864886f70d0109100308"))
    inner = der(0x30, DATA + der(0xA0, der(0x04, zlib.compress(content))))
    data = der(0x30, b"\x02\x01\x00" + algorithm + inner)
    return der(0x30, bytes.fromhex("060b2a864886f70d0109100109") + der(0xA0, data))


def zips() -> Iterator[tuple[str, Trick]]:
    """Archives that contradict themselves, or are cut, or stand in the midst of something."""
    changes: tuple[tuple[str, Callable[[bytes, bytes], bytes]], ...] = (
        ("another name in the local header", lambda z, n: z.replace(n, b"x" * len(n), 1)),
        ("another name in the directory", lambda z, n: (b"x" * len(n)).join(z.rsplit(n, 1))),
        ("cut in its end record", lambda z, _: z[:-10]),
        ("no directory", lambda z, _: z[: z.find(b"PK\1\2")]),
        ("a comment that is not there", lambda z, _: z[:-2] + b"\xff\x00"),
        ("junk behind", lambda z, _: z + b"junk" * 30),
        ("junk in front", lambda z, _: b"junk" * 30 + z),
        ("another archive behind", lambda z, _: z + zip_of(("a.txt", b"hello"))),
        ("another archive in front", lambda z, _: zip_of(("a.txt", b"hello")) + z),
        ("a count of none", lambda z, _: z[:-14] + bytes(4) + z[-10:]),
        ("a mark of encryption in front", lambda z, _: z[:6] + b"\1" + z[7:]),
        ("a wrong sum", lambda z, _: z[:14] + bytes(4) + z[18:]),
        ("a mark of several disks", lambda z, _: b"PK00" + z),
        ("the number of a disk", lambda z, _: z[:-18] + b"\1\0\1\0" + z[-14:]),
        ("a directory that is nowhere", lambda z, _: z[:-6] + b"\xff" * 4 + z[-2:]),
    )
    for name, change in changes:
        yield name, lambda f, c=change: _attached(f, b"a.zip", c(zip_of((f.name.decode(), f.content)), f.name))


def spoiled() -> Iterator[tuple[str, Trick]]:
    """One octet or line out of place: what other programs still read was found by changing messages at random."""
    for name, parameter in (
        ("a comma behind a name", lambda n: b"filename=" + n + b","),
        ("two asterisks before a number", lambda n: b"filename*0=" + n[:3] + b"; filename**1=" + n[3:]),
        ("two numbers", lambda n: b'filename*0*0*="' + n + b'"'),
        ("a piece of another parameter", lambda n: b"filename*0=" + n[:3] + b"; x*2=" + n[3:]),
        ("an encoded word without an end", lambda n: b'filename="' + n[:-2] + b"=?utf-8?Q?" + n[-2:] + b'"'),
        ("a fold in an unquoted name", lambda n: b"filename=" + n[:3] + b"\r\n " + n[3:]),
        ("a fold in an escape", lambda n: b"filename*=utf-8''%6\r\n " + b"%02x" % n[0] + n[1:]),
        ("a bare CR in quotes", lambda n: b'filename="\r' + n + b'"'),
        ("a bare CR before a name", lambda n: b"filename=\r" + n),
        ("a bare CR before an equals sign", lambda n: b"filename\r=" + n),
        ("a bare CR in a parameter's name", lambda n: b"filen\rame=" + n),
        ("a comment in a parameter's name", lambda n: b"file(x)name=" + n),
        ("a comment in the word", lambda n: b"na(x)me=" + n),
        ("a quoted name on a line of its own", lambda n: b'filename=\r\n"' + n + b'"'),
        ("a name on a line of its own", lambda n: b"filename=\r\n" + n),
        ("a line's end in quotes", lambda n: b'filename="\r\n' + n + b'"'),
        *(
            (f"{mark!r} in an unquoted name", lambda n, m=mark: b"filename=" + n[:-2] + m + n[-2:])
            for mark in (b" ", b"\\", b")", b">")
        ),
        *(
            (f"{mark!r} behind an unquoted name", lambda n, m=mark: b"filename=" + n + m)
            for mark in (b"@", b"\xc3\xa9", b"*0")
        ),
        ("an escape, and an at sign behind", lambda n: b"filename=%%%02x" % n[0] + n[1:] + b"@"),
        ("pieces behind a quote that does not end", lambda n: b'filename*1="' + n[3:] + b"; filename*0=" + n[:3]),
        ("two quoted strings and a comment", lambda n: b'filename="' + n[:2] + b'" "' + n + b'"(comment)'),
        ("a line that starts with CR", lambda n: b'filename\n\r="' + n + b'"'),
        ("an encoded word in the parameter's name", lambda n: b'filena=?utf-8?Q?me="' + n + b'"'),
    ):
        yield name, with_disposition(parameter)
    for line in (
        b"<Content-Type: x/y; name=", b"-Content-Type: x/y; name=", b"Content-Dis\x1aposition: attachment; filename=",
        b"Content-Disposition': attachment; filename=", b"X-File: filename=", b"Content-Disposition: attachme\n\rnt; filename=",
    ):  # fmt: skip
        yield (
            f"a name in {line!r}",
            lambda f, start=line: multipart(f, part=OCTETS + start + b'"' + f.name + b'"\r\n\r\n' + f.base64),
        )
    yield "lines ended by LF CR", lambda f: multipart(f).replace(b"\r\n", b"\n\r")
    yield (
        "a disposition above the delimiter",
        lambda f: multipart(f, delimiter=b"\r\n" + f.disposition + b"--bb\r\n", part=OCTETS + b"\r\n" + f.base64),
    )
    odd_mode = b"begin 64" + b"\x1f" * 1000 + b" "
    yield "uuencode of an odd mode", lambda f: whole(f, TEXT_FIELD, f.uuencoded.replace(b"begin 644 ", odd_mode))


MORE_FAMILIES = (fields, saved_names, loose_texts, wrappings, zips, spoiled)


def tricks() -> Iterator[tuple[str, Trick]]:
    """All of them, those of tests.scan.tricks included."""
    for family in (*FAMILIES, *MORE_FAMILIES):
        for name, trick in family():
            yield f"{family.__name__}: {name}", trick
