"""The table of idempotency keys: what is asked for twice under one key is done once (draft-ietf-httpapi-idempotency-key-header).

The key is written in the transaction that stores the wish, so no crash comes between the two, and kept for a day with the
answer, without its generated passwords. A request that changed nothing (refused, or undone by the host's refusal) leaves
no key: it may be sent again.

An answer is repeated only to who has the rights that it was given under, and still has them: account, role, domain and
what an API token lends, of who asked and of the user they acted for. Of these too the table has no more than a keyed sum.

The table has a hash of the key, and a fingerprint of the body that is keyed with it: a body may hold a password, and
whoever reads the database must not be able to try passwords against a quick hash. So a key has to be random, like a UUID.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Collection, Iterator
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import Connection, bindparam, delete, insert, select, update

from diycloud.actions.actor import Actor
from diycloud.actions.dispatcher import Terms
from diycloud.db.tables import idempotency_keys as keys
from diycloud.errors import PermissionDenied

KEPT_S = 86_400
ONCE = "Generated passwords and secrets were shown in the first answer only; set another where one is lost."
_SECRETS = ("password", "secret")
"""Names of fields that are shown once."""
_SUM = 32
"""Bytes of a sum; the column has two of them, of the request and of the rights."""
_IS = (keys.c.actor == bindparam("of")) & (keys.c.key == bindparam("named"))


class Answered(NamedTuple):
    """What a request was answered with. status: None if it was cut off by a crash; body: JSON.

    rights: a sum of whose it was; empty, which is nobody's, where an older version has written it.
    """

    fingerprint: bytes
    rights: bytes
    status: int | None
    body: bytes


class Claim(Terms):
    """One request with a key. shown: gives the status and the JSON of a result."""

    def __init__(self, actor: str, key: str, body: object, shown: Callable[[Any], tuple[int, bytes]]) -> None:
        secret = hashlib.sha256(key.encode()).digest()
        self.name = actor, hashlib.blake2b(secret, digest_size=16, person=b"key").hexdigest()
        self._secret = secret
        self.fingerprint = self._sum(body)
        self.rights = b""
        self.begun = False
        self.shown = shown

    def _sum(self, value: object) -> bytes:
        return hashlib.blake2b(msgspec.json.encode(value, order="sorted"), digest_size=_SUM, key=self._secret).digest()

    def _rights(self, actor: Actor) -> bytes:
        return self._sum([_reach(who) for who in (actor, actor.real) if who is not None])

    def check_rights(self, actor: Actor, answered: Answered) -> None:
        """Raise PermissionDenied for who had other rights, or was another of the name, when the answer was given."""
        if self._rights(actor) != answered.rights:
            raise PermissionDenied(
                "Your rights have changed since this was done, so its answer is not repeated.",
                "See what is there, then send what is still to be done with a new key.",
            )

    def begin(self, connection: Connection, actor: Actor) -> None:
        """Write the key with the wish. Raises Conflict (by the table's constraint) if another process has it."""
        name, key = self.name
        now = int(time.time())
        self.rights = self._rights(actor)
        connection.execute(delete(keys).where(_IS, keys.c.created_at <= now - KEPT_S), {"of": name, "named": key})
        sums = self.fingerprint + self.rights
        connection.execute(insert(keys).values(actor=name, key=key, fingerprint=sums, created_at=now, answer=""))
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


def _reach(actor: Actor) -> tuple[object, ...]:
    """Return what decides how far an actor reaches. An API token that lends less is not the session that it comes from."""
    scopes = None if actor.scopes is None else sorted(actor.scopes)
    return actor.user_id, actor.role, actor.domain, scopes


def read(connection: Connection, actor: str, key: str) -> Answered | None:
    """Return what a key was answered with, None if it is new or a day old."""
    query = select(keys.c.fingerprint, keys.c.status, keys.c.answer).where(
        _IS, keys.c.created_at > int(time.time()) - KEPT_S
    )
    row = connection.execute(query, {"of": actor, "named": key}).first()
    if row is None:
        return None
    return Answered(row.fingerprint[:_SUM], row.fingerprint[_SUM:], row.status, row.answer.encode())


def names_with_secrets(body: bytes) -> set[str]:
    """Return whose generated passwords or secrets an answer's JSON holds."""
    return {_whose(node) for node in _with_secrets(msgspec.json.decode(body))}


def without_secrets(body: bytes, of: Collection[str] | None = None) -> bytes:
    """Return an answer's JSON with its generated passwords null, and a warning that they were there. of: whose, None for all."""
    found: Any = msgspec.json.decode(body)
    had = [node for node in _with_secrets(found) if of is None or _whose(node) in of]
    if not had:
        return body
    for node in had:
        node.update(dict.fromkeys(node.keys() & set(_SECRETS)))
    if isinstance(found, dict) and isinstance(found.get("warnings"), list):
        found["warnings"].append(ONCE)
    return msgspec.json.encode(found)


def _with_secrets(node: Any) -> Iterator[dict[str, Any]]:
    """Yield every object below a node that holds a password or secret."""
    if isinstance(node, dict):
        if any(node.get(name) is not None for name in _SECRETS):
            yield node
        node = list(node.values())
    if isinstance(node, list):
        for part in node:
            yield from _with_secrets(part)


def _whose(node: dict[str, Any]) -> str:
    """Return the name beside a password: a row's own, or that of the user it is shown with."""
    return str(node.get("username") or node.get("user", {}).get("username"))


def forget(connection: Connection) -> int:
    """Remove keys older than a day; returns how many."""
    return connection.execute(delete(keys).where(keys.c.created_at <= int(time.time()) - KEPT_S)).rowcount
