"""What waits for the disk: a wish always, the host's answer never."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import Connection

from diycloud.db.engine import Database

NORMAL, FULL = 1, 2


def level(connection: Connection) -> int:
    return int(connection.exec_driver_sql("PRAGMA synchronous").scalar_one())


def crash(_: Connection) -> None:
    raise RuntimeError


def test_a_wish_waits_for_the_disk_whatever_was_written_before(database: Database) -> None:
    async def levels() -> list[int]:
        found = [await database.write(level), await database.note(level), await database.write(level)]
        with pytest.raises(RuntimeError):
            await database.note(crash)
        return [*found, await database.write(level)]

    assert asyncio.run(levels()) == [FULL, NORMAL, FULL, FULL]
