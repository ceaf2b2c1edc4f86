"""A passkey in software: makes what a browser and a device make (WebAuthn, level 3), right or wrong as a test asks."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from typing import Any

import cbor2
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

PRESENT, VERIFIED, BACKUP, ATTESTED = 0x01, 0x04, 0x18, 0x40
"""Flags of authenticator data (6.1)."""


def encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


class Authenticator:
    """One device with one credential. origin: of the page that asks; counter: of signatures, 0 for one that counts none."""

    def __init__(self, origin: str = "https://cloud.test", *, counter: int = 1) -> None:
        self.origin, self.counter = origin, counter
        self.id = os.urandom(32)
        self.handle = ""
        self.key = ec.generate_private_key(ec.SECP256R1())

    def register(self, options: str, **changed: Any) -> str:
        """Answer what `navigator.credentials.create` was asked, as JSON text. changed: see `_client` and `_flags`."""
        asked = json.loads(options)
        self.handle = asked["user"]["id"]
        numbers = self.key.public_key().public_numbers()
        key = cbor2.dumps({1: 2, 3: -7, -1: 1, -2: numbers.x.to_bytes(32, "big"), -3: numbers.y.to_bytes(32, "big")})
        credential = b"\0" * 16 + len(self.id).to_bytes(2, "big") + self.id + key
        data = (
            self._data(changed.get("rp_id", asked["rp"]["id"]), ATTESTED | changed.get("flags", PRESENT | VERIFIED))
            + credential
        )
        attestation = cbor2.dumps({"fmt": "none", "attStmt": {}, "authData": data})
        return self._answer(
            {
                "clientDataJSON": encoded(self._client("webauthn.create", asked["challenge"], changed)),
                "attestationObject": encoded(attestation),
                "transports": ["internal", "made-up"],
            }
        )

    def sign(self, options: str, **changed: Any) -> str:
        """Answer what `navigator.credentials.get` was asked, as JSON text.

        changed: origin, type, challenge, rp_id, flags, handle, key or counter instead of what is right.
        """
        asked = json.loads(options)
        self.counter = changed.get("counter", self.counter + 1 if self.counter else 0)
        data = self._data(changed.get("rp_id", asked["rpId"]), changed.get("flags", PRESENT | VERIFIED))
        client = self._client("webauthn.get", asked["challenge"], changed)
        signed = changed.get("key", self.key).sign(data + hashlib.sha256(client).digest(), ec.ECDSA(hashes.SHA256()))
        return self._answer(
            {
                "clientDataJSON": encoded(client),
                "authenticatorData": encoded(data),
                "signature": encoded(signed),
                "userHandle": changed.get("handle", self.handle),
            }
        )

    def _client(self, kind: str, challenge: str, changed: dict[str, Any]) -> bytes:
        told = {
            "type": changed.get("type", kind), "challenge": changed.get("challenge", challenge),
            "origin": changed.get("origin", self.origin), "crossOrigin": False,
        }  # fmt: skip
        return json.dumps(told).encode()

    def _data(self, rp_id: str, flags: int) -> bytes:
        return hashlib.sha256(rp_id.encode()).digest() + bytes([flags]) + self.counter.to_bytes(4, "big")

    def _answer(self, response: dict[str, Any]) -> str:
        whole = {"id": encoded(self.id), "rawId": encoded(self.id), "type": "public-key", "response": response}
        return json.dumps({**whole, "clientExtensionResults": {}})
