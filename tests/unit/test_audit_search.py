"""The audit's search and export, and who sees which part of it."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import sqlite3
from typing import Any

import pytest

from diycloud.actions.actor import Actor
from diycloud.actions.dispatcher import Dispatcher
from diycloud.actions.download import Download
from diycloud.actions.parsing import Source
from diycloud.actions.roles import Role
from diycloud.auth import history
from diycloud.auth.actions import ExportAudit, ListAudit
from diycloud.db.engine import Database
from diycloud.errors import InvalidInput, PermissionDenied
from diycloud.users import places

ROOT = Actor("root", Role.ADMIN, "cli")
HEAD = Actor("head", Role.DOMAIN_ADMIN, "rest", user_id=9, domain="physics")
ROWS = (
    # id, at, actor, on_behalf_of, domain, via, address, action, target, outcome, message, changes
    (1, "2026-01-01 08:00:00", "root", "", "physics", "cli", "", "user.create", "ada", "done", "", '{"cpu": [1, 2]}'),
    (2, "2026-01-01 23:59:59", "ada", "", "physics", "portal", "192.0.2.7", "session.begin", "ada", "done", "", "{}"),
    (
        3,
        "2026-01-02 00:00:00",
        "boss",
        "ada",
        "physics",
        "rest",
        "192.0.2.8",
        "key.add",
        "ada",
        "refused",
        "no 50% key",
        "{}",
    ),
    (
        4,
        "2026-02-01 10:00:00",
        "boss",
        "",
        "default",
        "rest",
        "192.0.2.8",
        "policy.create",
        "=cmd",
        "failed",
        "x",
        "{}",
    ),
    (
        5,
        "2026-02-01 10:00:01",
        "boss",
        "",
        "",
        "rest",
        "192.0.2.8",
        "host.show",
        "",
        "refused",
        "",
        '{"note": "Straße"}',
    ),
)


@pytest.fixture
def ask(database: Database) -> Any:
    with sqlite3.connect(database.path) as connection:
        connection.executemany(
            "INSERT INTO audit (id, at, actor, on_behalf_of, domain, via, address, action, target, outcome, message,"
            " changes) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            ROWS,
        )
        connection.execute("UPDATE audit SET token = 'abcdefgh2345' WHERE id = 3")
    connection.close()
    services: Any = type("Services", (), {"database": database})()
    handlers = {ListAudit: history.list_audit, ExportAudit: history.export_audit}
    dispatcher = Dispatcher(handlers, services, places.find)

    def run(actor: Actor, cls: type, /, **raw: Any) -> Any:
        async def whole() -> Any:
            result = await dispatcher.submit(actor, cls, raw, Source.TEXT)
            return b"".join([part async for part in result.chunks]) if isinstance(result, Download) else result

        return asyncio.run(whole())

    return run


def ids(found: Any) -> list[int]:
    return [entry.id for entry in found.entries]


@pytest.mark.parametrize(
    ("asked", "wanted"),
    [
        ({}, [5, 4, 3, 2, 1]),
        ({"user": "ada"}, [3, 2, 1]),
        ({"actor": "ada"}, [3, 2]),
        ({"actor": "boss"}, [5, 4, 3]),
        ({"action": "user."}, [1]),
        ({"action": "user"}, []),
        ({"outcome": "refused", "via": "rest"}, [5, 3]),
        ({"address": "192.0.2.7"}, [2]),
        ({"token": "abcdefgh2345"}, [3]),
        ({"token": "abcdefgh"}, []),
        ({"search": "50%"}, [3]),
        ({"search": "CPU"}, [1]),
        ({"domain": "default"}, [4]),
        ({"since": "2026-01-02"}, [5, 4, 3]),
        ({"until": "2026-01-01"}, [2, 1]),
        ({"since": "2026-01-01T23:59:59Z", "until": "2026-01-02 00:00"}, [2]),
        ({"before": "4", "limit": "2"}, [3, 2]),
    ],
)
def test_what_is_asked_for_is_found(ask: Any, asked: dict[str, str], wanted: list[int]) -> None:
    assert ids(ask(ROOT, ListAudit, **asked)) == wanted


@pytest.mark.parametrize("day", ["2026-02-30", "2026-13-01", "yesterday", "2026-01-01 25:00"])
def test_a_day_that_is_none_is_refused_by_its_field(ask: Any, day: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        ask(ROOT, ListAudit, since=day)
    assert caught.value.errors[0].field == "since"


def test_a_domains_administrator_sees_the_domain_and_no_more(ask: Any) -> None:
    assert ids(ask(HEAD, ListAudit)) == [3, 2, 1]
    assert ids(ask(HEAD, ListAudit, domain="physics")) == [3, 2, 1]
    with pytest.raises(PermissionDenied, match="physics only"):
        ask(HEAD, ListAudit, domain="default")
    lines = [json.loads(line) for line in ask(HEAD, ExportAudit, format="json").splitlines()]
    assert [line["id"] for line in lines[:3]] == [1, 2, 3]
    own = [(line["actor"], line["action"], line["outcome"]) for line in lines[3:]]
    assert own == [("head", "audit.list", "refused"), ("head", "audit.export", "done")], "of no place, but the domain's"


def test_an_export_has_every_entry_once_and_is_itself_recorded(ask: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "EXPORT_PAGE", 2)
    rows = list(csv.DictReader(io.StringIO(ask(ROOT, ExportAudit).decode())))
    assert [int(row["id"]) for row in rows[:5]] == [1, 2, 3, 4, 5]
    assert rows[2]["on_behalf_of"] == "ada"
    assert json.loads(rows[0]["changes"]) == {"cpu": [1, 2]}
    assert ids(ask(ROOT, ListAudit, action="audit.export")) == [6]


def test_a_spreadsheet_runs_nothing_of_an_export(ask: Any) -> None:
    rows = list(csv.DictReader(io.StringIO(ask(ROOT, ExportAudit, user="=cmd").decode())))
    assert rows[0]["target"] == "'=cmd"
