"""SSH public keys: what may be one, and the list a user has (a column of lines as in authorized_keys, without options)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import struct
from typing import NamedTuple

from sqlalchemy import Connection

from diycloud.actions.dispatcher import Context
from diycloud.auth import proof
from diycloud.auth.actions import AddKey, ListKeys, RemoveKey
from diycloud.auth.models import Key, KeyList
from diycloud.errors import Conflict, FieldError, InvalidInput, NotFound
from diycloud.users import repository, service
from diycloud.users.models import Row

MAX_KEYS = 32
MAX_KEY, MAX_DATA = 3000, 2900
"""Characters of a line and of its base64, as the agent takes them; an RSA key of 16,384 bits has 2,800."""
LEAST_RSA_BITS = 2048
KINDS = {
    "ssh-ed25519": 2,
    "sk-ssh-ed25519@openssh.com": 3,
    "ecdsa-sha2-nistp256": 3,
    "ecdsa-sha2-nistp384": 3,
    "ecdsa-sha2-nistp521": 3,
    "sk-ecdsa-sha2-nistp256@openssh.com": 4,
    "ssh-rsa": 3,
}
"""Key types of sshd(8) with the number of fields of their encoding (RFC 4253 6.6, RFC 5656 3.1, PROTOCOL.u2f). DSA is not
taken: sshd has given it up."""


class PublicKey(NamedTuple):
    """kind: as in KINDS; data: base64; comment: the owner's words."""

    kind: str
    data: str
    comment: str

    @property
    def fingerprint(self) -> str:
        """As `ssh-keygen -l` shows it."""
        digest = hashlib.sha256(base64.b64decode(self.data)).digest()
        return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")

    @property
    def line(self) -> str:
        return " ".join(part for part in self if part)


def parse_key(text: str) -> PublicKey:
    """Return the key of a line as `~/.ssh/*.pub` has it. Raises InvalidInput, saying what is wrong with it."""
    if "PRIVATE KEY" in text:
        raise _no_key("this is the private key: keep it, and give the line of the file that ends in .pub")
    parts = text.split(None, 2)
    if len(text) > MAX_KEY or len(parts) < 2 or parts[0] not in KINDS or len(parts[1]) > MAX_DATA:
        raise _no_key(f"one line that starts with one of {', '.join(KINDS)}, without options before it")
    kind, data = parts[:2]
    try:
        fields = _fields(base64.b64decode(data, validate=True))
    except (binascii.Error, struct.error, ValueError):
        raise _no_key("the part after the type is cut off or changed; copy the whole line") from None
    if len(fields) != KINDS[kind] or fields[0] != kind.encode():
        raise _no_key(f"this is no whole key of the type {kind}")
    if kind == "ssh-ed25519" and len(fields[1]) != 32:
        raise _no_key("an ed25519 key has 32 bytes")
    if kind == "ssh-rsa" and int.from_bytes(fields[2]).bit_length() < LEAST_RSA_BITS:
        raise _no_key(f"an RSA key needs {LEAST_RSA_BITS} bits or more; better make one by ssh-keygen -t ed25519")
    comment = parts[2].strip() if len(parts) > 2 else ""
    return PublicKey(kind, data, "".join(c for c in comment if c.isprintable())[:100])


def _fields(blob: bytes) -> list[bytes]:
    """Return the strings that a key's encoding is made of (RFC 4251, 5)."""
    fields = []
    while blob:
        (length,) = struct.unpack_from(">I", blob)
        if length > len(blob) - 4:
            raise ValueError("cut off")
        fields.append(blob[4 : 4 + length])
        blob = blob[4 + length :]
    return fields


def _no_key(message: str) -> InvalidInput:
    return InvalidInput.of([FieldError("key", message)])


def read_keys(column: str) -> list[PublicKey]:
    """Return the keys of a user's column; a line that somebody wrote there and is none is left out."""
    found = []
    for line in column.splitlines():
        try:
            found.append(parse_key(line))
        except InvalidInput:
            continue
    return found[:MAX_KEYS]


def _shown(row: Row) -> KeyList:
    keys = [Key(key.fingerprint, key.kind, key.comment, key.line) for key in read_keys(row.ssh_keys)]
    return KeyList(row.username, keys)


async def list_keys(ctx: Context, action: ListKeys) -> KeyList:
    return _shown(await service.get(ctx.services, action.username))


async def add_key(ctx: Context, action: AddKey) -> KeyList:
    """Add a key. Raises ProofNeeded, Conflict if the user has it already, or too many."""
    proof.require_of_session(ctx.actor)  # it opens the account for good
    row, key = await service.get(ctx.services, action.username), parse_key(action.key)
    _keep_administrators(row)
    known = read_keys(row.ssh_keys)
    if any(other.data == key.data for other in known):
        raise Conflict(f"key: {row.username} has this key already ({key.fingerprint}).")
    if len(known) >= MAX_KEYS:
        raise Conflict(f"key: {row.username} has {MAX_KEYS} keys.", "Remove one that is not used any more.")
    ctx.changes = {"ssh_keys": [None, f"{key.kind} {key.fingerprint} {key.comment}".strip()]}
    return await _store(ctx, row, add=key)


async def remove_key(ctx: Context, action: RemoveKey) -> KeyList:
    """Remove a key by its fingerprint. Raises NotFound."""
    row = await service.get(ctx.services, action.username)
    _keep_administrators(row)
    gone = next((key for key in read_keys(row.ssh_keys) if key.fingerprint == action.fingerprint), None)
    if gone is None:
        raise NotFound(
            f"{row.username} has no key {action.fingerprint}.", f"`diycloud key list {row.username}` shows them."
        )
    ctx.changes = {"ssh_keys": [f"{gone.kind} {gone.fingerprint} {gone.comment}".strip(), None]}
    return await _store(ctx, row, remove=gone)


def _keep_administrators(row: Row) -> None:
    """Raise Conflict for a user with sudo, whose keys the agent changes on root's word only.

    Stored here, a key would wait until root takes sudo away for a while, and still be there when it is given back.
    """
    if row.sudo:
        raise Conflict(
            f"{row.username} has sudo, so their SSH keys are not changed here.",
            f"As root on the host: diycloud user sudo {row.username} --revoke first; look at the keys before granting it.",
        )


async def _store(ctx: Context, row: Row, *, add: PublicKey | None = None, remove: PublicKey | None = None) -> KeyList:
    """Change the list as it is in the transaction, so that two changes at once lose nothing; then have the host follow."""

    def store(connection: Connection) -> None:
        now = repository.by_id(connection, row.id)
        if now is None:
            raise NotFound("The user was removed meanwhile.")
        keys = [key for key in read_keys(now.ssh_keys) if key not in (add, remove)] + ([add] if add else [])
        repository.change(connection, row.id, {"ssh_keys": "\n".join(key.line for key in keys)})

    await ctx.write(store)
    changed = await service.apply(ctx, row.id)
    shown = _shown(await service.get(ctx.services, row.username))
    return KeyList(shown.username, shown.keys, changed.warnings)
