"""The client's side of SCRAM-SHA-256, after RFC 5802 s3 and s5, written apart from the server's."""

from __future__ import annotations

import base64
import hashlib
import hmac
from dataclasses import dataclass


@dataclass
class ScramClient:
    name: str
    password: str
    nonce: str = "rOprNGfwEbeRWgbNEkqO"
    gs2_header: str = "n,,"
    server_signature: bytes = b""
    server_final: bytes = b""

    def first(self) -> bytes:
        return (self.gs2_header + self._bare()).encode()

    def final(self, challenge: bytes) -> bytes:
        attributes = dict(part.split("=", 1) for part in challenge.decode().split(","))
        assert attributes["r"].startswith(self.nonce)
        salted = hashlib.pbkdf2_hmac(
            "sha256", self.password.encode(), base64.b64decode(attributes["s"]), int(attributes["i"])
        )
        client_key = hmac.new(salted, b"Client Key", hashlib.sha256).digest()
        stored_key = hashlib.sha256(client_key).digest()
        without_proof = f"c={base64.b64encode(self.gs2_header.encode()).decode()},r={attributes['r']}"
        said = ",".join([self._bare(), challenge.decode(), without_proof]).encode()
        signature = hmac.new(stored_key, said, hashlib.sha256).digest()
        proof = bytes(a ^ b for a, b in zip(client_key, signature, strict=True))
        server_key = hmac.new(salted, b"Server Key", hashlib.sha256).digest()
        self.server_signature = hmac.new(server_key, said, hashlib.sha256).digest()
        return f"{without_proof},p={base64.b64encode(proof).decode()}".encode()

    def answer(self, challenge: bytes) -> bytes:
        """What follows each of the server's challenges; the last one is kept in `server_final`."""
        if not challenge:
            return self.first()
        if challenge.startswith(b"v="):
            self.server_final = challenge
            return b""
        return self.final(challenge)

    def is_satisfied(self, server_final: bytes) -> bool:
        return server_final == b"v=" + base64.b64encode(self.server_signature)

    def _bare(self) -> str:
        return f"n={self.name.replace('=', '=3D').replace(',', '=2C')},r={self.nonce}"
