"""Targets for what is one line or one header: commands, paths, parameters, PROXY headers.

Contract
    A target takes any octets and returns; what it finds is raised. It knows the parsers' answers from a second, plainer
    reading of the same octets, which is written here and shares no code with them.
"""

from __future__ import annotations

import contextlib
import ipaddress
import re

from egressguard.mail.address import AddressError, parse_address
from egressguard.mail.reply import Reply
from egressguard.smtp.commands import PATH_OCTETS, parse_command, parse_helo, parse_mail, parse_rcpt
from egressguard.smtp.parameters import Offers
from egressguard.smtp.proxy import V1_OCTETS, V2_BLOCK_OCTETS, Header, NeedMore, ProxyError, parse_proxy
from egressguard.smtp.replies import Refusal, render_reply
from tests.fuzz.memory import Finding

REPLY_LINE = re.compile(rb"[2-5][0-9]{2}[ -][\x20-\x7e]*\r\n")


def check_refusal(reply: Reply) -> None:
    """RFC 5321 s4.2, RFC 2034: a 5yz with an enhanced code, in whole lines that are not too long."""
    if not reply.is_permanent or reply.status[:1] != "5":
        raise Finding(f"not a permanent refusal: {reply}")
    for line in render_reply(reply).splitlines(keepends=True):
        if not REPLY_LINE.fullmatch(line) or len(line) > 512:
            raise Finding(f"not a reply line: {line!r}")


def command(octets: bytes) -> None:
    """A line without its CRLF."""
    try:
        parsed = parse_command(octets)
    except Refusal as refusal:
        check_refusal(refusal.reply)
        return
    verb, _, rest = octets.decode("utf-8").rstrip(" ").partition(" ")
    if not re.fullmatch("[A-Z]+", parsed.verb) or verb.upper() != parsed.verb or rest != parsed.argument:
        raise Finding(f"{octets!r} was read as {parsed}")
    if len(octets) > 2048 and parsed.verb != "AUTH":
        raise Finding("a long line was taken")
    with contextlib.suppress(Refusal):
        name = parse_helo(parsed.argument)
        if name != parsed.argument or not name.isascii() or not name.isprintable() or " " in name or len(name) > 255:
            raise Finding(f"{name!r} was taken for a name")


def path(octets: bytes) -> None:
    """The first octet: whether SMTPUTF8 was said. The rest is what a client writes behind "RCPT TO:"."""
    text = octets[1:].decode("utf-8", "ignore")
    utf8 = bool(octets[:1] and octets[0] & 1)
    try:
        taken = parse_rcpt("TO:" + text, Offers(dsn=True), smtputf8=utf8).forward_path
    except Refusal as refusal:
        check_refusal(refusal.reply)
        return
    if f"<{taken}>" not in text or text.strip(" ").split("<", 1)[0]:
        raise Finding(f"{taken!r} is not what stands in {text!r}")
    if not taken.isprintable():
        raise Finding(f"{taken!r} ends up on somebody's terminal")
    if taken.lower() != "postmaster":
        _check_mailbox(taken, utf8=utf8)


def address(octets: bytes) -> None:
    """The same without the brackets: what parse_address itself takes."""
    utf8 = bool(octets[:1] and octets[0] & 1)
    text = octets[1:].decode("utf-8", "surrogateescape")
    try:
        parsed = parse_address(text, utf8=utf8)
    except AddressError:
        return
    if str(parsed).lower() != text.lower() and str(parsed) != f"{text.rpartition('@')[0]}@{parsed.domain}":
        raise Finding(f"{text!r} became {parsed}")
    if parse_address(str(parsed), utf8=utf8) != parsed:
        raise Finding(f"{parsed} is another address at the second reading")
    _check_mailbox(str(parsed), utf8=utf8)


def _check_mailbox(text: str, *, utf8: bool) -> None:
    local_part, _, domain = text.rpartition("@")
    octets = text.encode("utf-8")
    if not utf8 and not text.isascii():
        raise Finding("beyond ASCII without SMTPUTF8")
    if len(local_part.encode()) > 64 or len(domain.encode()) > 255 or not local_part or not domain:
        raise Finding(f"too long or empty: {text!r}")
    if re.search(rb"[\x00-\x1f\x7f]", octets) or len(octets) > PATH_OCTETS + 64:
        raise Finding(f"control characters: {text!r}")
    if not local_part.startswith('"') and re.search(r'[\x00-\x20()<>\[\]:;@\\,"]|^\.|\.$|\.\.', local_part):
        raise Finding(f"not a dot-string: {text!r}")
    if domain.startswith("["):
        ipaddress.ip_address(re.sub("^ipv6:", "", domain[1:-1], flags=re.IGNORECASE))
        return
    for label in domain.split("."):
        if (
            not label
            or label[0] == "-"
            or label[-1] == "-"
            or re.search(r"[\x00-\x2c\x2f\x3a-\x40\x5b-\x60\x7b-\x7f]", label)
        ):
            raise Finding(f"not a label: {label!r} in {text!r}")
    _check_one_name(domain)


_DEVIATIONS = "\u00df\u03c2\u200c\u200d"  # IDNA 2008 keeps what IDNA 2003 folded


def _check_one_name(domain: str) -> None:
    """Python's own IDNA 2003 asks DNS for the same name, or for none."""
    lower = domain.lower()
    if lower.isascii() or any(c in lower for c in _DEVIATIONS):
        return
    ours = ".".join(x if x.isascii() else "xn--" + x.encode("punycode").decode() for x in lower.split("."))
    with contextlib.suppress(UnicodeError):
        theirs = lower.encode("idna").decode().lower()
        if theirs != ours:
            raise Finding(f"{domain!r} is {ours} here and {theirs} elsewhere")


def _offers(flags: int) -> Offers:
    return Offers(*(bool(flags & 1 << bit) for bit in range(5)))


def parameters(octets: bytes) -> None:
    """The first octet: what was offered, MAIL or RCPT, SMTPUTF8. The rest is what stands behind the path."""
    flags = octets[0] if octets else 0
    offers, words = _offers(flags), octets[1:].decode("utf-8", "ignore")
    try:
        if flags & 32:
            rcpt = parse_rcpt(f"TO:<a@b.example> {words}", offers, smtputf8=bool(flags & 64))
        else:
            mail = parse_mail(f"FROM:<a@b.example> {words}", offers)
    except Refusal as refusal:
        check_refusal(refusal.reply)
        return
    said = _read_words(words)
    if said and not offers.extended:
        raise Finding("parameters after HELO")
    known = {"NOTIFY", "ORCPT"} if flags & 32 else {"SIZE", "BODY", "SMTPUTF8", "AUTH", "RET", "ENVID", "REQUIRETLS"}
    wanted = {"AUTH": offers.auth, "RET": offers.dsn, "ENVID": offers.dsn, "NOTIFY": offers.dsn, "ORCPT": offers.dsn}
    wanted["REQUIRETLS"] = offers.requiretls
    if any(keyword not in known or not wanted.get(keyword, True) for keyword in said):
        raise Finding(f"{sorted(said)} were taken, {offers}")
    if flags & 32:
        _check_options(said, rcpt.options.notify, rcpt.options.orcpt)
        return
    if mail.size_octets != (int(said["SIZE"]) if "SIZE" in said else None) or (mail.size_octets or 0) >= 10**20:
        raise Finding(f"SIZE {mail.size_octets} of {words!r}")
    body = said.get("BODY", "7BIT").upper()
    if (mail.binary, mail.body_8bit) != (body == "BINARYMIME", body != "7BIT") or (
        mail.binary and not offers.binarymime
    ):
        raise Finding(f"BODY of {words!r}: {mail}")
    if (mail.smtputf8, mail.requiretls) != ("SMTPUTF8" in said, "REQUIRETLS" in said):
        raise Finding(f"flags of {words!r}: {mail}")
    if mail.ret not in {None, "FULL", "HDRS"} or (mail.ret or "") != said.get("RET", "").upper():
        raise Finding(f"RET of {words!r}: {mail}")
    if mail.envid != said.get("ENVID") or (mail.envid and not _is_printable_xtext(mail.envid, 100)):
        raise Finding(f"ENVID of {words!r}: {mail}")


def _read_words(words: str) -> dict[str, str]:
    said: dict[str, str] = {}
    for word in words.split(" "):
        keyword, _, value = word.partition("=")
        if word and keyword.upper() in said:
            raise Finding(f"{keyword} was taken twice")
        if word:
            said[keyword.upper()] = value
    return said


def _check_options(said: dict[str, str], notify: tuple[str, ...] | None, orcpt: str | None) -> None:
    words = set(said["NOTIFY"].upper().split(",")) if "NOTIFY" in said else None
    if (set(notify) if notify else None) != words or (words and "NEVER" in words and len(words) > 1):
        raise Finding(f"NOTIFY {said.get('NOTIFY')!r} became {notify}")
    if orcpt != said.get("ORCPT") or len((orcpt or "").encode()) > 500:
        raise Finding(f"ORCPT {said.get('ORCPT')!r} became {orcpt!r}")
    if (
        orcpt
        and not orcpt.lower().startswith("utf-8;")
        and not _is_printable_xtext(orcpt.partition(";")[2], 500, "utf-8")
    ):
        raise Finding(f"ORCPT {orcpt!r} is not printable")


def _is_printable_xtext(text: str, most: int, charset: str = "ascii") -> bool:
    """RFC 3461 s4, read plainly: every plus sign begins the two hexadecimal digits of an octet."""
    octets = re.sub(rb"\+([0-9A-F]{2})", lambda match: bytes([int(match[1], 16)]), text.encode())
    return len(text) <= most and octets != b"" and octets.decode(charset, "replace").isprintable()


def proxy(octets: bytes) -> None:
    """The answer does not depend on how the octets come, and never asks for more than a header can have."""
    whole = _proxy_answer(octets)
    for length in range(min(len(octets), V2_BLOCK_OCTETS + 32) + 1):
        answer = _proxy_answer(octets[:length])
        if answer is None and whole is not None:
            raise Finding(f"refused at {length} octets, and taken when they are all there")
        if isinstance(answer, NeedMore):
            if not length < answer.octets <= max(V1_OCTETS, 16 + V2_BLOCK_OCTETS):
                raise Finding(f"{length} octets are there, and it waits for {answer.octets}")
            if isinstance(whole, Header) and answer.octets > whole.octets:
                raise Finding(f"it waits for octet {answer.octets} of a header that has {whole.octets}")
        if isinstance(answer, Header):
            if answer != whole or answer.octets > length:
                raise Finding(f"{answer} from {length} octets, {whole} from all")
            _check_header(octets[: answer.octets], answer)
            return


def _proxy_answer(octets: bytes) -> NeedMore | Header | None:
    try:
        return parse_proxy(octets)
    except ProxyError:
        return None


def _check_header(octets: bytes, header: Header) -> None:
    if (header.source is None) != (header.destination is None):
        raise Finding(f"half a connection: {header}")
    if header.source is None:
        if header.source_port or header.destination_port:
            raise Finding(f"ports of nobody: {header}")
        return
    if octets.startswith(b"PROXY "):
        words = octets.decode("ascii").split()
        told = [str(ipaddress.ip_address(word)) for word in words[2:4]]
        ports = [int(word) for word in words[4:6]]
    else:
        size = 4 if octets[13] >> 4 == 1 else 16
        told = [str(ipaddress.ip_address(octets[16 + n * size : 16 + (n + 1) * size])) for n in (0, 1)]
        ports = [int.from_bytes(octets[16 + 2 * size + n * 2 :][:2], "big") for n in (0, 1)]
        rest = octets[20 + 2 * size :]
        while rest:  # type, two octets of length, so many octets
            if len(rest) < 3 or len(rest) < 3 + int.from_bytes(rest[1:3], "big"):
                raise Finding(f"a TLV that ends early was taken: {rest!r}")
            rest = rest[3 + int.from_bytes(rest[1:3], "big") :]
    ours = [str(_mapped(header.source)), str(_mapped(header.destination))]
    if [str(_mapped(ipaddress.ip_address(word))) for word in told] != ours:
        raise Finding(f"{told} became {ours}")
    if ports != [header.source_port, header.destination_port]:
        raise Finding(f"{ports} became {header}")


def _mapped(given: object) -> object:
    return getattr(given, "ipv4_mapped", None) or given
