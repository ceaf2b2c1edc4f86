"""Refused sign-ins in the audit: however many there are, the rows are few, and nothing is left out of the count."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from sqlalchemy import text

from diycloud.auth.refusals import A_MINUTE, AT_ONCE, Refusals
from diycloud.auth.signin import stranger
from diycloud.db.engine import Database
from diycloud.users import first_admin, repository
from diycloud.users.models import Row


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def somebody(database: Database) -> Row:
    asyncio.run(first_admin.ensure_admin(database, "boss", "correct horse battery", one_time=False))
    row = asyncio.run(database.read(repository.by_name, "boss"))
    assert row is not None
    return row


def refuse(refusals: Refusals, times: int, user: Row | None = None) -> None:
    async def all_of_them() -> None:
        for number in range(times):
            who = stranger("portal", f"2001:db8:0:{number:x}::1", "r")
            await refusals.record(who, user, "unauthenticated", time.monotonic())

    asyncio.run(all_of_them())


def rows(database: Database) -> list[Any]:
    query = text(
        "SELECT target, address, outcome, code, message, changes FROM audit WHERE action = 'session.begin' ORDER BY id"
    )
    return asyncio.run(database.read(lambda connection: connection.execute(query).all()))


def test_a_flood_from_many_addresses_shares_one_row_a_minute(database: Database) -> None:
    clock = Clock()
    refusals = Refusals(database, clock)
    refuse(refusals, AT_ONCE + 500)
    found = rows(database)
    assert len(found) == AT_ONCE + 1
    assert len({row.address for row in found[:AT_ONCE]}) == AT_ONCE, "each address is told as long as there is room"
    target, address, outcome, code, message, changes = found[-1]
    assert (target, address, outcome, code, changes) == ("", "", "refused", "unauthenticated", '{"refused":500}')
    assert message.startswith("500 more") and "nobody's here" in message
    clock.now += 3  # no room yet, and still the same minute
    refuse(refusals, 1)
    assert len(rows(database)) == AT_ONCE + 1 and rows(database)[-1].changes == '{"refused":501}'


def test_room_comes_back_with_time_and_the_next_minute_counts_anew(database: Database) -> None:
    clock = Clock()
    refusals = Refusals(database, clock)
    refuse(refusals, AT_ONCE + 7)
    clock.now += 60
    refuse(refusals, A_MINUTE + 3)
    found = rows(database)[AT_ONCE:]
    assert [row.changes for row in found] == ['{"refused":7}', *["{}"] * A_MINUTE, '{"refused":3}']


def test_a_flood_of_invented_names_hides_no_guessing_at_a_users_password(database: Database) -> None:
    boss, refusals = somebody(database), Refusals(database, Clock())
    refuse(refusals, AT_ONCE + 50)
    refuse(refusals, 2, boss)
    assert [row.target for row in rows(database)[-2:]] == ["boss", "boss"]
    assert rows(database)[-1].address == "2001:db8:0:1::1"


def test_a_flood_at_users_is_counted_too(database: Database) -> None:
    boss, refusals = somebody(database), Refusals(database, Clock())
    refuse(refusals, AT_ONCE + 4, boss)
    assert rows(database)[-1].changes == '{"refused":4}' and "people here" in rows(database)[-1].message
