"""One policy file of MTA-STS, over HTTPS: https://mta-sts.DOMAIN/.well-known/mta-sts.txt (RFC 8461 s3.3).

Contract
    The certificate must be mta-sts.DOMAIN's. No redirect is followed; only 200 with text/plain counts.
    Bounded: RESPONSE_OCTETS, FETCH_SECONDS for all of it, ADDRESSES tried. Whatever goes wrong is FetchFailed.
    A response that does not say where it ends is none: whoever cuts the connection could cut the policy.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import io
import ssl
from typing import Protocol

from egressguard.mail.outcome import one_line
from egressguard.relay.route import AddressAnswer
from egressguard.relay.sts_policy import POLICY_OCTETS
from egressguard.smtp.certificates import Asked, client_context

FETCH_SECONDS = 20.0
RESPONSE_OCTETS = POLICY_OCTETS + 64 * 1024  # header section, chunk sizes
ADDRESSES = 4
HTTPS_PORT = 443


class AddressLookup(Protocol):
    async def resolve_addresses(self, host: str) -> AddressAnswer: ...


class FetchFailed(Exception):
    """`trouble` in the words of RFC 8460 s4.3.2.2."""

    def __init__(self, words: str, trouble: str = "sts-policy-fetch-error") -> None:
        super().__init__(one_line(words))
        self.trouble = trouble


async def fetch_policy(
    domain: str, resolver: AddressLookup, ca_file: str | None, *, port: int = HTTPS_PORT, seconds: float = FETCH_SECONDS
) -> bytes:
    """The content of the policy file. Raises FetchFailed."""
    host = f"mta-sts.{domain}"
    try:
        context = client_context(Asked(verify=True, check_name=True, ca_file=ca_file))
        async with asyncio.timeout(seconds):
            answer = await resolver.resolve_addresses(host)
            octets = await _from_any(host, answer.addresses[:ADDRESSES], port, context)
    except TimeoutError:
        raise FetchFailed(f"{host} does not answer in time") from None
    except ssl.SSLError as wrong:
        raise FetchFailed(f"TLS with {host} failed: {wrong}", "sts-webpki-invalid") from wrong
    except OSError as wrong:
        raise FetchFailed(f"{host}: {wrong}") from wrong
    return _content(octets)


async def _from_any(host: str, addresses: tuple[str, ...], port: int, context: ssl.SSLContext) -> bytes:
    """Raises OSError of the last address."""
    last: OSError = OSError("it has no address")
    for address in addresses:
        try:
            return await _get(host, address, port, context)
        except OSError as wrong:
            last = wrong
    raise last


async def _get(host: str, address: str, port: int, context: ssl.SSLContext) -> bytes:
    """All that the server says until it closes, or RESPONSE_OCTETS and one."""
    reader, writer = await asyncio.open_connection(address, port, ssl=context, server_hostname=host)
    try:
        lines = ("GET /.well-known/mta-sts.txt HTTP/1.1", f"Host: {host}", "Accept: text/plain", "Connection: close")
        writer.write("".join(f"{line}\r\n" for line in (*lines, "")).encode("ascii"))
        octets = bytearray()
        while len(octets) <= RESPONSE_OCTETS and (piece := await reader.read(RESPONSE_OCTETS)):
            octets += piece
        return bytes(octets)
    finally:
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


class _Heard:
    """What http.client takes for a socket."""

    def __init__(self, octets: bytes) -> None:
        self._octets = octets

    def makefile(self, *_: object) -> io.BytesIO:
        return io.BytesIO(self._octets)


def _content(octets: bytes) -> bytes:
    """Raises FetchFailed."""
    if len(octets) > RESPONSE_OCTETS:
        raise FetchFailed("the policy is too long", "sts-policy-invalid")
    response = http.client.HTTPResponse(_Heard(octets), method="GET")  # type: ignore[arg-type]
    try:
        response.begin()
        if response.status != http.HTTPStatus.OK:
            raise FetchFailed(f"the server says {response.status}, not 200")
        if response.headers.get_content_type() != "text/plain":
            raise FetchFailed("the policy is no text/plain", "sts-policy-invalid")
        if response.length is None and not response.chunked:
            raise FetchFailed("the response does not say where it ends")
        return response.read()
    except (http.client.HTTPException, ValueError, OSError) as wrong:
        raise FetchFailed(f"that is no HTTP response: {type(wrong).__name__} {wrong}") from wrong
