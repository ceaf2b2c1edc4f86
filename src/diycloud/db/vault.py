"""Sealing what a stolen database must not tell: the key is in a file beside it, which no dump and no SELECT holds.

XChaCha20-Poly1305 of libsodium. What a value is for is sealed in too, so that one cannot be put in another's place.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from nacl.exceptions import CryptoError
from nacl.secret import Aead

from diycloud.errors import HostError

KEY_SIZE = Aead.KEY_SIZE


class Vault:
    """key: 32 bytes."""

    def __init__(self, key: bytes) -> None:
        self._box = Aead(key)

    @classmethod
    def at(cls, path: Path) -> Vault:
        """Return the vault whose key is in a file (0600), made if there is none. Raises HostError for what is no key."""
        try:
            key = path.read_bytes()
        except FileNotFoundError:
            return cls(_make_key(path))
        if len(key) != KEY_SIZE:
            raise HostError(
                f"{path} holds no key of {KEY_SIZE} bytes.", "Take it from a backup: it opens what is sealed."
            )
        return cls(key)

    @classmethod
    def of_this_process(cls) -> Vault:
        """Return a vault whose key nobody keeps: for what runs without the server's state."""
        return cls(secrets.token_bytes(KEY_SIZE))

    def seal(self, plain: bytes, *, purpose: str) -> bytes:
        """Return what only this vault opens, for the same purpose (table, column and row)."""
        return bytes(self._box.encrypt(plain, purpose.encode()))

    def open(self, sealed: bytes, *, purpose: str) -> bytes:
        """Return what was sealed. Raises HostError if it was sealed by another key, or for another purpose."""
        try:
            return self._box.decrypt(sealed, purpose.encode())
        except (CryptoError, ValueError, TypeError) as error:
            raise HostError(
                "A secret in the database does not open with this server's key.",
                "Put secret.key beside the database back from the backup that the database came from.",
            ) from error


def _make_key(path: Path) -> bytes:
    """Write a new key whole or not at all; another process's, made meanwhile, counts."""
    key, fresh = secrets.token_bytes(KEY_SIZE), path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb") as file:
        file.write(key)
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(fresh, path)
    except FileExistsError:
        key = path.read_bytes()
    finally:
        fresh.unlink()
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return key
