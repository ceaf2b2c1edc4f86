"""The one way: authorise, validate, run, audit. On a real database, with handlers of the test's own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from sqlalchemy import Connection, insert

from diycloud.actions import audit
from diycloud.actions.action import Action, Audited, Permission, action
from diycloud.actions.actor import SYSTEM, Actor
from diycloud.actions.dispatcher import Context, Dispatcher
from diycloud.actions.fields import Description, Password, Username
from diycloud.actions.parsing import Source
from diycloud.actions.roles import Role
from diycloud.actions.services import Services
from diycloud.auth.throttle import Throttle
from diycloud.config import Settings
from diycloud.db.engine import Database
from diycloud.db.sqlite import SqliteDatabase
from diycloud.db.tables import domains, users
from diycloud.errors import Conflict, HostError, InvalidInput, NotFound, PermissionDenied
from diycloud.users import places

SECRET = "hunter2 hunter2"
ADMIN = Actor("ada", Role.ADMIN, "rest", user_id=1, address="192.0.2.1", request_id="abc", domain="default")
USER = Actor("bob", Role.USER, "rest", user_id=2, domain="default")


@action("test.change", needs=Permission.USERS_CREATE)
class Change(Action[str], frozen=True):
    """Change something."""

    username: Username
    password: Password | msgspec.UnsetType = msgspec.UNSET
    description: Description | None = None


@action("test.read", needs=Permission.USERS_READ, audited=Audited.NO)
class Read(Action[str], frozen=True):
    """Read something."""

    username: Username


class Bench:
    """A dispatcher whose one handler does what a test says, and the audit as it then is."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.act: Callable[[Context, Any], Any] = lambda ctx, action: "done"
        self.ran: list[Any] = []
        self.counted: list[tuple[str, str]] = []

        async def handle(ctx: Context, action: Any) -> Any:
            self.ran.append(action)
            answer = self.act(ctx, action)
            return await answer if asyncio.iscoroutine(answer) else answer

        none: Any = None
        services = Services(database=database, agent=none, hasher=none, throttle=Throttle(), settings=Settings())
        self.dispatcher = Dispatcher({Change: handle, Read: handle}, services, places.find)
        self.dispatcher.monitors.append(lambda actor, name, outcome, seconds: self.counted.append((name, outcome)))

    def submit(self, actor: Actor, cls: type, **raw: Any) -> Any:
        return asyncio.run(self.dispatcher.submit(actor, cls, raw, Source.JSON))

    def audit(self) -> list[dict[str, Any]]:
        query = "SELECT * FROM audit ORDER BY id"
        return self.database.read_now(lambda c: [dict(row._mapping) for row in c.exec_driver_sql(query)])


@pytest.fixture
def bench(database: Database) -> Bench:
    rows = [
        {"id": actor.user_id, "username": actor.name, "password_hash": "-", "role": actor.role}
        for actor in (ADMIN, USER)  # who has no account (any more) changes nothing
    ]
    asyncio.run(database.write(lambda connection: connection.execute(insert(users), rows)))
    return Bench(database)


def test_a_change_is_audited_with_who_and_from_where(bench: Bench) -> None:
    assert bench.submit(ADMIN, Change, username="carl", description="new") == "done"
    (row,) = bench.audit()
    shown = {k: row[k] for k in ("actor", "via", "address", "request_id", "action", "target", "outcome", "code")}
    assert shown == {
        "actor": "ada", "via": "rest", "address": "192.0.2.1", "request_id": "abc", "action": "test.change",
        "target": "carl", "outcome": "done", "code": "",
    }  # fmt: skip
    assert row["duration_ms"] >= 0 and msgspec.json.decode(row["changes"]) == {"description": "new"}
    assert bench.counted == [("test.change", "done")]


def test_what_really_changed_stands_in_the_audit(bench: Bench) -> None:
    bench.act = lambda ctx, action: setattr(ctx, "changes", {"cpu": [1, 2]})
    bench.submit(ADMIN, Change, username="carl")
    assert msgspec.json.decode(bench.audit()[0]["changes"]) == {"cpu": [1, 2]}


def test_reads_are_only_counted(bench: Bench) -> None:
    bench.submit(ADMIN, Read, username="carl")
    assert (bench.audit(), bench.counted) == ([], [("test.read", "done")])


def test_who_may_not_learns_nothing_of_the_fields(bench: Bench) -> None:
    with pytest.raises(PermissionDenied):
        bench.submit(USER, Change, username="NOT A NAME", nonsense=1)
    assert bench.ran == []
    (row,) = bench.audit()
    assert (row["outcome"], row["code"], row["actor"]) == ("refused", "permission-denied", "bob")


def test_own_reads_and_those_of_others(bench: Bench) -> None:
    assert bench.submit(USER, Read, username="bob") == "done"
    with pytest.raises(PermissionDenied):
        bench.submit(USER, Read, username="ada")
    assert [row["outcome"] for row in bench.audit()] == ["refused"], "a refused read is an event"


def test_bad_input_runs_nothing_and_is_audited(bench: Bench) -> None:
    with pytest.raises(InvalidInput):
        bench.submit(ADMIN, Change, username="Carl", password=SECRET, colour="red")
    assert bench.ran == []
    (row,) = bench.audit()
    assert (row["outcome"], row["code"], row["target"]) == ("refused", "invalid-input", "Carl")


@pytest.mark.parametrize(
    ("error", "outcome", "code"),
    [(Conflict("no"), "refused", "conflict"), (NotFound("no"), "refused", "not-found"),
     (HostError("no"), "failed", "host-error"), (ZeroDivisionError("no"), "crashed", "")],
)  # fmt: skip
def test_refusals_failures_and_crashes_are_audited(bench: Bench, error: Exception, outcome: str, code: str) -> None:
    def act(ctx: Context, action: Any) -> None:
        raise error

    bench.act = act
    with pytest.raises(type(error)):
        bench.submit(ADMIN, Change, username="carl")
    (row,) = bench.audit()
    assert (row["outcome"], row["code"]) == (outcome, code)
    assert bench.counted == [("test.change", outcome)]


def test_a_read_of_nothing_is_no_event(bench: Bench) -> None:
    def act(ctx: Context, action: Any) -> None:
        raise NotFound("no")

    bench.act = act
    with pytest.raises(NotFound):
        bench.submit(ADMIN, Read, username="carl")
    assert bench.audit() == []


@pytest.mark.parametrize("fails", [False, True])
def test_secrets_are_nowhere(bench: Bench, fails: bool) -> None:
    def act(ctx: Context, action: Any) -> None:
        if fails:
            raise RuntimeError(action.password)

    bench.act = act
    try:
        bench.submit(ADMIN, Change, username="carl", password=SECRET)
    except RuntimeError:
        assert fails
    (row,) = bench.audit()
    assert SECRET not in str(row)
    assert "(secret)" in row["changes"]
    if isinstance(bench.database, SqliteDatabase):
        assert SECRET.encode() not in b"".join(p.read_bytes() for p in bench.database.path.parent.iterdir())


def test_a_cancelled_action_is_closed(bench: Bench) -> None:
    async def scenario() -> None:
        entered = asyncio.Event()

        async def act(ctx: Context, action: Any) -> None:
            await ctx.write(lambda connection: None)
            entered.set()
            await asyncio.sleep(60)

        bench.act = act
        task = asyncio.create_task(bench.dispatcher.submit(ADMIN, Change, {"username": "carl"}, Source.JSON))
        await entered.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(scenario())
    assert [row["outcome"] for row in bench.audit()] == ["crashed"]


def test_no_wish_is_committed_without_its_row_in_the_audit(bench: Bench) -> None:
    """Whatever commits first in an action, the audit's row is in the same transaction."""
    seen: list[list[str]] = []

    async def act(ctx: Context, action: Any) -> None:
        await ctx.write(lambda connection: connection.exec_driver_sql("UPDATE users SET email = NULL"))
        seen.append([row["outcome"] for row in bench.audit()])
        await ctx.write(lambda connection: None)

    bench.act = act
    bench.submit(ADMIN, Change, username="carl")
    assert seen == [["started"]]
    assert [row["outcome"] for row in bench.audit()] == ["done"], "one row, however many commits"


def test_what_a_crash_left_open_is_closed_at_the_next_start(database: Database) -> None:
    async def scenario() -> int:
        await database.write(audit.begin, SYSTEM, "test.change", "carl", {})
        return await database.write(audit.close_crashed)

    assert asyncio.run(scenario()) == 1
    entry = database.read_now(audit.page)[0]
    assert (entry.outcome, entry.actor) == ("crashed", "system")


def test_the_audit_is_read_newest_first_by_any_column(database: Database) -> None:
    async def scenario() -> None:
        for number in range(5):
            row = await database.write(audit.begin, ADMIN, f"test.{number % 2}", f"u{number}", {"n": number})
            await database.write(audit.end, row, "done", duration_ms=1, changes=None)

    asyncio.run(scenario())
    first = database.read_now(audit.page, limit=2)
    rest = database.read_now(audit.page, before=first[-1].id)
    assert [e.target for e in first + rest] == ["u4", "u3", "u2", "u1", "u0"]
    assert [e.target for e in database.read_now(audit.page, action="test.1")] == ["u3", "u1"]
    assert [e.changes for e in database.read_now(audit.page, target="u2")] == [{"n": 2}]
    assert database.read_now(audit.page, actor="bob") == []


def test_old_rows_are_forgotten(database: Database) -> None:
    async def scenario() -> int:
        await database.write(audit.begin, ADMIN, "test.change", "old", {})
        await database.write(lambda c: c.exec_driver_sql("UPDATE audit SET at = '2026-01-01 00:00:00'"))
        await database.write(audit.begin, ADMIN, "test.change", "new", {})
        return await database.write(audit.forget, 30)

    assert asyncio.run(scenario()) == 1
    assert [e.target for e in database.read_now(audit.page)] == ["new"]


# -- on another's behalf


def acting(bench: Bench, actor: Actor, name: str) -> dict[str, Any]:
    """Run a change as somebody else; returns the audit's last row."""
    with contextlib.suppress(PermissionDenied):
        bench.submit(actor._replace(on_behalf_of=name), Change, username="bob")
    return bench.audit()[-1]


@pytest.fixture
def people(database: Database) -> Database:
    def fill(connection: Connection) -> None:
        connection.execute(insert(domains).values(name="physics"))
        for name, role, domain, status in (
            ("head", Role.DOMAIN_ADMIN, "physics", "active"),
            ("away", Role.DOMAIN_ADMIN, "physics", "inactive"),
            ("chief", Role.ADMIN, "default", "active"),
            ("bob", Role.USER, "physics", "active"),
        ):
            row = {"username": name, "password_hash": "-", "role": role, "domain": domain, "status": status}
            connection.execute(insert(users).values(row))

    asyncio.run(database.write(fill))
    return database


def test_both_are_recorded_and_the_rights_are_the_others(people: Database) -> None:
    bench = Bench(people)
    seen: list[tuple[str, str | None, str]] = []
    bench.act = lambda ctx, action: seen.append((ctx.actor.name, ctx.bound, ctx.actor.real.name))
    row = acting(bench, ADMIN, "head")
    assert (row["actor"], row["on_behalf_of"], row["outcome"]) == ("ada", "head", "done")
    assert seen == [("head", "physics", "ada")], "within the domain, as a domain's administrator is"


@pytest.mark.parametrize(
    ("actor", "name", "why"),
    [
        (ADMIN, "chief", "an administrator's rights are lent to root only"),
        (ADMIN, "away", "who may not sign in lends nothing"),
        (ADMIN, "nobody", "there is no such user"),
        (USER, "head", "a user acts for nobody"),
        (Actor("head", Role.DOMAIN_ADMIN, "rest", user_id=1, domain="default"), "bob", "not of the domain"),
        (ADMIN._replace(must_change_password=True), "head", "the password comes first"),
    ],
)
def test_who_may_not_is_refused_and_recorded(people: Database, actor: Actor, name: str, why: str) -> None:
    bench = Bench(people)
    row = acting(bench, actor, name)
    assert bench.ran == [], why
    assert (row["actor"], row["on_behalf_of"], row["outcome"]) == (actor.name, name, "refused")


def test_root_on_the_host_may_act_for_an_administrator_but_then_is_not_root(people: Database) -> None:
    bench = Bench(people)
    root: list[bool] = []
    bench.act = lambda ctx, action: root.append(ctx.actor.is_root)
    assert acting(bench, Actor("root", Role.ADMIN, "cli"), "chief")["outcome"] == "done"
    assert root == [False]


@pytest.mark.parametrize(
    ("statement", "outcome"),
    [
        ("UPDATE users SET full_name = 'Chief' WHERE username = 'chief'", "done"),
        ("UPDATE users SET role = 'monitor' WHERE username = 'chief'", "refused"),
        ("UPDATE users SET status = 'inactive' WHERE username = 'chief'", "refused"),
        ("UPDATE users SET domain = 'physics' WHERE username = 'chief'", "refused"),
        ("DELETE FROM users WHERE username = 'chief'", "refused"),
        ("UPDATE users SET role = 'admin' WHERE username = 'head'", "refused"),
        ("UPDATE users SET status = 'inactive' WHERE username = 'head'", "refused"),
    ],
)
def test_who_really_asks_is_looked_at_again_in_the_first_transaction(
    people: Database, statement: str, outcome: str
) -> None:
    """As the one acted for is: between its check and its commit an action may wait, for the host or for others."""
    bench = Bench(people)
    identity = people.read_now(lambda c: c.exec_driver_sql("SELECT id FROM users WHERE username = 'chief'").scalar())
    chief = Actor("chief", Role.ADMIN, "rest", user_id=identity, domain="default")
    written: list[str] = []

    async def act(ctx: Context, action: Any) -> None:
        await people.write(lambda c: c.exec_driver_sql(statement))
        await ctx.write(lambda _: written.append("wish"))

    bench.act = act
    row = acting(bench, chief, "head")
    assert (row["actor"], row["on_behalf_of"], row["outcome"]) == ("chief", "head", outcome)
    assert written == (["wish"] if outcome == "done" else [])


def test_a_domain_administrator_acts_for_nobody_who_has_got_above_them(people: Database) -> None:
    bench = Bench(people)
    identity = people.read_now(lambda c: c.exec_driver_sql("SELECT id FROM users WHERE username = 'head'").scalar())
    head = Actor("head", Role.DOMAIN_ADMIN, "rest", user_id=identity, domain="physics")
    other = {"username": "vice", "password_hash": "-", "role": Role.DOMAIN_ADMIN, "domain": "physics"}
    asyncio.run(people.write(lambda c: c.execute(insert(users).values(other)) and None))
    written: list[str] = []

    async def act(ctx: Context, action: Any) -> None:
        await people.write(lambda c: c.exec_driver_sql("UPDATE users SET sudo = 1 WHERE username = 'vice'"))
        await ctx.write(lambda _: written.append("wish"))

    bench.act = act
    assert acting(bench, head, "vice")["outcome"] == "refused" and written == []
