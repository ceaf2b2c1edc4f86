"""The setting server.database: what it takes, what follows from it, SQL as each database spells it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select
from sqlalchemy.dialects import sqlite
from sqlalchemy.dialects.postgresql import psycopg

from diycloud.config import Paths, Settings, parse
from diycloud.core.services import server_service
from diycloud.db.engine import open_database
from diycloud.db.faults import RawText, fault, mended
from diycloud.db.sqlite import SqliteDatabase
from diycloud.db.tables import users
from diycloud.distro.systemd import render_unit
from diycloud.errors import InvalidInput

HERE = ("", "postgresql:///diycloud", "postgresql:///d?host=/run/postgresql", "postgresql://u@%2Frun%2Fpg/d")
AWAY = (
    "postgresql://db.example.org/d",
    "postgresql://u@[::1]:5432/d",
    "postgresql:///d?host=db",
    "postgresql:///d?hostaddr=192.0.2.1",
)
BAD = (
    "sqlite:///x", "postgres:///d", "postgresql://u:secret@/d", "postgresql:///d?password=secret", "postgresql://a b/d",
    "postgresql:///d?sslpassword=secret", "postgresql://u@v@/d", "postgresql:///d\n",
)  # fmt: skip


def settings(url: str) -> Settings:
    return parse(
        "", Path("config.yaml"), {"DIYCLOUD_SERVER__DATABASE": f"{url!r}" if "\n" not in url else f'"{url!r}"'}
    )


@pytest.mark.parametrize("url", [*HERE, *AWAY])
def test_a_url_without_a_password_is_taken(url: str) -> None:
    assert settings(url).server.database == url


@pytest.mark.parametrize("url", BAD)
def test_any_other_is_refused_without_being_repeated(url: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        settings(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(("url", "network"), [*((url, False) for url in HERE), *((url, True) for url in AWAY)])
def test_the_server_has_a_network_only_for_a_database_that_is_elsewhere(url: str, network: bool) -> None:
    unit = render_unit(server_service(Paths(), settings(url), "www-data"))
    assert ("PrivateNetwork=yes" in unit, "IPAddressDeny=any" in unit) == (not network, not network)
    assert ("AF_INET6" in unit) == network
    assert ("After=diycloud-agent.service postgresql.service" in unit) == bool(url)


def test_the_file_is_what_there_is_without_the_setting(tmp_path: Path) -> None:
    paths = Paths(str(tmp_path))
    paths.state.mkdir(parents=True)
    database = open_database(Settings(), paths)
    assert isinstance(database, SqliteDatabase) and paths.database.exists()
    database.close()


def test_functions_have_the_spelling_of_each() -> None:
    query = select(
        func.ifnull(users.c.email, ""),
        func.instr(users.c.email, "x"),
        func.group_concat(users.c.email),
        func.current_timestamp(),
    )
    assert "ifnull(" in str(query.compile(dialect=sqlite.dialect())) and "instr(" in str(
        query.compile(dialect=sqlite.dialect())
    )
    text = str(query.compile(dialect=psycopg.dialect()))
    assert all(word in text for word in ("coalesce(", "strpos(", "string_agg(", "to_char("))
    assert not any(word in text for word in ("ifnull(", "instr(", "group_concat(", "CURRENT_TIMESTAMP"))


@pytest.mark.parametrize(
    ("column", "value", "better"),
    [
        ("uid", RawText(b" 12"), 12), ("uid", 1.5, 1), ("uid", RawText(b"x"), None), ("uid", b"7", 7),
        ("is_active", RawText(b"yes"), 1), ("full_name", b"\xff", "\ufffd"), ("full_name", RawText(b"a\0"), "a\ufffd"),
        ("full_name", 5, "5"), ("full_name", None, ""), ("uid", float("inf"), None),
    ],
)  # fmt: skip
def test_a_value_of_the_wrong_kind_is_found_and_mended(column: str, value: Any, better: Any) -> None:
    assert fault(users.c[column], value)
    assert mended(users.c[column], value) == better


@pytest.mark.parametrize(
    ("column", "value"), [("uid", None), ("uid", 1 << 62), ("full_name", RawText("Ünal".encode()))]
)
def test_a_value_of_the_right_kind_is_kept(column: str, value: Any) -> None:
    assert fault(users.c[column], value) == ""
    assert mended(users.c[column], value) == (value.decode() if isinstance(value, bytes) else value)
