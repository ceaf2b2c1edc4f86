"""The table of idempotency keys: what is asked for twice under one key is done once (draft-ietf-httpapi-idempotency-key-header).

The key is written in the transaction that stores the wish, so no crash comes between the two, and kept for a day with the
answer, without its generated passwords. A request that changed nothing (refused, or undone by the host's refusal) leaves
no key: it may be sent again.

The table has a hash of the key, and a fingerprint of the body that is keyed with it: a body may hold a password, and
whoever reads the database must not be able to try passwords against a quick hash. So a key has to be random, like a UUID.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import Connection, bindparam, delete, insert, select, update

from diycloud.actions.dispatcher import Terms
from diycloud.db.tables import idempotency_keys as keys

KEPT_S = 86_400
ONCE = "The generated passwords were shown in the first answer only; set another where one is lost."
_SECRET = frozenset({"password"})
_IS = (keys.c.actor == bindparam("of")) & (keys.c.key == bindparam("named"))


class Answered(NamedTuple):
    """What a request was answered with. status: None if it was cut off by a crash; body: JSON."""

    fingerprint: bytes
    status: int | None
    body: bytes


class Claim(Terms):
    """One request with a key. shown: gives the status and the JSON of a result."""

    def __init__(self, actor: str, key: str, body: object, shown: Callable[[Any], tuple[int, bytes]]) -> None:
        secret = hashlib.sha256(key.encode()).digest()
        self.name = actor, hashlib.blake2b(secret, digest_size=16, person=b"key").hexdigest()
        self.fingerprint = hashlib.blake2b(
            msgspec.json.encode(body, order="sorted"), digest_size=32, key=secret
        ).digest()
        self.begun = False
        self.shown = shown

    def begin(self, connection: Connection) -> None:
        """Write the key with the wish. Raises Conflict (by the table's constraint) if another process has it."""
        actor, key = self.name
        now = int(time.time())
        connection.execute(delete(keys).where(_IS, keys.c.created_at <= now - KEPT_S), {"of": actor, "named": key})
        connection.execute(
            insert(keys).values(actor=actor, key=key, fingerprint=self.fingerprint, created_at=now, answer="")
        )
        self.begun = True

    def end(self, connection: Connection, result: object, outcome: str) -> None:
        """Write the answer without secrets, or forget the key of what was refused. After a crash it stays as it is."""
        actor, key = self.name
        if outcome == "crashed":
            return
        if outcome != "done":
            self.begun = False
            connection.execute(delete(keys).where(_IS), {"of": actor, "named": key})
            return
        status, body = self.shown(result)
        values = {"status": status, "answer": without_secrets(body).decode()}
        connection.execute(update(keys).where(_IS).values(values), {"of": actor, "named": key})


def read(connection: Connection, actor: str, key: str) -> Answered | None:
    """Return what a key was answered with, None if it is new or a day old."""
    query = select(keys.c.fingerprint, keys.c.status, keys.c.answer).where(
        _IS, keys.c.created_at > int(time.time()) - KEPT_S
    )
    row = connection.execute(query, {"of": actor, "named": key}).first()
    return Answered(row.fingerprint, row.status, row.answer.encode()) if row else None


def without_secrets(body: bytes) -> bytes:
    """Return an answer's JSON with its generated passwords null, and a warning that they were there."""
    found: Any = msgspec.json.decode(body)
    if not _blank(found):
        return body
    if isinstance(found, dict) and isinstance(found.get("warnings"), list):
        found["warnings"].append(ONCE)
    return msgspec.json.encode(found)


def _blank(node: Any) -> int:
    """Make every password below a node null; returns how many there were."""
    if isinstance(node, list):
        return sum(map(_blank, node))
    if not isinstance(node, dict):
        return 0
    had = sum(map(_blank, node.values()))
    for name in _SECRET & node.keys():
        had += node[name] is not None
        node[name] = None
    return had


def forget(connection: Connection) -> int:
    """Remove keys older than a day; returns how many."""
    return connection.execute(delete(keys).where(keys.c.created_at <= int(time.time()) - KEPT_S)).rowcount
