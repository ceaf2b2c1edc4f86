"""Codes of an app, recovery codes and what waits in memory: skew, replay, races, bounds."""

from __future__ import annotations

import asyncio
import re

import pytest
from sqlalchemy import Connection, text

from diycloud.actions.waiting import Waiting
from diycloud.auth import forced, notices, recovery, totp
from diycloud.auth.factors import State, state
from diycloud.auth.throttle import Throttle
from diycloud.config import ServerSettings
from diycloud.db.engine import Database
from diycloud.db.vault import Vault
from diycloud.errors import HostError, TooManyRequests
from diycloud.users import repository
from diycloud.users.models import Allocation

SECRET = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"
"""The secret of RFC 6238's appendix B, in base32."""
VAULT = Vault(b"k" * 32)


def add_users(connection: Connection) -> None:
    for name in ("ada", "bob"):
        repository.add(connection, {"username": name, "password_hash": "x", "status": "active"}, Allocation())


@pytest.fixture
def connection(connection: Connection) -> Connection:
    add_users(connection)
    return connection


# -- codes of an app


@pytest.mark.parametrize(
    ("at", "code"),
    [(59, "287082"), (1111111109, "081804"), (1111111111, "050471"), (1234567890, "005924"), (2000000000, "279037"),
     (20000000000, "353130")],
)  # fmt: skip
def test_the_codes_are_those_of_the_rfc(at: int, code: str) -> None:
    """RFC 6238, appendix B, SHA-1; its codes have eight digits, of which apps show the last six."""
    assert totp.code_at(SECRET, at // 30) == code
    assert totp.matching_step(SECRET, code, at=at) == at // 30


@pytest.mark.parametrize(("off_s", "holds"), [(-60, False), (-30, True), (0, True), (30, True), (60, False)])
def test_a_clock_may_be_one_step_off(off_s: int, holds: bool) -> None:
    now = 1_700_000_010.0
    code = totp.code_at(SECRET, int(now + off_s) // 30)
    assert (totp.matching_step(SECRET, code, at=now) is not None) is holds


@pytest.mark.parametrize("code", ["", "28708", "2870820", "２８７０８２", "28708x", "ünïcödé"])
def test_what_is_no_code_matches_nothing(code: str) -> None:
    assert totp.matching_step(SECRET, code, at=59) is None


def test_secrets_are_new_and_long_enough() -> None:
    made = {totp.generate_secret() for _ in range(50)}
    assert len(made) == 50 and all(re.fullmatch(r"[A-Z2-7]{32}", secret) for secret in made)


def test_the_uri_and_its_picture() -> None:
    uri = totp.uri(SECRET, "ada", "cloud.example.org")
    assert uri.startswith("otpauth://totp/cloud.example.org:ada?") and f"secret={SECRET}" in uri
    picture = totp.picture(uri)
    assert picture.startswith("data:image/svg+xml") and "style" not in picture and "script" not in picture


def secret_of(connection: Connection, user_id: int) -> str:
    stored = totp.find(connection, user_id)
    assert stored is not None
    return totp.open_secret(VAULT, stored)


def test_a_secret_is_sealed_and_only_its_users(connection: Connection) -> None:
    totp.store(connection, VAULT, 1, SECRET, step=5)
    (sealed,) = connection.execute(text("SELECT secret FROM totps")).one()
    assert SECRET.encode() not in bytes(sealed)
    assert secret_of(connection, 1) == SECRET and totp.find(connection, 2) is None
    connection.execute(text("UPDATE totps SET user_id = 2"))
    with pytest.raises(HostError):
        secret_of(connection, 2)


def test_a_secret_that_was_tampered_with_opens_nothing(connection: Connection) -> None:
    totp.store(connection, VAULT, 1, SECRET, step=5)
    (sealed,) = connection.execute(text("SELECT secret FROM totps")).one()
    changed = bytes([bytes(sealed)[0] ^ 1]) + bytes(sealed)[1:]
    for value in (changed, b"", SECRET.encode()):
        connection.execute(text("UPDATE totps SET secret = :value"), {"value": value})
        with pytest.raises(HostError):
            secret_of(connection, 1)
    with pytest.raises(HostError):
        totp.open_secret(Vault(b"o" * 32), totp.Stored(1, bytes(sealed), 0, ""))


def test_a_step_is_spent_once_and_older_ones_with_it(connection: Connection) -> None:
    totp.store(connection, VAULT, 1, SECRET, step=100)
    assert not totp.spend(connection, 1, 100), "the code that activated it was used"
    assert totp.spend(connection, 1, 102)
    assert not totp.spend(connection, 1, 102) and not totp.spend(connection, 1, 101)
    assert totp.spend(connection, 1, 103)
    assert not totp.spend(connection, 2, 103), "who has no app has no code"


def test_a_spent_step_is_not_found_again() -> None:
    now = 1_700_000_010.0
    code = totp.code_at(SECRET, int(now) // 30)
    assert totp.matching_step(SECRET, code, at=now, after=int(now) // 30) is None


def test_of_many_uses_at_once_one_passes(database: Database) -> None:
    async def race() -> list[bool]:
        await database.write(add_users)
        await database.write(totp.store, VAULT, 1, SECRET, step=1)
        return await asyncio.gather(*(database.write(totp.spend, 1, 7) for _ in range(20)))

    assert asyncio.run(race()).count(True) == 1


def test_every_change_of_an_app_is_a_new_wish_for_the_host(connection: Connection) -> None:
    def generation() -> int:
        return int(connection.execute(text("SELECT generation FROM users WHERE id = 1")).scalar_one())

    steps = [generation()]
    totp.store(connection, VAULT, 1, SECRET, step=1)
    steps.append(generation())
    totp.spend(connection, 1, 9)
    assert generation() == steps[-1], "a used code is no wish"
    totp.store(connection, VAULT, 1, totp.generate_secret(), step=1)
    steps.append(generation())
    totp.remove(connection, 1)
    steps.append(generation())
    assert steps == sorted(set(steps))


# -- recovery codes


def test_recovery_codes_hold_once_each(connection: Connection) -> None:
    codes = recovery.renew(connection, 1)
    assert len(set(codes)) == recovery.COUNT == recovery.left(connection, 1)
    assert all(re.fullmatch(r"([a-km-np-z2-9]{6}-){3}[a-km-np-z2-9]{6}", code) for code in codes)
    assert recovery.spend(connection, 1, codes[3]) and not recovery.spend(connection, 1, codes[3])
    assert recovery.spend(connection, 1, f" {codes[4].upper().replace('-', ' ')} "), "as people type it"
    assert recovery.left(connection, 1) == recovery.COUNT - 2
    assert not recovery.spend(connection, 2, codes[0]), "another user's"
    for wrong in ("", "-", codes[0][:-1], codes[0] + "a"):
        assert not recovery.spend(connection, 1, wrong)


def test_new_recovery_codes_end_the_old_ones(connection: Connection) -> None:
    old = recovery.renew(connection, 1)
    new = recovery.renew(connection, 1)
    assert not set(old) & set(new)
    assert not recovery.spend(connection, 1, old[0]) and recovery.spend(connection, 1, new[0])


def test_the_database_has_no_recovery_code(connection: Connection) -> None:
    codes = recovery.renew(connection, 1)
    told = str(connection.execute(text("SELECT * FROM recovery_codes")).all())
    assert not any(code in told or recovery.normalised(code) in told for code in codes)


def test_a_recovery_code_used_twice_at_once_passes_once(database: Database) -> None:
    async def race() -> list[bool]:
        await database.write(add_users)
        code = (await database.write(recovery.renew, 1))[0]
        return await asyncio.gather(*(database.write(recovery.spend, 1, code) for _ in range(20)))

    assert asyncio.run(race()).count(True) == 1


def test_recovery_codes_alone_are_no_second_factor(connection: Connection) -> None:
    recovery.renew(connection, 1)
    assert not state(connection, 1).any
    totp.store(connection, VAULT, 1, SECRET, step=1)
    assert state(connection, 1).ways == ("totp", "recovery")
    assert state(connection, 99) == State(False, False, False, False)


# -- who must have one


def test_the_policy_or_the_role_asks_for_one(connection: Connection) -> None:
    usual, strict = ServerSettings(), ServerSettings(second_factor_roles=("admin",))
    assert not forced.must_enrol(usual, "admin", asked=0, has_one=0)
    assert forced.must_enrol(strict, "admin", asked=0, has_one=0)
    assert not forced.must_enrol(strict, "user", asked=0, has_one=0)
    assert forced.must_enrol(usual, "user", asked=1, has_one=0)
    assert not forced.must_enrol(strict, "admin", asked=1, has_one=1)
    connection.execute(text("UPDATE policies SET second_factor = 1 WHERE name = 'default'"))
    assert state(connection, 1).asked


# -- what waits in memory


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_token_is_taken_once_and_not_too_late() -> None:
    clock = Clock()
    waiting: Waiting[str] = Waiting(seconds=300, clock=clock)
    first, second = waiting.put("ada", "a"), waiting.put("bob", "b")
    assert len(first) >= 43 and first != second
    assert waiting.get(first) == "a" and waiting.take(first) == "a"
    assert waiting.take(first) is None and waiting.get(first) is None
    clock.now += 300
    assert waiting.get(second) is None and waiting.take(second) is None
    assert waiting.get("made up") is None


def test_nobody_fills_the_memory_or_pushes_others_out() -> None:
    waiting: Waiting[int] = Waiting(seconds=300, most=100, each=4)
    mine = waiting.put("bob", -1)
    tokens = [waiting.put("ada", number) for number in range(50)]
    assert [waiting.get(token) for token in tokens[-4:]] == [46, 47, 48, 49]
    assert waiting.get(tokens[-5]) is None and waiting.get(mine) == -1
    assert waiting.newest("ada") == 49 and waiting.newest("nobody") is None
    for number in range(1000):
        waiting.put(f"user {number}", number)
    assert len(waiting) == 100
    waiting.forget("user 999")
    assert len(waiting) == 99 and waiting.newest("user 999") is None


def test_what_is_over_makes_room() -> None:
    clock = Clock()
    waiting: Waiting[int] = Waiting(seconds=10, most=5, clock=clock)
    for number in range(5):
        waiting.put(str(number), number)
    clock.now += 11
    kept = waiting.put("new", 5)
    assert len(waiting) == 1 and waiting.get(kept) == 5


# -- slowing down


def test_wrong_codes_slow_down_whoever_knows_the_password_and_spare_the_known_address() -> None:
    clock = Clock()
    codes = Throttle(clock).codes
    for number in range(14):
        codes.failed("ada", f"192.0.2.{number}")
    with pytest.raises(TooManyRequests):
        codes.check("ada", "198.51.100.1", known_address="203.0.113.9")
    codes.check("ada", "203.0.113.9", known_address="203.0.113.9")
    codes.check("bob", "198.51.100.1")
    for number in range(40):
        codes.failed("ada", f"192.0.2.{number}")
    clock.now += 899
    with pytest.raises(TooManyRequests):
        codes.check("ada", "198.51.100.1")
    clock.now += 2
    codes.check("ada", "198.51.100.1")


def test_an_administrator_clears_wrong_codes_too() -> None:
    throttle = Throttle()
    for _ in range(20):
        throttle.codes.failed("ada", "192.0.2.1")
    assert any(wait.username == "ada" for wait in throttle.waiting())
    throttle.clear("ada")
    throttle.codes.check("ada", "192.0.2.9")


# -- what people are told


def test_notices_are_few_and_go_when_read(connection: Connection) -> None:
    for number in range(30):
        notices.tell(connection, 1, notices.FACTORS_RESET, by=f"boss{number}")
    told = notices.of_user(connection, 1)
    assert len(told) == notices.MOST and told[0].text.startswith("boss29 ")
    assert notices.of_user(connection, 2) == []
    assert notices.forget(connection, 1) == notices.MOST and notices.of_user(connection, 1) == []
