"""The policy file over HTTPS: a web server that is right, wrong, slow, endless, or somebody else's."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from egressguard.relay.route import AddressAnswer, Answer
from egressguard.relay.sts_fetch import RESPONSE_OCTETS, FetchFailed, fetch_policy
from tests.tls.certificates import Certificate, authority, issue

DOMAIN = "example.net"
BODY = b"version: STSv1\nmode: none\nmax_age: 1\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"
WHOLE = OK + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
HANG = b"hang"


class Dns:
    def __init__(self, *addresses: str) -> None:
        self.addresses = addresses

    async def resolve_addresses(self, host: str) -> AddressAnswer:
        assert host == f"mta-sts.{DOMAIN}"
        return AddressAnswer(Answer.FOUND if self.addresses else Answer.NOTHING, self.addresses)


def fetched(
    tmp_path: Path,
    response: bytes,
    certificate: Certificate | None = None,
    *,
    seconds: float = 10,
    dns: Dns | None = None,
) -> tuple[str, bytes]:
    """(the trouble, or "", and the content), and the request as the server got it."""
    heard: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(response)
        if response == HANG:
            await reader.read()
        writer.close()

    async def walk() -> tuple[str, bytes]:
        ca = tmp_path / "ca.pem"
        ca.write_bytes(authority().pem)
        context = (certificate or issue([f"mta-sts.{DOMAIN}"], authority())).server_context()
        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
        port = server.sockets[0].getsockname()[1]
        try:
            content = await fetch_policy(DOMAIN, dns or Dns("127.0.0.1"), str(ca), port=port, seconds=seconds)
        except FetchFailed as failed:
            return failed.trouble, b""
        finally:
            server.close()
        assert heard == [
            b"GET /.well-known/mta-sts.txt HTTP/1.1\r\nHost: mta-sts.example.net\r\nAccept: text/plain\r\n"
            b"Connection: close\r\n\r\n"
        ]
        return "", content

    return asyncio.run(walk())


@pytest.mark.parametrize(
    "response",
    [
        WHOLE,
        WHOLE.replace(b"text/plain", b'text/plain; charset="utf-8"'),
        OK + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % len(BODY) + BODY + b"\r\n0\r\n\r\n",
    ],
)
def test_a_policy_is_fetched(tmp_path: Path, response: bytes) -> None:
    assert fetched(tmp_path, response) == ("", BODY)


@pytest.mark.parametrize(
    ("response", "trouble"),
    [
        (WHOLE.replace(b"200 OK", b"404 Not Found"), "sts-policy-fetch-error"),
        (WHOLE.replace(b"200 OK", b"301 Moved\r\nLocation: https://elsewhere.example/"), "sts-policy-fetch-error"),
        (WHOLE.replace(b"200 OK", b"206 Partial Content"), "sts-policy-fetch-error"),
        (WHOLE.replace(b"text/plain", b"text/html"), "sts-policy-invalid"),
        (WHOLE[:-5], "sts-policy-fetch-error"),
        (OK + b"\r\n" + BODY, "sts-policy-fetch-error"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % len(BODY) + BODY[:9], "sts-policy-fetch-error"),
        (b"", "sts-policy-fetch-error"),
        (b"220 mx.example.net ESMTP\r\n", "sts-policy-fetch-error"),
        (OK + b"X: y\r\n" * 200 + b"\r\n", "sts-policy-fetch-error"),
        (OK + b"X: " + b"y" * RESPONSE_OCTETS, "sts-policy-invalid"),
        (OK + b"Content-Length: -5\r\n\r\n" + BODY, "sts-policy-fetch-error"),
        (OK + b"Content-Length: many\r\n\r\n" + BODY, "sts-policy-fetch-error"),
    ],
)
def test_what_is_no_answer(tmp_path: Path, response: bytes, trouble: str) -> None:
    assert fetched(tmp_path, response) == (trouble, b"")


def test_a_server_that_never_ends_is_left(tmp_path: Path) -> None:
    assert fetched(tmp_path, HANG, seconds=0.3) == ("sts-policy-fetch-error", b"")


@pytest.mark.parametrize(
    "certificate",
    [
        issue(["example.net"], authority()),
        issue(["mta-sts.example.net"]),
        issue(["mta-sts.example.net"], authority(), days=(-30, -1)),
    ],
    ids=["another name", "self-signed", "expired"],
)
def test_the_certificate_must_be_the_policy_hosts(tmp_path: Path, certificate: Certificate) -> None:
    assert fetched(tmp_path, WHOLE, certificate) == ("sts-webpki-invalid", b"")


@pytest.mark.parametrize(("addresses", "good"), [((), False), (("127.0.0.9", "127.0.0.1"), True)])
def test_addresses_are_tried_in_turn(tmp_path: Path, addresses: tuple[str, ...], good: bool) -> None:
    trouble, _ = fetched(tmp_path, WHOLE, dns=Dns(*addresses))
    assert trouble == ("" if good else "sts-policy-fetch-error")


def test_a_ca_file_that_cannot_be_read_trusts_nobody() -> None:
    with pytest.raises(FetchFailed):
        asyncio.run(fetch_policy(DOMAIN, Dns("127.0.0.1"), "/nonexistent.pem", port=1))
