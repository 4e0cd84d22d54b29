"""Mailboxes and domains: what is one, what is none, and where the limits lie."""

from __future__ import annotations

import dns.name
import pytest
from hypothesis import given
from hypothesis import strategies as st

from egressguard.mail.address import Address, AddressError, ascii_form, parse_address, parse_domain

LABEL_63 = "a" * 63
DOMAIN_255 = ".".join(["a" * 63] * 3 + ["b" * 63])


@pytest.mark.parametrize(
    ("text", "local_part", "domain"),
    [
        ("a@b", "a", "b"),
        ("A.b@C.Example", "A.b", "c.example"),
        ("!#$%&'*+-/=?^_`{|}~@b.example", "!#$%&'*+-/=?^_`{|}~", "b.example"),
        ('"a b@c"@d.example', '"a b@c"', "d.example"),
        ('""@d.example', '""', "d.example"),
        ('"a\\"b\\\\"@d.example', '"a\\"b\\\\"', "d.example"),
        ("a" * 64 + "@b.example", "a" * 64, "b.example"),
        ('"' + "a" * 62 + '"@b.example', '"' + "a" * 62 + '"', "b.example"),
        (f"a@{LABEL_63}.example", "a", f"{LABEL_63}.example"),
        (f"a@{DOMAIN_255}", "a", DOMAIN_255),
        ("a@1.2.example", "a", "1.2.example"),
        ("a@x--y.example", "a", "x--y.example"),
        ("a@xn--bcher-kva.example", "a", "xn--bcher-kva.example"),
        ("a@[192.0.2.1]", "a", "[192.0.2.1]"),
        ("a@[IPv6:2001:DB8::1]", "a", "[ipv6:2001:db8::1]"),
        ("a@[ipv6:::]", "a", "[ipv6:::]"),
        ("a@[IPv6:::ffff:192.0.2.1]", "a", "[ipv6:::ffff:192.0.2.1]"),
    ],
)
@pytest.mark.parametrize("utf8", [False, True])
def test_mailboxes(text: str, local_part: str, domain: str, utf8: bool) -> None:
    assert parse_address(text, utf8=utf8) == Address(local_part, domain)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "@",
        "a@",
        "@b.example",
        "a.@b.example",
        ".a@b.example",
        "a..b@b.example",
        "a b@c.example",
        "a@b@c.example",
        '"a"b@c.example',
        '"a@c.example',
        '"a""b"@c.example',
        '"a\\"@c.example',
        '"a\r\nb"@c.example',
        "a\0@b.example",
        "a(c)@b.example",
        "a@b.example.",
        "a@.b.example",
        "a@b..example",
        "a@-b.example",
        "a@b-.example",
        "a@b_c.example",
        "a@b c.example",
        "a" * 65 + "@b.example",
        '"' + "a" * 63 + '"@b.example',
        "a@" + "b" * 64 + ".example",
        "a@c" + DOMAIN_255,
        "a@c." + DOMAIN_255,
        "a@[192.0.2.1",
        "a@192.0.2.1]",
        "a@[]",
        "a@[192.0.2]",
        "a@[192.0.2.256]",
        "a@[192.0.2.01]",
        "a@[ 192.0.2.1]",
        "a@[192.0.2.1/24]",
        "a@[2001:db8::1]",
        "a@[IPv6:192.0.2.1]",
        "a@[IPv6:2001:db8::1%eth0]",
        "a@[IPv6:2001:db8::1%]",
        "a@[IPv6:2001:db8::1::]",
        "a@[IPv6:]",
        "a@[X-tag:content]",
        "a@[\u0661.0.0.1]",
        "a@[[192.0.2.1]]",
        "gr\ud800@b.example",
        "a@b\udfff.example",
    ],
)
@pytest.mark.parametrize("utf8", [False, True])
def test_what_is_no_mailbox(text: str, utf8: bool) -> None:
    with pytest.raises(AddressError):
        parse_address(text, utf8=utf8)


@pytest.mark.parametrize(
    ("text", "domain"),
    [
        ("gr\u00e5@B\u00dccher.example", "b\u00fccher.example"),
        ('"gr\u00e5 x"@b.example', "b.example"),
        ("a@stra\u00dfe.example", "stra\u00dfe.example"),
        ("a@\u4f8b\u5b50.\u4f8b\u5b50", "\u4f8b\u5b50.\u4f8b\u5b50"),
        ("a@\u0646\u0627\u0645\u0647\u200c\u0627\u06cc.example", "\u0646\u0627\u0645\u0647\u200c\u0627\u06cc.example"),
        ("\u00e4" * 32 + "@b.example", "b.example"),
    ],
)
def test_internationalized_mailboxes_need_smtputf8(text: str, domain: str) -> None:
    assert parse_address(text, utf8=True).domain == domain
    with pytest.raises(AddressError):
        parse_address(text)


@pytest.mark.parametrize(
    "domain",
    [
        "\uff45xample.example",  # full-width e: DNS would be asked for example.example
        "a\u3002example",  # three more full stops of IDNA 2003
        "a\uff0eexample",
        "a\uff61example",
        "ex\u00adample.example",  # soft hyphen: nobody sees it, IDNA 2003 drops it
        "ex\ufe0fample.example",
        "ex\u200bample.example",
        "bu\u0308cher.example",  # decomposed
        "\u212aelvin.example",  # a sign whose small letter is a plain k
        "\u2103.example",
        "\u00e4 b.example",
        "\u00e4\u00a0b.example",
        "\u00e4\x85.example",
        "a\u1160b.example",
        "a\u0345b.example",
        "a\u0378b.example",
        "-\u00e4.example",
        "\u00e4-.example",
        "ab--\u00e4.example",
        "\u00e4_.example",
        "\u00e4..example",
        "\u00e4" * 128 + ".example",
        ("\u00e4" + "b" * 58) + ".example",  # xn-- and what is behind it: 65
        ".".join(["\u00e4"] * 60),  # short as sent, long as asked
    ],
)
def test_domains_that_mean_another_one_to_dns_or_none(domain: str) -> None:
    with pytest.raises(AddressError):
        parse_domain(domain, utf8=True)


@given(
    st.text(max_size=80) | st.text(st.sampled_from('aA.-@[]":6\u00e4\uff45\u3002\u200d\ud800 \\'), max_size=30),
    st.booleans(),
)
def test_any_text_is_a_mailbox_or_refused(text: str, utf8: bool) -> None:
    try:
        address = parse_address(text, utf8=utf8)
    except AddressError:
        return
    assert text == f"{address.local_part}@{text.rpartition('@')[2]}"
    assert len(address.local_part.encode()) <= 64
    assert address.domain == text.rpartition("@")[2].lower()


@given(st.text(st.characters(min_codepoint=0x21, exclude_categories=["Cs"]), min_size=1, max_size=30))
def test_an_accepted_domain_has_the_labels_that_dns_is_asked_for(text: str) -> None:
    try:
        domain = parse_domain(text, utf8=True)
    except AddressError:
        return
    if domain.startswith("["):
        return
    try:
        asked = dns.name.from_text(domain)
    except dns.name.IDNAException:
        return  # not a name at all: nobody can be reached there
    assert len(asked.labels) - 1 == len(domain.split("."))
    for label, wanted in zip(domain.split("."), asked.labels, strict=False):
        assert label.isascii() == (not wanted.startswith(b"xn--") or label.startswith("xn--"))


@pytest.mark.parametrize(
    ("path", "form"),
    [
        ("", ""),
        ("A@B.example", "A@B.example"),
        ("a@grå.example", "a@xn--gr-zia.example"),
        ('"a b"@GRÅ.example', '"a b"@xn--gr-zia.example'),
        ("grå@example.net", None),
        ("grå@grå.example", None),
        ("a@\uff45.example", None),
        ("grå", None),
    ],
)
def test_an_address_without_smtputf8_is_the_same_mailbox_or_none(path: str, form: str | None) -> None:
    assert ascii_form(path) == form
