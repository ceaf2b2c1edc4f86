"""The keys of ID tokens: sealed, one that signs, and nobody else's signature believed."""

from __future__ import annotations

import asyncio

import pytest
from joserfc import jwk, jwt

from diycloud.auth.oidc.keys import ALGORITHM, Keys
from diycloud.db.engine import Database
from diycloud.db.vault import Vault
from diycloud.errors import HostError

ISSUER = "https://cloud.test"
CLAIMS = {"iss": ISSUER, "sub": "x", "aud": "app", "exp": 1}


def test_many_at_once_make_one_key(database: Database) -> None:
    keys = Keys(database, Vault(b"k" * 32), 90)

    async def sign_all() -> list[str]:
        return await asyncio.gather(*(keys.sign(CLAIMS) for _ in range(5)))

    tokens = asyncio.run(sign_all())
    (public,) = asyncio.run(keys.public())
    assert (public["alg"], public["use"], public["kty"]) == (ALGORITHM, "sig", "RSA") and not {"d", "p", "q"} & set(
        public
    )
    for token in tokens:
        found = jwt.decode(token, jwk.RSAKey.import_key(public), algorithms=[ALGORITHM])
        assert found.claims == CLAIMS and found.header["kid"] == public["kid"]


def test_a_database_without_its_vault_signs_nothing(database: Database) -> None:
    asyncio.run(Keys(database, Vault(b"k" * 32), 90).sign(CLAIMS))
    ((sealed,),) = asyncio.run(database.read(lambda c: c.exec_driver_sql("SELECT sealed FROM oidc_keys").all()))
    assert b"PRIVATE" not in sealed
    with pytest.raises(HostError, match="does not open"):
        asyncio.run(Keys(database, Vault(b"o" * 32), 90).sign(CLAIMS))


def test_sealed_keys_cannot_be_put_in_anothers_place(database: Database) -> None:
    keys = Keys(database, Vault(b"k" * 32), 90)
    asyncio.run(keys.sign(CLAIMS))
    asyncio.run(database.write(lambda c: c.exec_driver_sql("UPDATE oidc_keys SET kid = 'another'")))
    with pytest.raises(HostError):
        asyncio.run(Keys(database, Vault(b"k" * 32), 90).sign(CLAIMS))


def test_rotating_keeps_the_old_one_for_checking(database: Database) -> None:
    keys = Keys(database, Vault(b"k" * 32), 90)
    old = asyncio.run(keys.sign(CLAIMS))
    first, second = asyncio.run(keys.rotate())
    assert [key["kid"] for key in asyncio.run(keys.public())] == [first, second]
    new = asyncio.run(keys.sign(CLAIMS))
    for token in (old, new):
        assert asyncio.run(keys.read(token, ISSUER)) == CLAIMS, "expired ones too"
    assert asyncio.run(keys.read(new, "https://evil.test")) is None
    for broken in (
        "",
        "x",
        "a.b",
        "a.b.c",
        "a.b.c.d.e",
        new[:-4] + "AAAA",
        new.rpartition(".")[0] + ".",
        "é.é.é",
        new + "é",
    ):
        assert asyncio.run(keys.read(broken, ISSUER)) is None, broken
