"""Passkeys: credentials of WebAuthn (level 3), as a second factor and as the whole sign-in.

The challenge is the token of what waits in the server (actions/waiting.py): single-use, for five minutes, and for one
purpose. The library is loaded with the first passkey that is used, in a thread: it takes 0.2 s.
"""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import json
from typing import Any, NamedTuple

from sqlalchemy import Connection, delete, func, insert, or_, select, update

from diycloud.config import ServerSettings
from diycloud.db.sign_in_tables import passkeys
from diycloud.db.tables_base import NOW
from diycloud.errors import DiyCloudError, InvalidInput, Unsupported

MOST = 20
"""Passkeys of one person."""
TRANSPORTS = frozenset({"usb", "nfc", "ble", "smart-card", "internal", "hybrid"})
REGISTER, SECOND, ALONE, PROVE = "register", "second", "alone", "prove"
"""What a challenge is for. ALONE: the whole sign-in; PROVE: a fresh proof of who is signed in."""


class Challenge(NamedTuple):
    """user_id: whose answer is expected; None: of whoever answers."""

    purpose: str
    user_id: int | None

    @property
    def verified(self) -> bool:
        """Whether the device must have looked who holds it: it must where nothing else is shown."""
        return self.purpose in (ALONE, PROVE)


class Party(NamedTuple):
    """The relying party: what browsers bind passkeys to. origin: the only address at which they work."""

    id: str
    name: str
    origin: str

    @property
    def possible(self) -> bool:
        """Whether browsers take it: it must be a name (WebAuthn 5.1.3: a valid domain)."""
        try:
            ipaddress.ip_address(self.id)
        except ValueError:
            return True
        return False


class Stored(NamedTuple):
    """A passkey. credential: its id; key: COSE."""

    id: int
    user_id: int
    credential: bytes
    key: bytes
    sign_count: int
    name: str
    transports: str
    backed_up: bool
    created_at: str
    last_used: str | None


class Registered(NamedTuple):
    """What a browser made. credential: its id; key: COSE."""

    credential: bytes
    key: bytes
    sign_count: int
    transports: str
    backed_up: bool


class Proof(NamedTuple):
    """A passkey that was shown. verified: the device looked who holds it (a finger, a face, a PIN)."""

    sign_count: int
    verified: bool
    backed_up: bool


class Wrong(DiyCloudError):
    """What was shown does not hold. The reason is for the audit: strangers are told nothing."""

    code = "unauthenticated"


def party(server: ServerSettings) -> Party:
    """Return the relying party of the settings."""
    host = server.name.lower()
    return Party(host, f"DIY Cloud on {host}", server.address.lower().rstrip("/"))


def check_possible(here: Party) -> None:
    """Raise Unsupported where browsers would refuse."""
    if not here.possible:
        raise Unsupported(
            f"Passkeys need a portal with a name, and this one is {here.id}.",
            "An administrator sets server.host_name; an app on the phone works without.",
        )


def challenge_of(answer: str) -> str:
    """Return the challenge that a browser's answer is about, as the token that it is. Raises Wrong."""
    try:
        data = json.loads(answer)["response"]["clientDataJSON"]
        found = json.loads(_bytes(data))["challenge"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Wrong(f"no answer of a browser: {type(error).__name__}") from None
    if not isinstance(found, str):
        raise Wrong("a challenge that is no text")
    return found


def _bytes(text: object) -> bytes:
    """Return what base64url without padding stands for. Raises ValueError, TypeError for what is none."""
    if not isinstance(text, str):
        raise TypeError("no text")
    return base64.urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))


async def _load() -> Any:
    return await asyncio.to_thread(__import__, "webauthn")


async def registration_options(
    here: Party, token: str, username: str, display: str, handle: str, known: list[Stored]
) -> str:
    """Return what `navigator.credentials.create` takes, as JSON. token: the challenge; handle: of the user, tells nothing."""
    library = await _load()
    wishes = library.helpers.structs.AuthenticatorSelectionCriteria(
        resident_key=library.helpers.structs.ResidentKeyRequirement.PREFERRED,
        user_verification=library.helpers.structs.UserVerificationRequirement.PREFERRED,
    )
    options = library.generate_registration_options(
        rp_id=here.id, rp_name=here.name, user_name=username, user_display_name=display or username,
        user_id=handle.encode(), challenge=_bytes(token), timeout=300_000, authenticator_selection=wishes,
        exclude_credentials=[_descriptor(library, stored) for stored in known],
    )  # fmt: skip
    return str(library.options_to_json(options))


async def request_options(here: Party, token: str, known: list[Stored], *, verified: bool) -> str:
    """Return what `navigator.credentials.get` takes, as JSON. known: the passkeys to ask for, none: any of this portal's.

    verified: the device is to look who holds it.
    """
    library = await _load()
    needs = library.helpers.structs.UserVerificationRequirement
    options = library.generate_authentication_options(
        rp_id=here.id, challenge=_bytes(token), timeout=300_000,
        allow_credentials=[_descriptor(library, stored) for stored in known],
        user_verification=needs.REQUIRED if verified else needs.DISCOURAGED,
    )  # fmt: skip
    return str(library.options_to_json(options))


def _descriptor(library: Any, stored: Stored) -> Any:
    structs = library.helpers.structs
    transports = [structs.AuthenticatorTransport(name) for name in stored.transports.split() if name in TRANSPORTS]
    return structs.PublicKeyCredentialDescriptor(id=stored.credential, transports=transports or None)


async def verify_registration(here: Party, token: str, answer: str) -> Registered:
    """Return the passkey that a browser made. Raises Wrong."""
    library = await _load()
    try:
        found = library.verify_registration_response(
            credential=answer, expected_challenge=_bytes(token), expected_rp_id=here.id, expected_origin=here.origin
        )
        told = json.loads(answer)["response"].get("transports") or []
    except Exception as error:  # the answer is a stranger's: whatever the library trips over is wrong with it
        raise Wrong(f"{type(error).__name__}: {error}"[:300]) from None
    transports = " ".join(name for name in told if name in TRANSPORTS) if isinstance(told, list) else ""
    return Registered(
        found.credential_id, found.credential_public_key, found.sign_count, transports, found.credential_backed_up
    )


async def verify(here: Party, token: str, answer: str, stored: Stored, *, verified: bool) -> Proof:
    """Return what a browser's answer proves. verified: the device must have looked who holds it. Raises Wrong.

    The counter is not looked at here: one that runs backwards counts only with a signature that holds (`note_use`).
    """
    library = await _load()
    try:
        found = library.verify_authentication_response(
            credential=answer, expected_challenge=_bytes(token), expected_rp_id=here.id, expected_origin=here.origin,
            credential_public_key=stored.key, credential_current_sign_count=0, require_user_verification=verified,
        )  # fmt: skip
    except Exception as error:
        raise Wrong(f"{type(error).__name__}: {error}"[:300]) from None
    return Proof(found.new_sign_count, found.user_verified, found.credential_backed_up)


def credential_of(answer: str) -> bytes:
    """Return the id of the credential that an answer names. Raises Wrong."""
    try:
        return _bytes(json.loads(answer)["id"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise Wrong("an answer without a credential") from None


def check_handle(answer: str, handle: str) -> None:
    """Raise Wrong if an answer names another user's handle than this (WebAuthn 7.2, 6); not every device names one."""
    try:
        told = json.loads(answer)["response"].get("userHandle")
        named = _bytes(told).decode("ascii") if told else handle
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise Wrong("a user handle that is none") from None
    if named != handle:
        raise Wrong("the handle of another user")


_COLUMNS = (
    passkeys.c.id, passkeys.c.user_id, passkeys.c.credential_id, passkeys.c.public_key, passkeys.c.sign_count,
    passkeys.c.name, passkeys.c.transports, passkeys.c.backed_up, passkeys.c.created_at, passkeys.c.last_used,
)  # fmt: skip


def _stored(row: Any) -> Stored:
    return Stored(row[0], row[1], bytes(row[2]), bytes(row[3]), row[4], row[5], row[6], bool(row[7]), row[8], row[9])


def of_user(connection: Connection, user_id: int) -> list[Stored]:
    """Return a user's passkeys, oldest first."""
    query = select(*_COLUMNS).where(passkeys.c.user_id == user_id).order_by(passkeys.c.id)
    return [_stored(row) for row in connection.execute(query)]


def by_credential(connection: Connection, credential: bytes) -> Stored | None:
    """Return the passkey of a credential's id."""
    row = connection.execute(select(*_COLUMNS).where(passkeys.c.credential_id == credential)).first()
    return _stored(row) if row else None


def add(connection: Connection, user_id: int, made: Registered, name: str) -> None:
    """Keep a passkey. Raises InvalidInput for one too many; the database's own error for one that is there."""
    query = select(func.count()).select_from(passkeys).where(passkeys.c.user_id == user_id)
    if connection.execute(query).scalar_one() >= MOST:
        raise InvalidInput(f"There are {MOST} passkeys already.", "Remove one that is not used any more.")
    values = {
        "user_id": user_id, "credential_id": made.credential, "public_key": made.key, "sign_count": made.sign_count,
        "name": name, "transports": made.transports, "backed_up": int(made.backed_up),
    }  # fmt: skip
    connection.execute(insert(passkeys).values(values))


def note_use(connection: Connection, stored: Stored, proof: Proof) -> bool:
    """Note that a passkey was used. Returns False if its counter did not grow: a copy of it may be about (WebAuthn 6.1.1).

    A device that counts nothing says 0 each time.
    """
    grown = passkeys.c.sign_count < proof.sign_count
    counts_nothing = (passkeys.c.sign_count == 0) & (proof.sign_count == 0)
    this = update(passkeys).where(passkeys.c.id == stored.id, or_(grown, counts_nothing))
    values = {"sign_count": proof.sign_count, "backed_up": int(proof.backed_up), "last_used": NOW}
    return connection.execute(this.values(values)).rowcount == 1


def rename(connection: Connection, user_id: int, passkey_id: int, name: str) -> bool:
    """Give a user's passkey another name; returns whether there is one."""
    this = (passkeys.c.id == passkey_id) & (passkeys.c.user_id == user_id)
    return connection.execute(update(passkeys).where(this).values(name=name)).rowcount == 1


def remove(connection: Connection, user_id: int, passkey_id: int | None = None) -> int:
    """Forget one of a user's passkeys, or all; returns how many."""
    this = passkeys.c.user_id == user_id
    if passkey_id is not None:
        this &= passkeys.c.id == passkey_id
    return connection.execute(delete(passkeys).where(this)).rowcount
