"""Many actions at once: checked before the first, each with its own rights, result and audit, and the event loop free."""

from __future__ import annotations

import asyncio
import gc
import time
from typing import Any

import pytest
from sqlalchemy import Connection

from diycloud.actions.actor import Actor
from diycloud.actions.dispatcher import Dispatcher
from diycloud.actions.parsing import Source
from diycloud.actions.roles import Role
from diycloud.actions.services import Services
from diycloud.agent import protocol as wire
from diycloud.auth.throttle import Throttle
from diycloud.cli.files import changes_of_csv
from diycloud.config import Settings
from diycloud.core.handlers import HANDLERS
from diycloud.db.engine import Database
from diycloud.errors import Conflict, InvalidInput, Unavailable
from diycloud.users import places, progress, repository, together
from diycloud.users.actions import BulkUsers, ImportUsers
from diycloud.users.bulk import BulkRefused
from diycloud.users.models import Allocation, BulkReport, Status

ROOT = Actor("root", Role.ADMIN, "cli")
DORA = Actor("dora", Role.DOMAIN_ADMIN, "rest", user_id=1, domain="default")


class Host:
    """An agent that does what it is asked, and remembers it. refuses: names whose accounts it will not make."""

    def __init__(self, refuses: frozenset[str] = frozenset(), delay: float = 0.0) -> None:
        self.refuses, self.delay = refuses, delay
        self.messages: list[wire.Message] = []
        self._uid = 20_000

    async def call(self, message: Any, answer: Any, *, deadline: float = 60.0) -> Any:
        self.messages.append(message)
        await asyncio.sleep(self.delay)
        match message:
            case wire.Capacity():
                return wire.HostCapacity(cores=8, memory=64 << 30, slices="cgroup v1")
            case wire.HashPasswords(passwords):
                return [f"$6$salt${'x' * 86}" for _ in passwords]
            case wire.EnsureAccounts(accounts):
                return [self._outcome(account.wish.name) for account in accounts]
            case wire.StopWorkloads():
                return 0
            case wire.PurgeAccount(name):
                return wire.Outcome(name)
        raise Unavailable(f"{type(message).__name__} was not expected.")

    def _outcome(self, name: str) -> wire.Outcome:
        if name in self.refuses:
            return wire.Outcome(name, code="conflict", message=f"{name} exists on the host as an account.")
        self._uid += 1
        return wire.Outcome(name, uid=self._uid, changed=True, made=True)

    def count(self, kind: type[wire.Message]) -> int:
        return sum(isinstance(message, kind) for message in self.messages)


class PlainHasher:
    async def hash(self, password: str) -> str:
        raise AssertionError("the queue of sign-ins is not for bulk work")

    async def hash_many(self, passwords: list[str]) -> list[str]:
        return [f"hash of {len(p)}" for p in passwords]


def dispatcher(database: Database, host: Host) -> Dispatcher:
    agent: Any = host
    plain: Any = PlainHasher()
    services = Services(database=database, agent=agent, hasher=plain, throttle=Throttle(), settings=Settings())
    return Dispatcher(HANDLERS, services, places.find)


def bulk(
    database: Database, changes: list[dict[str, Any]], actor: Actor = ROOT, host: Host | None = None, **asked: Any
) -> BulkReport:
    runs = dispatcher(database, host or Host())
    return asyncio.run(runs.submit(actor, BulkUsers, {"changes": changes, **asked}, Source.JSON))


def fill(database: Database, *names: str, **columns: Any) -> None:
    """Have some active users, as they are after their host was made."""

    def store(connection: Connection) -> None:
        for name in names:
            values = {"username": name, "password_hash": "x", "status": "active", "uid": 20_000, **columns}
            user_id = repository.add(connection, values, Allocation())
            generation = repository.by_id(connection, user_id).generation
            repository.settle(connection, user_id, generation, uid=20_000)

    asyncio.run(database.write(store))


def statuses(database: Database) -> dict[str, str]:
    rows = database.read_now(lambda c: c.exec_driver_sql("SELECT username, status FROM users").all())
    return {row[0]: row[1] for row in rows}


def audit(database: Database) -> list[tuple[str, str, str]]:
    query = "SELECT action, target, outcome FROM audit ORDER BY id"
    return [tuple(row) for row in database.read_now(lambda c: c.exec_driver_sql(query).all())]


def told(report: BulkReport) -> dict[str, str]:
    return {row.username: "; ".join((row.outcome, *(f"{f}: {m}" for f, m in row.errors))) for row in report.rows}


EVERY = [
    {"action": "create", "username": "new", "cpu": 0.5},
    {"action": "modify", "username": "ada", "full_name": "Ada"},
    {"action": "set-limits", "username": "bob", "memory": "1G"},
    {"action": "disable", "username": "cleo"},
    {"action": "enable", "username": "off"},
    {"action": "delete", "username": "dan"},
    {"action": "restore", "username": "gone"},
    {"action": "purge", "username": "dead"},
    {"action": "set-password", "username": "eve"},
]


def everyone(database: Database) -> None:
    fill(database, "ada", "bob", "cleo", "dan", "eve")
    fill(database, "off", status="inactive")
    fill(database, "gone", "dead", status="deleted")


def test_every_kind_of_change_in_one(database: Database) -> None:
    everyone(database)
    report = bulk(database, EVERY)
    assert [(row.row, row.username, row.outcome) for row in report.rows] == [
        (number, change["username"], "done") for number, change in enumerate(EVERY, 1)
    ]
    assert (report.done, report.failed) == (len(EVERY), 0)
    assert {row.username for row in report.rows if row.password} == {"new", "eve"}, "generated passwords are shown"
    assert statuses(database) == {
        "ada": "active", "bob": "active", "cleo": "inactive", "dan": "deleted", "eve": "active", "off": "active",
        "gone": "active", "new": "active",
    }  # fmt: skip
    rows = audit(database)
    assert rows[0] == ("user.bulk", "", "done")
    assert sorted(rows[1:]) == sorted(
        (
            f"{'limits' if c['action'] == 'set-limits' else 'user'}.{c['action'].removesuffix('-limits')}",
            c["username"],
            "done",
        )
        for c in EVERY
    )


def test_a_dry_run_changes_nothing(database: Database) -> None:
    everyone(database)
    before, host = statuses(database), Host()
    report = bulk(database, EVERY, host=host, dry_run=True)
    assert {row.outcome for row in report.rows} == {"possible"} and report.dry_run
    assert statuses(database) == before
    assert {type(m) for m in host.messages} == {wire.Capacity, wire.CheckLimits}, "the host is only looked at"
    assert audit(database) == [("user.bulk", "", "done")]


FAULTY = [
    {"action": "modify", "username": "ada", "full_name": "Ada"},
    {"action": "modify", "username": "nobody"},
    {"action": "fly", "username": "bob"},
    {"action": "modify", "username": "cleo", "groups": ["red"]},
    {"action": "enable", "username": "eve"},
    {"action": "create", "username": "n1", "email": "one@b.org"},
    {"action": "create", "username": "n2", "email": "One@b.org"},
    {"action": "modify", "username": "dan", "cpu": "1", "wings": 2},
    {"action": "delete", "username": "ada"},
    {"action": "create", "username": "off"},
    {"action": "purge", "username": "off"},
    {"username": "gone"},
    {"action": "create", "username": "n3", "cpu": 64},
]
AT_FAULT = {
    "nobody": "There is no user 'nobody'.",
    "bob": "one of: create, modify",
    "cleo": "there is no group red in the domain default",
    "eve": "eve is active, not inactive",
    "n2": "is in row 6 too",
    "dan": "no such field",
    "ada": "is in row 1 too",
    "off": "is in row 10 too",
    "gone": "one of: create",
    "n3": "the host has 8 cores",
}


def test_every_fault_is_told_before_anything_is_done(database: Database) -> None:
    everyone(database)
    before = statuses(database)
    with pytest.raises(BulkRefused, match="11 of 13 rows are at fault; nothing was done") as refused:
        bulk(database, FAULTY)
    assert statuses(database) == before
    found = told(refused.value.report)
    for name, words in AT_FAULT.items():
        assert words in found[name], name
    assert audit(database) == [("user.bulk", "", "refused")]
    assert {e.field.split(",")[0] for e in refused.value.errors} == {f"row {n}" for n in range(2, 14) if n != 6}


def test_the_good_rows_are_done_if_that_is_asked_for(database: Database) -> None:
    everyone(database)
    report = bulk(database, FAULTY, on_error="continue")
    assert (report.done, report.failed, len(report.rows)) == (2, 11, 13)
    assert statuses(database)["n1"] == "active"


def test_what_the_host_refuses_is_taken_back_and_stops_the_rest(database: Database) -> None:
    names = [f"n{number:03d}" for number in range(300)]
    changes = [{"action": "create", "username": name} for name in names]
    host = Host(frozenset({"n000"}), delay=0.01)
    report = bulk(database, changes, host=host)
    assert report.rows[0].outcome == "refused" and "exists on the host" in report.rows[0].errors[0][1]
    assert report.left_out > 0 and report.done + report.left_out == 299
    assert set(statuses(database)) == {row.username for row in report.rows if row.outcome == "done"}
    assert bulk(database, changes[-1:], host=host).done == 1
    report = bulk(database, [{"action": "create", "username": f"m{n}"} for n in range(3)], host=Host(frozenset({"m1"})),
                  on_error="continue")  # fmt: skip
    assert [row.outcome for row in report.rows] == ["done", "refused", "done"]


def test_rights_are_those_of_each_action_and_user(database: Database) -> None:
    fill(database, "dora", role="domain-admin")
    fill(database, "ada", "carl")
    fill(database, "boss", role="admin")

    def elsewhere(connection: Connection) -> None:
        connection.exec_driver_sql("INSERT INTO domains (name) VALUES ('math')")
        connection.exec_driver_sql("UPDATE users SET domain = 'math' WHERE username = 'carl'")

    asyncio.run(database.write(elsewhere))
    changes = [
        {"action": "modify", "username": "ada", "full_name": "Ada"},
        {"action": "modify", "username": "carl", "full_name": "Carl"},
        {"action": "disable", "username": "boss"},
        {"action": "create", "username": "new", "domain": "math"},
    ]
    found = told(bulk(database, changes, DORA, on_error="continue"))
    assert found["ada"] == "done"
    assert "carl is not in your domain default" in found["carl"]
    assert "boss has a role beyond" in found["boss"]
    assert "domain: only an administrator of all domains" in found["new"]


PASSWORDS = ({}, {"password": "Horse-1-staple-x-c0pper"})
"""Made by the platform, or given: then each is looked up among the common ones."""


@pytest.mark.slow
@pytest.mark.parametrize("given", PASSWORDS, ids=["made", "given"])
def test_a_thousand_are_gathered_and_hold_nobody_up(
    database: Database, monkeypatch: pytest.MonkeyPatch, given: dict[str, str]
) -> None:
    """The host is asked for batches, and the work gives the event loop back within 50 ms of a core's time."""
    host, steps, rows = Host(delay=0.002), [0.0], []
    runs, turn = dispatcher(database, host), asyncio.Handle._run

    def timed(handle: asyncio.Handle) -> None:
        start = time.thread_time()
        turn(handle)
        steps.append(time.thread_time() - start)

    async def scenario() -> BulkReport:
        progress.listener.set(rows.append)
        changes = [{"action": "create", "username": f"n{number:04d}", **given} for number in range(1000)]
        rows_of_users = [{"username": f"i{number:04d}", **given} for number in range(1000)]
        await runs.submit(ROOT, ImportUsers, {"users": rows_of_users, "dry_run": True}, Source.JSON)
        return await runs.submit(ROOT, BulkUsers, {"changes": changes}, Source.JSON)

    bulk(database, [{"action": "create", "username": "first"}])  # what is compiled once is not this work's
    monkeypatch.setattr(asyncio.Handle, "_run", timed)
    gc.collect()
    gc.freeze()  # as the server does when it has started: what the tests made is not this work's to look through
    try:
        report = asyncio.run(scenario())
    finally:
        gc.unfreeze()
    assert report.done == 1000 and len(rows) == 1000
    assert max(host.count(wire.EnsureAccounts), host.count(wire.HashPasswords)) <= 200
    assert sorted(steps)[-3] < 0.05, sorted(steps)[-5:]  # a full garbage collection may fall into a step or two


def test_a_batch_that_cannot_be_written_fails_whole_and_one_row_alone(database: Database) -> None:
    gathered = together._Gathered(database)

    async def scenario() -> list[Any]:
        def add(name: str) -> Any:
            values = {"username": name, "password_hash": "x"}
            return gathered.write(repository.add, values, Allocation())

        return await asyncio.gather(add("ada"), add("bob"), add("ada"), add("carl"), return_exceptions=True)

    first, second, third, fourth = asyncio.run(scenario())
    assert (first, second) == (1, 2) and isinstance(third, Conflict) and isinstance(fourth, int)
    assert set(statuses(database)) == {"ada", "bob", "carl"}


def test_a_trial_leaves_nothing(database: Database) -> None:
    trial = together._Gathered(database, trial=True)

    async def scenario() -> list[Any]:
        values = {"username": "ada", "password_hash": "x"}
        return await asyncio.gather(
            *(trial.write(repository.add, values, Allocation()) for _ in range(3)), return_exceptions=True
        )

    assert all(isinstance(found, together.Checked) for found in asyncio.run(scenario())), "none sees another"
    assert statuses(database) == {}
    fill(database, "ada")
    assert database.read_now(repository.by_name, "ada").id == 1
    assert all(isinstance(found, Conflict) for found in asyncio.run(scenario()))
    assert database.read_now(repository.by_name, "ada").status is Status.ACTIVE


def test_csv_becomes_changes() -> None:
    text = "action,username,cpu,memory,groups,full_name\nmodify,ada,0.5,512,red blue,\ndelete,bob,,,,\n"
    assert changes_of_csv(text) == [
        {"action": "modify", "username": "ada", "cpu": 0.5, "memory": "512M", "groups": ("red", "blue")},
        {"action": "delete", "username": "bob"},
    ]
    with pytest.raises(InvalidInput) as refused:
        changes_of_csv("action,username,cpu\nmodify,ada,lots\nfly,bob,\ndelete,carl,1\n")
    assert [e.field for e in refused.value.errors] == ["line 2, cpu", "line 3, action", "line 4, cpu"]
