"""Whose word a password is, how long it is good, and what PAM asks beside it: the agent on a host in memory."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from pathlib import Path

import msgspec
import pytest

from diycloud.agent import changes, reconcile, sign_in
from diycloud.agent.handlers import handler_for
from diycloud.agent.passwords import MAX_TRIES, Passwords, Tries, fingerprint
from diycloud.agent.protocol import (
    Account,
    ConfirmPassword,
    IsPasswordForeign,
    Limits,
    Outcome,
    SpendStep,
    State,
    SyncReport,
    VerifyPassword,
    Wish,
)
from diycloud.agent.server import Server
from diycloud.agent.state import Agent, Caller, Role, Session
from diycloud.errors import PermissionDenied, TooManyRequests
from diycloud.host import password_fields, shadow
from diycloud.host.keys import CODES_GROUP
from diycloud.host.pam_files import Demands
from diycloud.system.fake import Fake
from tests.unit.agents import finish
from tests.unit.test_agent_changes import make

LIMITS = Limits(0.5, 64 << 20, 50)
ROOT, SERVER = Caller(0, 1, Role.ROOT), Caller(990, 1, Role.SERVER)
SECRET = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"
OURS = shadow.hash_password("of the server", "$6$")
THEIRS = shadow.hash_password("of passwd", "$6$")
TODAY = int(time.time()) // 86_400

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="gives a home to its owner: needs root")


@pytest.fixture
def bed(tmp_path: Path) -> tuple[Fake, Agent]:
    fake, agent = make(tmp_path, sudoers="")
    os.chown(tmp_path / "alice", 20_000, 20_000)  # the home is real
    fake.write("/etc/gshadow", f"alice:!::\n{CODES_GROUP}:!::\n")
    fake.write("/etc/group", (fake.read("/etc/group") or "") + f"{CODES_GROUP}:x:990:\n")
    fake.make_dir("/etc/pam.d")
    fake.write("/etc/pam.d/diycloud", "")
    fake.write("/etc/login.defs", "PASS_MAX_DAYS\t99999\n")
    return fake, agent


def ensure(
    agent: Agent, generation: int = 5, shadow: str | None = None, caller: Caller = SERVER, **wish: object
) -> Outcome:
    wanted = msgspec.structs.replace(Wish("alice", generation, LIMITS), **wish)
    return changes.ensure_accounts(agent, caller, [Account(wanted, shadow)])[0]


def sync(agent: Agent, **wish: object) -> SyncReport:
    wanted = msgspec.structs.replace(Wish("alice", 5, LIMITS), **wish)
    return finish(reconcile.reconcile(agent, SERVER, [wanted], time.monotonic()))


def fields(fake: Fake) -> list[str]:
    return (fake.read("/etc/shadow") or "").splitlines()[0].split(":")


def set_on_host(fake: Fake, field: str) -> None:
    password_fields.set_passwords(fake, {"alice": field})


def test_what_every_sign_in_asks_waits_for_no_thread(bed: tuple[Fake, Agent]) -> None:
    fake, agent = bed
    ensure(agent, shadow=OURS)
    set_on_host(fake, THEIRS)
    server, done = Server(agent, server_uid=990), threading.Event()

    async def ask() -> list[object]:
        reads = [asyncio.create_task(server.in_background(done.wait)) for _ in range(8)]
        await asyncio.sleep(0)  # every thread for reads is taken now, and some wait for one
        try:
            asked = [IsPasswordForeign("alice"), IsPasswordForeign("nobody")]
            return [
                await asyncio.wait_for(server._work(handler_for(one, SERVER), Session(SERVER), one), 5) for one in asked
            ]
        finally:
            done.set()
            await asyncio.gather(*reads)

    assert asyncio.run(ask()) == [True, False]
    for pool in (server._changes, server._reads, server._long, server._notebooks, server._hashes):
        pool.close()


def test_a_password_of_the_host_is_foreign_until_the_server_knows_it(bed: tuple[Fake, Agent]) -> None:
    fake, agent = bed
    ensure(agent, shadow=OURS)
    assert not sign_in.is_password_foreign(agent, "alice") and sync(agent).foreign == []
    set_on_host(fake, THEIRS)
    assert sign_in.is_password_foreign(agent, "alice") and sync(agent).foreign == ["alice"]
    assert sign_in.verify_password(agent, SERVER, VerifyPassword("alice", "of the server")).fingerprint == ""
    found = sign_in.verify_password(agent, SERVER, VerifyPassword("alice", "of passwd")).fingerprint
    sign_in.confirm_password(agent, ConfirmPassword("alice", found))
    assert not sign_in.is_password_foreign(agent, "alice") and sync(agent).foreign == []
    again = Passwords(fake, agent.registry.path.with_name("passwords"))
    assert not again.is_foreign("alice", THEIRS), "after a restart too"
    ensure(agent, shadow=OURS)
    assert not sign_in.is_password_foreign(agent, "alice"), "the later change wins"


def test_a_confirmation_that_comes_too_late_confirms_nothing(bed: tuple[Fake, Agent]) -> None:
    fake, agent = bed
    set_on_host(fake, THEIRS)
    found = sign_in.verify_password(agent, SERVER, VerifyPassword("alice", "of passwd")).fingerprint
    set_on_host(fake, OURS)
    sign_in.confirm_password(agent, ConfirmPassword("alice", found))
    assert sign_in.is_password_foreign(agent, "alice")


@pytest.mark.parametrize(
    ("field", "foreign"),
    [(f"!{OURS}", False), (f"!{THEIRS}", True), ("!", False), ("*", False), ("!*", False), ("!!", False), ("", True)],
)
def test_what_is_no_password_is_nobodys(bed: tuple[Fake, Agent], field: str, foreign: bool) -> None:
    """Locking a password makes it nobody else's; taking it away (passwd -d) does."""
    fake, agent = bed
    ensure(agent, shadow=OURS)
    set_on_host(fake, field)
    assert sign_in.is_password_foreign(agent, "alice") is foreign


def test_a_line_that_was_lost_makes_a_password_foreign(bed: tuple[Fake, Agent]) -> None:
    fake, agent = bed
    ensure(agent, shadow=OURS)
    path = agent.registry.path.with_name("passwords")
    fake.write(path, "alice garbage\n\x00\n")
    assert Passwords(fake, path).is_foreign("alice", OURS)


def test_only_managed_accounts_are_compared(bed: tuple[Fake, Agent]) -> None:
    fake, agent = bed
    password_fields.set_passwords(fake, {"root": OURS})
    assert not sign_in.is_password_foreign(agent, "root")
    with pytest.raises(PermissionDenied):
        sign_in.verify_password(agent, SERVER, VerifyPassword("root", "of the server"))
    with pytest.raises(PermissionDenied):
        sign_in.confirm_password(agent, ConfirmPassword("root", fingerprint(OURS)))


def test_guessing_through_the_agent_is_slow_and_not_locked_out() -> None:
    now = [0.0]
    tries = Tries(lambda: now[0])
    for _ in range(MAX_TRIES):
        tries.take("alice")
    with pytest.raises(TooManyRequests):
        tries.take("alice")
    tries.take("bob")
    now[0] += 5.0
    tries.take("alice")
    with pytest.raises(TooManyRequests):
        tries.take("alice")


def test_one_password_in_the_names_of_many_comes_round_in_turn(
    bed: tuple[Fake, Agent], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake, agent = bed
    monkeypatch.setattr(sign_in, "MAX_FOREIGN", 2)
    entry = agent.registry.entries["alice"]
    names = ["alice", "bert", "carl", "dora", "emma"]
    for number, name in enumerate(names[1:], 1):
        agent.registry.entries[name] = entry._replace(name=name, uid=20_000 + number)
    lines = "".join(f"{n}:x:{20_000 + i}:{20_000 + i}::/home/{n}:/bin/bash\n" for i, n in enumerate(names))
    fake.write("/etc/passwd", lines)
    fake.write("/etc/shadow", "".join(f"{name}:{THEIRS}:1:0:9:7:::\n" for name in names))
    host = changes.HostAccounts(fake)
    seen = [name for _ in range(3) for name in sign_in.foreign_names(agent, host)]
    assert set(seen) == set(names)


def test_a_password_for_one_time_is_expired_once(bed: tuple[Fake, Agent]) -> None:
    fake, agent = bed
    ensure(agent, shadow=OURS, must_change_password=True)
    assert fields(fake)[1:3] == [OURS, "0"]
    set_on_host(fake, THEIRS)  # by its owner, at the sign-in
    assert sync(agent, must_change_password=True).mended == []
    assert fields(fake)[2] == str(TODAY), "their own holds, whatever the server has not heard yet"
    ensure(agent, shadow=OURS)
    assert fields(fake)[1:3] == [OURS, str(TODAY)]


def test_without_our_lines_in_pam_no_password_expires(bed: tuple[Fake, Agent]) -> None:
    """It would hold up keys and cron jobs, too."""
    fake, agent = bed
    fake.remove("/etc/pam.d/diycloud")
    ensure(agent, shadow=OURS, must_change_password=True)
    assert fields(fake)[1:3] == [OURS, str(TODAY)]
    fake.write("/etc/pam.d/diycloud", "")
    assert sync(agent, must_change_password=True).mended == ["alice"], "once they are there it does"


def test_a_wish_to_change_it_reaches_a_password_that_is_there(bed: tuple[Fake, Agent]) -> None:
    fake, agent = bed
    ensure(agent, shadow=OURS)
    assert sync(agent, must_change_password=True).mended == ["alice"]
    assert fields(fake)[1:3] == [OURS, "0"]
    assert sync(agent, must_change_password=True).mended == []


def test_the_settings_age_is_the_hosts_and_is_taken_back(bed: tuple[Fake, Agent]) -> None:
    fake, agent = bed
    sync(agent)
    assert fields(fake)[4] == "9", "without the setting the account's own age stays"
    agent.password_days = 90
    assert sync(agent).mended == ["alice"] and fields(fake)[4] == "90"
    assert sync(agent).mended == []
    agent.password_days = 0
    assert sync(agent).mended == ["alice"] and fields(fake)[4] == "99999"
    password_fields.change_passwords(fake, {"alice": password_fields.Change(max_days=30)})
    assert sync(agent).mended == [] and fields(fake)[4] == "30", "root's own chage stays"


def test_demands_follow_the_wish_and_come_back(bed: tuple[Fake, Agent]) -> None:
    fake, agent = bed
    wish = {"networks": ["10.0.0.0/8"], "secret": SECRET, "last_step": int(time.time()) // 30}
    assert ensure(agent, **wish).changed
    assert agent.pam_files.read() == {"alice": Demands(("10.0.0.0/8",), SECRET)}
    assert f"{CODES_GROUP}:x:990:alice\n" in (fake.read("/etc/group") or "")
    assert sign_in.spend_step(agent, SpendStep("alice", wish["last_step"])) is False  # type: ignore[arg-type]
    assert sign_in.spend_step(agent, SpendStep("alice", wish["last_step"] + 1)) is True  # type: ignore[operator]
    assert sync(agent, **wish).mended == []
    fake.remove("/var/lib/diycloud/sign-in/access")
    assert sync(agent, **wish).mended == ["alice"]
    assert sync(agent).mended == ["alice"] and agent.pam_files.read() == {}
    assert f"{CODES_GROUP}:x:990:\n" in (fake.read("/etc/group") or "")


def test_an_empty_list_of_nobody_is_made_by_the_first_look(bed: tuple[Fake, Agent]) -> None:
    fake, agent = bed
    sync(agent)
    assert fake.read("/var/lib/diycloud/sign-in/access") == ""


@pytest.mark.parametrize(
    ("before", "after", "allowed"),
    [
        ({}, {"networks": ["10.0.0.0/8"], "secret": SECRET}, True),
        ({"networks": ["10.0.0.0/8"]}, {}, False),
        ({"networks": ["10.0.0.0/8"]}, {"networks": ["192.0.2.0/24"]}, False),
        ({"secret": SECRET}, {}, False),
        ({"secret": SECRET}, {"secret": "B" * 32}, False),
        ({"uncoded": True}, {"secret": SECRET}, True),
        ({"uncoded": True}, {}, False),
    ],
)
def test_of_an_administrator_the_server_asks_more_never_less(
    bed: tuple[Fake, Agent], before: dict[str, object], after: dict[str, object], allowed: bool
) -> None:
    _, agent = bed
    agent.administrators.store(["alice"])
    assert ensure(agent, caller=ROOT, **before).code == ""
    held = agent.pam_files.read()
    assert ensure(agent, **after).code == ("" if allowed else "permission-denied")
    assert (agent.pam_files.read() == held) is not allowed
    assert ensure(agent, caller=ROOT, **after).code == ""


def test_a_locked_account_keeps_what_is_asked_and_a_purge_takes_it(bed: tuple[Fake, Agent]) -> None:
    fake, agent = bed
    ensure(agent, shadow=OURS, secret=SECRET)
    fake.commands |= dict.fromkeys(("usermod -L -e 1970-01-02 alice", "userdel alice", "groupdel alice"), "")
    ensure(agent, secret=SECRET, state=State.LOCKED)
    assert agent.pam_files.read() == {"alice": Demands(secret=SECRET)}
    changes._remove(agent, agent.registry.entries["alice"])
    assert agent.pam_files.read() == {}
    assert agent.passwords.get("alice").fingerprint == "-"
